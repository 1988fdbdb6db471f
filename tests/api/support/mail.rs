//! A real SMTP server (aiosmtpd) that receives mails from servers in this process and in others.
//!
//! Invariant: if the SMTP server cannot be installed, the test that needs it fails. No test is skipped.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

/// The longest wait for a mail. A mail takes milliseconds, but the machine also runs other tests.
const MAIL_TIMEOUT: Duration = Duration::from_secs(60);

/// Installs the SMTP server on first use, and then replaces itself with the SMTP server.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/mail-server");

/// Held during the installation, so that two tests do not install the SMTP server at the same time.
static INSTALLING: Mutex<()> = Mutex::new(());

pub struct MailServer {
    port: u16,
    login: Option<&'static str>,
    child: Child,
    mails: mpsc::UnboundedReceiver<ReceivedMail>,
}

/// A mail as its recipient reads it.
#[derive(Clone, Debug)]
pub struct ReceivedMail {
    /// The sender and the only recipient in the SMTP dialogue.
    pub from: String,
    pub to: String,
    pub subject: String,
    /// Lines end with `\n`, except the last one.
    pub text: String,
    pub headers: Vec<(String, String)>,
    /// Bytes of the longest line in the SMTP dialogue.
    pub longest_line: u64,
}

impl ReceivedMail {
    /// The values of a header.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| &**value).collect()
    }
}

impl MailServer {
    /// Starts on a free port of 127.0.0.1. Every client may send.
    pub async fn start() -> Self {
        Self::start_on(0, None).await
    }

    /// Starts on a port. With `user:password`, only a client that logs in may send.
    pub async fn start_on(port: u16, login: Option<&'static str>) -> Self {
        let starting = tokio::task::spawn_blocking(move || {
            install();
            let mut command = Command::new(PROGRAM);
            command.arg(port.to_string()).args(login).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let first = lines.next().expect("the SMTP server did not start").unwrap();
            let port = serde_json::from_str::<Value>(&first).unwrap()["port"].as_u64().unwrap();
            (child, lines, u16::try_from(port).unwrap())
        });
        let (child, lines, port) = starting.await.unwrap();
        let (found, mails) = mpsc::unbounded_channel();
        std::thread::spawn(move || forward(lines, &found));
        Self { port, login, child, mails }
    }

    /// The value for `--smtp-url`.
    pub fn url(&self) -> String {
        let login = self.login.map(|login| format!("{login}@")).unwrap_or_default();
        format!("smtp://{login}127.0.0.1:{}", self.port)
    }

    /// The next mail. It may have arrived before this call.
    pub async fn next_mail(&mut self) -> ReceivedMail {
        let mail = tokio::time::timeout(MAIL_TIMEOUT, self.mails.recv()).await;
        mail.expect("no mail arrived").expect("the SMTP server ended")
    }

    /// Whether a mail has arrived that no call of `next_mail` has returned.
    pub fn has_mail(&self) -> bool {
        !self.mails.is_empty()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn install() {
    let _one_at_a_time = INSTALLING.lock().unwrap();
    let status = Command::new(PROGRAM).status().unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
    assert!(status.success(), "the SMTP server of the tests cannot be installed");
}

/// Forwards mails until the SMTP server ends.
fn forward(lines: Lines<BufReader<ChildStdout>>, found: &mpsc::UnboundedSender<ReceivedMail>) {
    for line in lines.map_while(Result::ok) {
        let line: Value = serde_json::from_str(&line).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        assert_eq!(line["to"].as_array().unwrap().len(), 1, "one mail, one recipient");
        let headers = line["headers"].as_array().unwrap().iter();
        let mail = ReceivedMail {
            from: text(&line["from"]),
            to: text(&line["to"][0]),
            subject: text(&line["subject"]),
            text: text(&line["text"]),
            headers: headers.map(|header| (text(&header[0]), text(&header[1]))).collect(),
            longest_line: line["longest_line"].as_u64().unwrap(),
        };
        // Sending fails if the test has already ended.
        drop(found.send(mail));
    }
}
