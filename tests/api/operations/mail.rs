//! Mail to a real SMTP server.

use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use posthaste::base::error::Error;
use posthaste::base::ids::Rng;
use posthaste::base::metrics::Metrics;
use posthaste::base::time::Clock;
use posthaste::config::{self, DataOptions, Secret, ServeOptions};
use posthaste::mail::{Mail, MailSettings, Mailer, QUEUE_LIMIT};

use crate::support::cluster::free_port;
use crate::support::mail::MailServer;

const LIMIT: Duration = Duration::from_secs(60);

fn start(url: &str) -> (Mailer, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let settings = MailSettings { url: url.into(), from: "Post Haste <posthaste@example.org>".into() };
    let mailer = Mailer::new(&settings, Clock::System, &Rng::System, Arc::clone(&metrics)).unwrap();
    let courier = mailer.clone();
    tokio::spawn(async move { courier.run().await });
    (mailer, metrics)
}

fn mail(to: &str, text: &str) -> Mail {
    Mail { to: to.into(), subject: "Ein neues Paßwort 🔑".into(), text: text.into() }
}

/// Captures log lines as long as its guard exists. It works only on a runtime with one thread.
#[derive(Clone, Default)]
struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let builder = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
        tracing::subscriber::set_default(builder.with_writer(move || log.clone()).finish())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    async fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.text().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not logged: {}", self.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_text_arrives_as_it_was_written() {
    let mut server = MailServer::start().await;
    let (mailer, metrics) = start(&server.url());
    let long = "x".repeat(5_000);
    let text = format!(
        "Grüße, 你好, 👋\n.\n..\n.dot\nFrom here\nblanks  \n{long}\nhttps://example.org/?a=b&c=%20\n\ttab \u{1} \u{85} bell \u{7}\n\nend"
    );
    mailer.send(mail("bugs@example.org", &text)).unwrap();
    let received = server.next_mail().await;
    assert_eq!(received.text, text);
    assert_eq!((&*received.from, &*received.to), ("posthaste@example.org", "bugs@example.org"));
    assert_eq!(received.subject, "Ein neues Paßwort 🔑");
    assert_eq!(received.header("from"), ["Post Haste <posthaste@example.org>"]);
    assert_eq!(received.header("to"), ["bugs@example.org"]);
    assert_eq!(received.header("auto-submitted"), ["auto-generated"]);
    for name in ["date", "message-id", "subject", "mime-version", "content-type"] {
        assert_eq!(received.header(name).len(), 1, "{name}: {:?}", received.headers);
    }
    assert!(received.longest_line <= 78, "{}", received.longest_line);

    mailer.send(mail("duck@example.org", "ASCII alone")).unwrap();
    assert_eq!(server.next_mail().await.text, "ASCII alone");
    mailer.send(mail("duck@example.org", "ends with a blank line\n\n")).unwrap();
    assert_eq!(server.next_mail().await.text, "ends with a blank line\n\n");
    mailer.close(LIMIT).await;
    let metrics = metrics.render().unwrap();
    assert!(metrics.contains("posthaste_mails_total{outcome=\"sent\"} 3\n"), "{metrics}");
    assert!(!server.has_mail());
}

#[tokio::test]
async fn a_mail_waits_for_the_smtp_server() {
    let port = free_port();
    let log = CapturedLog::default();
    let _guard = log.start();
    let (mailer, _) = start(&format!("smtp://127.0.0.1:{port}"));
    mailer.send(mail("bugs@example.org", "patience")).unwrap();
    mailer.send(mail("later@example.org", "more patience")).unwrap();
    log.wait_for("it is tried again").await;
    let mut server = MailServer::start_on(port, None).await;
    let mut texts = [server.next_mail().await.text, server.next_mail().await.text];
    texts.sort();
    assert_eq!(texts, ["more patience", "patience"]);
}

#[tokio::test]
async fn the_smtp_password_is_sent_and_not_logged() {
    let mut server = MailServer::start_on(0, Some("posthaste:canary-right")).await;
    let log = CapturedLog::default();
    let _guard = log.start();
    let (mailer, _) = start(&server.url());
    mailer.send(mail("bugs@example.org", "let in")).unwrap();
    assert_eq!(server.next_mail().await.text, "let in");

    let (mailer, metrics) = start(&server.url().replace("canary-right", "canary-wrong"));
    mailer.send(mail("canary-to@example.org", "canary-text")).unwrap();
    log.wait_for("a mail was given up").await;
    assert!(log.text().contains("the SMTP server answered 535"), "{}", log.text());
    assert!(!log.text().contains("canary"), "{}", log.text());
    let metrics = metrics.render().unwrap();
    assert!(metrics.contains("posthaste_mails_total{outcome=\"failed\"} 1\n"), "{metrics}");
    assert!(!server.has_mail());
}

#[tokio::test]
async fn a_refused_recipient_is_not_tried_again() {
    let mut server = MailServer::start().await;
    let log = CapturedLog::default();
    let _guard = log.start();
    let (mailer, _) = start(&server.url());
    // The SMTP server repeats the email address in its refusal. The log must not contain the address.
    mailer.send(mail("never-canary@example.org", "canary-text")).unwrap();
    mailer.send(mail("later-canary@example.org", "second try")).unwrap();
    mailer.send(mail("duck@example.org", "not held up")).unwrap();
    assert_eq!(server.next_mail().await.text, "not held up");
    assert_eq!(server.next_mail().await.text, "second try");
    log.wait_for("a mail was given up").await;
    assert!(log.text().contains("the SMTP server answered 550"), "{}", log.text());
    assert!(!log.text().contains("canary") && !log.text().contains("Paßwort"), "{}", log.text());
    assert!(!server.has_mail());
}

#[tokio::test]
async fn a_full_queue_refuses_mail() {
    let (mailer, _) = start(&format!("smtp://127.0.0.1:{}", free_port()));
    for _ in 0..QUEUE_LIMIT {
        mailer.send(mail("bugs@example.org", "waits")).unwrap();
    }
    let error = mailer.send(mail("bugs@example.org", "one too many")).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn closing_sends_waiting_mail() {
    let mut server = MailServer::start().await;
    let (mailer, _) = start(&server.url());
    for number in 0..10 {
        mailer.send(mail("bugs@example.org", &number.to_string())).unwrap();
    }
    mailer.close(LIMIT).await;
    for number in 0..10 {
        assert_eq!(server.next_mail().await.text, number.to_string());
    }
    let error = mailer.clone().send(mail("bugs@example.org", "too late")).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    mailer.close(LIMIT).await;
}

#[tokio::test]
async fn closing_does_not_exceed_its_time_limit() {
    // Connects to an SMTP server that accepts connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mailer, metrics) = start(&format!("smtp://{}", silent.local_addr().unwrap()));
    for _ in 0..3 {
        mailer.send(mail("bugs@example.org", "lost")).unwrap();
    }
    let begun = Instant::now();
    mailer.close(Duration::from_millis(100)).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let metrics = metrics.render().unwrap();
    assert!(metrics.contains("posthaste_mails_total{outcome=\"failed\"} 3\n"), "{metrics}");

    // If no SMTP server listens, `close` returns without waiting.
    let (mailer, _) = start(&format!("smtp://127.0.0.1:{}", free_port()));
    mailer.send(mail("bugs@example.org", "lost")).unwrap();
    mailer.close(LIMIT).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn mail_needs_a_server_and_a_sender() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("posthaste.toml");
    let decide = |text: &str, url: Option<&str>, from: Option<&str>| {
        std::fs::write(&file, text).unwrap();
        let data = DataOptions { config: Some(file.clone()), ..DataOptions::default() };
        let url = url.map(|url| Secret(url.into()));
        let options = ServeOptions { smtp_url: url, mail_from: from.map(Into::into), ..ServeOptions::default() };
        assert!(!format!("{options:?}").contains("canary"));
        config::serve(&data, options).map(|(config, _)| {
            assert!(!format!("{config:?}").contains("canary"));
            config.settings.mail.map(|mail| (mail.url, mail.from))
        })
    };
    let (url, from) = ("smtp://u:canary@localhost", "a@example.org");
    let both = Ok(Some((url.to_owned(), from.to_owned())));
    assert_eq!(decide("", None, None), Ok(None));
    assert_eq!(decide("", Some(url), Some(from)), both);
    assert_eq!(decide(&format!("smtp_url = {url:?}\nmail_from = {from:?}"), None, None), both);
    assert_eq!(decide("smtp_url = \"smtp://other\"\nmail_from = \"b@example.org\"", Some(url), Some(from)), both);
    assert!(decide("", Some(url), None).unwrap_err().starts_with("--smtp-url needs --mail-from"));
    assert!(
        decide("mail_from = \"a@example.org\"", None, None).unwrap_err().starts_with("--mail-from needs --smtp-url")
    );
    let mut help = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    help.args(["serve", "--help"]).env("POSTHASTE_SMTP_URL", url).env("POSTHASTE_MAIL_FROM", from);
    let help = String::from_utf8(help.output().unwrap().stdout).unwrap();
    for text in ["--smtp-url <URL>", "[env: POSTHASTE_SMTP_URL]", "--mail-from <ADDRESS>", "POSTHASTE_MAIL_FROM"] {
        assert!(help.contains(text), "{text}: {help}");
    }
    assert!(!help.contains("canary"));
}
