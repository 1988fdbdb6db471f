//! Mail: a bounded queue, and one task that sends the mails in it to an SMTP server.
//!
//! If that task fails, the mails in the queue remain, and the restarted task continues with them. Each attempt to deliver a mail
//! runs in a task of its own, so that a failure of the sending task neither interrupts nor repeats the attempt.
//!
//! Invariants:
//! - [`Mailer::send`] returns immediately and never waits for the SMTP server.
//! - Except to a loopback address, no mail and no password is sent over an unencrypted connection.
//! - Text that a caller chose (address, subject, text) cannot add a header, a recipient or an SMTP command. Neither that text, nor
//!   the password, nor the text of an SMTP answer is logged.
//! - The queue is in memory, so its mails are lost with the process. Only mails that a user can request again may be sent here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use lettre::address::Envelope;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, Message};
use percent_encoding::percent_decode_str;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::Rng;
use crate::base::metrics::Metrics;
use crate::base::request_id::RequestIds;
use crate::base::tasks::{self, PanicPoint};
use crate::base::time::Clock;

/// The name of the task that sends mails.
pub const TASK: &str = "mail";
/// Maximum number of mails that wait, including those that wait for another attempt.
pub const QUEUE_LIMIT: usize = 1_000;
/// The longest address, in bytes (RFC 5321, section 4.5.3.1.3).
pub const ADDRESS_LIMIT_BYTES: usize = 254;
/// The longest subject, in characters.
pub const SUBJECT_LIMIT: usize = 200;
/// The longest text, in bytes.
pub const TEXT_LIMIT_BYTES: usize = 64 << 10;

/// How long one step of a delivery may take: connecting, STARTTLS, logging in, or transferring the mail.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long QUIT may take. It is short because the SMTP server has already accepted the mail.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);
/// The age of a mail, counted from when it was accepted, after which no new attempt to send it starts.
const RETRY_LIMIT: Duration = Duration::from_secs(600);
/// The pause after the first failed attempt. Each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The default port for `smtp://`: message submission (RFC 6409).
const SUBMISSION_PORT: u16 = 587;
/// The default port for `smtps://`: message submission with TLS from the first byte (RFC 8314).
const SUBMISSIONS_PORT: u16 = 465;

/// The operator's settings for mail.
#[derive(Clone)]
pub struct MailSettings {
    /// `smtp://user:password@host:port`, encrypted with STARTTLS unless the host is a loopback address, or `smtps://…`, with TLS
    /// from the first byte. User, password and port are optional. The default ports are 587 and 465.
    pub url: String,
    /// The sender: `address@example.org`, or `Name <address@example.org>`.
    pub from: String,
}

impl fmt::Debug for MailSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MailSettings").field("url", &"…").field("from", &self.from).finish()
    }
}

/// One mail. It does not implement `Debug`, because its text may contain a code that gives access to an account.
#[derive(Clone)]
pub struct Mail {
    /// The recipient's address, ASCII, at most [`ADDRESS_LIMIT_BYTES`].
    pub to: String,
    /// At most [`SUBJECT_LIMIT`] characters, no control characters.
    pub subject: String,
    /// Plain text, at most [`TEXT_LIMIT_BYTES`]. Lines end with `\n`.
    pub text: String,
}

/// Sends mails through an SMTP server. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    inner: Arc<Inner>,
}

struct Inner {
    from: Mailbox,
    clock: Clock,
    ids: RequestIds,
    /// One permit for each mail that may still be queued, [`QUEUE_LIMIT`] in all.
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    queue: mpsc::Sender<QueuedMail>,
    phase: watch::Sender<Phase>,
    /// Locked by the task that sends mails.
    dispatcher: Mutex<Dispatcher>,
}

/// Whether mails are accepted, and how often those in the queue are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A mail is tried until [`RETRY_LIMIT`] is over.
    Open,
    /// Each mail is tried once more, without a pause. No new mail is accepted.
    Closing,
    /// No mail is sent any more. Each mail that was still in the queue has been counted as failed.
    Closed,
}

impl Mailer {
    /// A mailer with an empty queue. No mail is sent before [`run`](Self::run).
    ///
    /// # Errors
    /// A sentence for the operator, which does not contain the password.
    pub fn new(
        settings: &MailSettings,
        clock: Clock,
        rng: &Rng,
        metrics: Arc<Metrics>,
    ) -> std::result::Result<Self, String> {
        let from = sender(&settings.from)?;
        let server = SmtpServer::parse(&settings.url, &from)?;
        let ids =
            RequestIds::new(rng).map_err(|error| format!("cannot read random bytes for the ids of mails: {error}"))?;
        let (queue, queued) = mpsc::channel(QUEUE_LIMIT);
        let (phase, _) = watch::channel(Phase::Open);
        let inner = Inner {
            from,
            clock,
            ids,
            permits: Arc::new(Semaphore::new(QUEUE_LIMIT)),
            metrics: Arc::clone(&metrics),
            queue,
            dispatcher: Mutex::new(Dispatcher::new(server, metrics, queued, phase.subscribe())),
            phase,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Sends mails until [`close`](Self::close) has ended or the returned future is dropped.
    pub async fn run(&self) {
        let mut dispatcher = self.inner.dispatcher.lock().await;
        dispatcher.run().await;
    }

    /// Queues a mail. The mail is sent later. If that does not succeed within 10 minutes, the mail is given up, and only the log
    /// and the metric `posthaste_mails` show this. A mail can arrive twice, if the SMTP server accepted it but its answer was lost.
    /// Both copies have the same Message-ID. While the task that sends mails is restarted, mails are accepted and wait.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a field of the mail is not valid; [`Error::Unavailable`] if too many mails wait, or after
    /// [`Mailer::close`].
    pub fn send(&self, mail: Mail) -> Result<()> {
        let message = self.inner.encode(mail)?;
        // This read lock is held until the end of the function. So `close` changes the phase either before the lock is taken or
        // after the mail is queued.
        let phase = self.inner.phase.borrow();
        if *phase != Phase::Open {
            return Err(Error::unavailable("the server is stopping and accepts no more mail"));
        }
        let Ok(permit) = Arc::clone(&self.inner.permits).try_acquire_owned() else {
            return Err(Error::unavailable("too many mails are waiting"));
        };
        let mail = QueuedMail { message, accepted_at: Instant::now(), failures: 0, _permit: permit };
        // The channel has room for all mails that have a permit.
        self.inner
            .queue
            .try_send(mail)
            .map_err(|_| Error::internal("the queue of mails is full although a permit was free"))
    }

    /// Accepts no more mails, tries each mail that waits once more without a pause, and gives up those that are not sent within
    /// `limit`. A second call returns immediately.
    pub async fn close(&self, limit: Duration) {
        let is_first_call = self.inner.phase.send_if_modified(|phase| {
            let is_open = *phase == Phase::Open;
            if is_open {
                *phase = Phase::Closing;
            }
            is_open
        });
        if !is_first_call {
            return;
        }
        // A mail returns its permit when it is sent or given up.
        drop(timeout(limit, self.inner.permits.acquire_many(QUEUE_LIMIT as u32)).await);
        let mut count = 0;
        self.inner.phase.send_modify(|phase| {
            *phase = Phase::Closed;
            count = QUEUE_LIMIT - self.inner.permits.available_permits();
        });
        if count > 0 {
            self.inner.metrics.mails("failed").inc_by(count as u64);
            tracing::warn!(count, "mails were given up: they were not sent before the server stopped");
        }
    }
}

impl Inner {
    fn encode(&self, mail: Mail) -> Result<EncodedMail> {
        let mut errors = Vec::new();
        let to = address(&mail.to);
        if to.is_none() {
            errors.push(FieldError::new("to", "invalid_address", "must be an email address"));
        }
        if mail.subject.chars().any(char::is_control) || mail.subject.chars().count() > SUBJECT_LIMIT {
            errors.push(FieldError::new("subject", "wrong_value", "must be one line of at most 200 characters"));
        }
        if mail.text.len() > TEXT_LIMIT_BYTES {
            errors.push(FieldError::new("text", "too_long", "must have at most 65536 bytes"));
        }
        let Some(to) = to.filter(|_| errors.is_empty()) else { return Err(Error::Invalid(errors)) };
        // Quoted-printable can hold every text: any character, lines of any length, and spaces at the end of a line.
        let text = mail.text.replace("\r\n", "\n");
        let body = Body::new_with_encoding(text, ContentTransferEncoding::QuotedPrintable)
            .map_err(|_| Error::internal("the text of a mail cannot be encoded as quoted-printable"))?;
        let now = u64::try_from(self.clock.now().micros()).unwrap_or(0);
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.clone()]).map_err(Error::internal)?;
        let message = Message::builder()
            .envelope(envelope.clone())
            .date(UNIX_EPOCH + Duration::from_micros(now))
            .message_id(Some(format!("<{}@{}>", self.ids.next(), self.from.email.domain())))
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(mail.subject)
            // RFC 3834: asks programs not to answer this mail automatically.
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
            .singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(body))
            .map_err(Error::internal)?;
        let mut bytes = message.formatted();
        // SMTP ends a mail with CRLF, a full stop and CRLF. The first CRLF also ends the last line of the mail. If that line had a
        // CRLF of its own, the mail would end with an empty line.
        if bytes.ends_with(b"\r\n") {
            bytes.truncate(bytes.len() - 2);
        }
        Ok(EncodedMail { envelope, bytes })
    }
}

/// A mail in the form in which SMTP transfers it.
struct EncodedMail {
    envelope: Envelope,
    bytes: Vec<u8>,
}

/// A mail that waits to be sent.
struct QueuedMail {
    message: EncodedMail,
    accepted_at: Instant,
    /// Failed attempts so far.
    failures: u32,
    /// The permit of the mail, returned when the mail is sent or given up.
    _permit: OwnedSemaphorePermit,
}

impl QueuedMail {
    /// The time of the next attempt after `failures` failed ones; `None` if it would be later than [`RETRY_LIMIT`] allows.
    fn next_attempt(&self, now: Instant) -> Option<Instant> {
        let next = now + pause_after(self.failures);
        (next.duration_since(self.accepted_at) <= RETRY_LIMIT).then_some(next)
    }
}

fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
}

/// Sends one mail at a time, the one that is due first.
struct Dispatcher {
    server: Arc<SmtpServer>,
    metrics: Arc<Metrics>,
    queue: mpsc::Receiver<QueuedMail>,
    phase: watch::Receiver<Phase>,
    /// Mails by the time of their next attempt. The number distinguishes mails with the same time.
    due: BTreeMap<(Instant, u64), QueuedMail>,
    /// The last number used in `due`.
    last_number: u64,
    /// Whether the last attempt failed for a temporary reason. The log says so once, not for each mail.
    is_failing: bool,
    /// Whether an attempt is running.
    is_delivering: bool,
    /// The task of an attempt sends the attempt back through this channel.
    ended: mpsc::Sender<Attempt>,
    attempts: mpsc::Receiver<Attempt>,
}

impl Dispatcher {
    fn new(
        server: SmtpServer,
        metrics: Arc<Metrics>,
        queue: mpsc::Receiver<QueuedMail>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let (ended, attempts) = mpsc::channel(1);
        Self {
            server: Arc::new(server),
            metrics,
            queue,
            phase,
            due: BTreeMap::new(),
            last_number: 0,
            is_failing: false,
            is_delivering: false,
            ended,
            attempts,
        }
    }

    async fn run(&mut self) {
        loop {
            let phase = *self.phase.borrow_and_update();
            if phase == Phase::Closed {
                return;
            }
            let next = self.due.first_key_value().map(|((at, _), _)| *at);
            if !self.is_delivering
                && next.is_some_and(|at| phase == Phase::Closing || at <= Instant::now())
                && let Some((_, mail)) = self.due.pop_first()
            {
                self.start(mail, phase);
                continue;
            }
            // No channel closes, because `self` and `Inner` hold the senders.
            tokio::select! {
                Some(mail) = self.queue.recv() => self.schedule(Instant::now(), mail),
                Some(attempt) = self.attempts.recv() => {
                    self.is_delivering = false;
                    self.finish(attempt);
                }
                Ok(()) = self.phase.changed() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() && !self.is_delivering => {}
            }
        }
    }

    /// Starts an attempt in a task of its own.
    fn start(&mut self, mail: QueuedMail, phase: Phase) {
        if mail.accepted_at.elapsed() > RETRY_LIMIT {
            return self.give_up(mail, "it waited for too long");
        }
        self.is_delivering = true;
        let (server, mut current) = (Arc::clone(&self.server), self.phase.clone());
        let failure = Failure { is_permanent: false, reason: "the delivery panicked".to_owned() };
        let attempt = Attempt { mail, outcome: Err(failure), is_last: phase != Phase::Open };
        let mut guard = AttemptGuard { attempt: Some(attempt), ended: self.ended.clone() };
        tasks::panic_point(PanicPoint::MailTaken);
        tasks::spawn("mail-delivery", async move {
            let Some(attempt) = &mut guard.attempt else { return };
            tokio::select! {
                outcome = server.deliver(&attempt.mail.message) => attempt.outcome = outcome,
                _ = current.wait_for(|phase| *phase == Phase::Closed) => {}
            }
        });
    }

    fn schedule(&mut self, at: Instant, mail: QueuedMail) {
        self.last_number += 1;
        self.due.insert((at, self.last_number), mail);
    }

    /// Handles the outcome of an attempt. After a temporary failure the mail waits for its next attempt, unless this was the last.
    fn finish(&mut self, attempt: Attempt) {
        let Attempt { mut mail, outcome, is_last } = attempt;
        let failure = match outcome {
            Ok(()) => {
                self.is_failing = false;
                self.end(mail, "sent");
                return;
            }
            Err(failure) => failure,
        };
        mail.failures += 1;
        if failure.is_permanent {
            return self.give_up(mail, &failure.reason);
        }
        match mail.next_attempt(Instant::now()).filter(|_| !is_last) {
            Some(at) => {
                if !self.is_failing {
                    tracing::warn!(reason = failure.reason, "a mail could not be sent; it is tried again");
                }
                self.is_failing = true;
                self.schedule(at, mail);
            }
            None => self.give_up(mail, &failure.reason),
        }
    }

    fn give_up(&self, mail: QueuedMail, reason: &str) {
        if self.end(mail, "failed") {
            tracing::warn!(reason, "a mail was given up");
        }
    }

    /// Counts a mail that was sent or given up, and returns its permit. Returns false if [`Mailer::close`] has already counted it.
    fn end(&self, mail: QueuedMail, outcome: &'static str) -> bool {
        // `close` counts the permits in use under the write lock of `phase`. It cannot do so while this read lock is held, so each
        // mail is counted exactly once.
        let phase = self.phase.borrow();
        let is_counted = *phase == Phase::Closed;
        if !is_counted {
            self.metrics.mails(outcome).inc();
        }
        drop(mail);
        !is_counted
    }
}

/// One attempt to deliver a mail.
struct Attempt {
    mail: QueuedMail,
    outcome: std::result::Result<(), Failure>,
    /// Whether no other attempt follows.
    is_last: bool,
}

/// Sends an attempt back to the [`Dispatcher`] when the task of the attempt ends, even if it panics.
struct AttemptGuard {
    attempt: Option<Attempt>,
    ended: mpsc::Sender<Attempt>,
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            // The channel has room, because only one attempt runs at a time.
            drop(self.ended.try_send(attempt));
        }
    }
}

/// Why an attempt failed.
struct Failure {
    is_permanent: bool,
    /// For the log. The text is from this program or the operating system, never from the SMTP server, which may repeat an address.
    reason: String,
}

impl Failure {
    fn of(error: &lettre::transport::smtp::Error) -> Self {
        let source = || std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        let reason = if let Some(status) = error.status() {
            format!("the SMTP server answered {status}")
        } else if error.is_response() {
            "the answer of the SMTP server was incomplete or not SMTP".to_owned()
        } else if error.is_tls() {
            format!("TLS: {}", source())
        } else {
            source()
        };
        // `is_client`: the SMTP client itself refuses, because the server offers no STARTTLS or no usable way to log in. Another
        // attempt would fail too.
        Self { is_permanent: error.is_permanent() || error.is_client(), reason }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    None,
    StartTls,
    Implicit,
}

/// How to reach the SMTP server.
struct SmtpServer {
    host: String,
    port: u16,
    encryption: Encryption,
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
    /// The name for EHLO.
    hello: ClientId,
}

impl SmtpServer {
    /// Reads the operator's URL. Errors do not repeat the URL, because it contains the password.
    fn parse(url: &str, from: &Mailbox) -> std::result::Result<Self, String> {
        let parsed = url::Url::parse(url).map_err(|error| {
            format!("--smtp-url is not a URL ({error}); percent-encode special characters in the password")
        })?;
        if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err("--smtp-url must end after the port; percent-encode / ? and # in the password".into());
        }
        let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        if host.is_empty() {
            return Err("--smtp-url must contain a host".into());
        }
        let (encryption, default_port) = match parsed.scheme() {
            "smtps" => (Encryption::Implicit, SUBMISSIONS_PORT),
            // Other machines cannot read a loopback connection, and local servers rarely have a certificate.
            "smtp" if is_loopback(&host) => (Encryption::None, SUBMISSION_PORT),
            "smtp" => (Encryption::StartTls, SUBMISSION_PORT),
            _ => return Err("--smtp-url must begin with smtp:// or smtps://".into()),
        };
        let tls = match encryption {
            Encryption::None => None,
            _ => Some(
                TlsParameters::new(host.clone())
                    .map_err(|error| format!("--smtp-url: TLS cannot be set up: {error}"))?,
            ),
        };
        Ok(Self {
            port: parsed.port().unwrap_or(default_port),
            encryption,
            tls,
            credentials: credentials(&parsed)?,
            hello: ClientId::Domain(from.email.domain().to_owned()),
            host,
        })
    }

    /// Makes one attempt, over a new connection.
    async fn deliver(&self, mail: &EncodedMail) -> std::result::Result<(), Failure> {
        let address = (self.host.as_str(), self.port);
        let implicit = self.tls.clone().filter(|_| self.encryption == Encryption::Implicit);
        let connecting = AsyncSmtpConnection::connect_tokio1(address, Some(STEP_TIMEOUT), &self.hello, implicit, None);
        let mut connection = step(connecting).await?;
        if self.encryption == Encryption::StartTls
            && let Some(tls) = &self.tls
        {
            // Fails if the server does not offer STARTTLS. No secret has been sent at this point.
            step(connection.starttls(tls.clone(), &self.hello)).await?;
        }
        if let Some(credentials) = &self.credentials {
            step(connection.auth(DEFAULT_MECHANISMS, credentials)).await?;
        }
        step(connection.send(&mail.envelope, &mail.bytes)).await?;
        drop(timeout(QUIT_TIMEOUT, connection.quit()).await);
        Ok(())
    }
}

/// Limits one step of a delivery to [`STEP_TIMEOUT`].
async fn step<T>(
    work: impl Future<Output = std::result::Result<T, lettre::transport::smtp::Error>>,
) -> std::result::Result<T, Failure> {
    match timeout(STEP_TIMEOUT, work).await {
        Ok(outcome) => outcome.map_err(|error| Failure::of(&error)),
        Err(_) => {
            Err(Failure { is_permanent: false, reason: format!("no answer within {} s", STEP_TIMEOUT.as_secs()) })
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn credentials(url: &url::Url) -> std::result::Result<Option<Credentials>, String> {
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().ok()?;
        (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.into_owned())
    };
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    match (decode(url.username()), url.password().and_then(decode)) {
        (Some(user), Some(password)) => Ok(Some(Credentials::new(user, password))),
        _ => {
            Err("--smtp-url must contain both a user and a password, or neither; both in UTF-8 and percent-encoded"
                .into())
        }
    }
}

fn sender(text: &str) -> std::result::Result<Mailbox, String> {
    let mailbox = Some(text).filter(|text| !text.chars().any(char::is_control)).and_then(|text| text.parse().ok());
    mailbox.filter(|mailbox: &Mailbox| address(mailbox.email.as_ref()).is_some()).ok_or_else(|| {
        "--mail-from must be an address such as posthaste@example.org, or Name <posthaste@example.org>".into()
    })
}

/// Whether a mail can be sent to this address.
pub fn is_address(text: &str) -> bool {
    address(text).is_some()
}

/// Parses an address that can be put unchanged into an SMTP command and into a header. Accepts what RFC 5321 allows, except quoted
/// local parts with spaces, angle brackets or control characters.
fn address(text: &str) -> Option<Address> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>'));
    if plain && text.len() <= ADDRESS_LIMIT_BYTES { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
