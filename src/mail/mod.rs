//! Mail: a bounded queue, and one task that hands what is in it to an SMTP server.
//!
//! Mails that wait outlive that task: a task that is started again goes on with them. Each delivery runs in a task of its
//! own, so that one under way ends once, with or without the other task.
//!
//! Invariants: sending answers at once and never waits for the SMTP server. Beyond loopback nothing, least of all the
//! password, goes over an unencrypted connection. What a caller chose (address, subject, text) stays inside its field of
//! the mail, and neither it, nor the password, nor the words of an SMTP server are ever logged. The queue is in memory: what
//! is in it is lost with the process, so only mails that somebody can ask for again belong here.

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

/// The name of the task that delivers.
pub const TASK: &str = "mail";
/// Mails that may wait, those that are tried again included.
pub const QUEUE_LIMIT: usize = 1_000;
/// Bytes of an address (RFC 5321, 4.5.3.1.3).
pub const ADDRESS_LIMIT_BYTES: usize = 254;
/// Characters of a subject.
pub const SUBJECT_LIMIT: usize = 200;
/// Bytes of a text.
pub const TEXT_LIMIT_BYTES: usize = 64 << 10;

/// How long one step of a delivery may take: connecting, STARTTLS, logging in, handing over.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the farewell to an SMTP server may take: the mail is its business by then.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a mail is kept and tried again.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The port of submission (RFC 6409).
const SUBMISSION_PORT: u16 = 587;
/// The port of submission over TLS from the first byte (RFC 8314).
const SUBMISSIONS_PORT: u16 = 465;

/// What the operator says about mail.
#[derive(Clone)]
pub struct MailSettings {
    /// `smtp://user:password@host:port`, encrypted by STARTTLS unless the host is loopback; or `smtps://…`, TLS from the
    /// first byte. User, password and port may be left out; the ports are 587 and 465 then.
    pub url: String,
    /// The sender: `address@example.org`, or `Name <address@example.org>`.
    pub from: String,
}

impl fmt::Debug for MailSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MailSettings").field("url", &"…").field("from", &self.from).finish()
    }
}

/// One mail. It has no `Debug`: its text may let somebody in.
#[derive(Clone)]
pub struct Mail {
    /// The recipient's address, ASCII, at most [`ADDRESS_LIMIT_BYTES`].
    pub to: String,
    /// At most [`SUBJECT_LIMIT`] characters, no control characters.
    pub subject: String,
    /// Plain text, at most [`TEXT_LIMIT_BYTES`]; lines end with `\n`.
    pub text: String,
}

/// The way out. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    inner: Arc<Inner>,
}

struct Inner {
    from: Mailbox,
    clock: Clock,
    ids: RequestIds,
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    queue: mpsc::Sender<Waiting>,
    phase: watch::Sender<Phase>,
    /// Locked by the task that delivers.
    courier: Mutex<Courier>,
}

/// What becomes of the mails that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// They are tried again until they are too old.
    Open,
    /// Each is tried once more, at once; no other mail is taken.
    Closing,
    /// None leaves any more, and each that still had its place has been counted as given up.
    Closed,
}

impl Mailer {
    /// An empty queue. Nothing leaves it before [`run`](Self::run).
    ///
    /// # Errors
    /// A sentence for the operator, without the password.
    pub fn new(
        settings: &MailSettings,
        clock: Clock,
        rng: &Rng,
        metrics: Arc<Metrics>,
    ) -> std::result::Result<Self, String> {
        let from = sender(&settings.from)?;
        let server = Server::parse(&settings.url, &from)?;
        let ids = RequestIds::new(rng).map_err(|error| format!("no randomness for the ids of mails: {error}"))?;
        let (queue, waiting) = mpsc::channel(QUEUE_LIMIT);
        let (phase, _) = watch::channel(Phase::Open);
        let inner = Inner {
            from,
            clock,
            ids,
            places: Arc::new(Semaphore::new(QUEUE_LIMIT)),
            metrics: Arc::clone(&metrics),
            queue,
            courier: Mutex::new(Courier::new(server, metrics, waiting, phase.subscribe())),
            phase,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Delivers for as long as it is polled, or until [`close`](Self::close) has ended.
    pub async fn run(&self) {
        let mut courier = self.inner.courier.lock().await;
        courier.run().await;
    }

    /// Takes a mail and returns at once. It leaves later, or is given up after 10 minutes; nobody is told but the log and
    /// `posthaste_mails`. It can arrive twice, when an SMTP server took it and did not get to say so; both have one
    /// Message-ID.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what cannot stand in a mail; [`Error::Unavailable`] when too many wait, or after
    /// [`Mailer::close`]. A mail also waits while the task that delivers is restarted.
    pub fn send(&self, mail: Mail) -> Result<()> {
        let letter = self.inner.letter(mail)?;
        // Held to the end, so that `close` begins before this mail has a place or after it is in the queue.
        let phase = self.inner.phase.borrow();
        if *phase != Phase::Open {
            return Err(Error::unavailable("mail is closed"));
        }
        let Ok(place) = Arc::clone(&self.inner.places).try_acquire_owned() else {
            return Err(Error::unavailable("too many mails are waiting"));
        };
        let waiting = Waiting { letter, accepted: Instant::now(), failures: 0, _place: place };
        // It has room: each mail in it has a place.
        self.inner.queue.try_send(waiting).map_err(|_| Error::internal("the queue of mails has no room"))
    }

    /// Takes nothing more, tries everything that waits once more without its pause, and gives up what has not left after
    /// `limit`. A second call returns at once.
    pub async fn close(&self, limit: Duration) {
        let begins = self.inner.phase.send_if_modified(|phase| {
            let is_open = *phase == Phase::Open;
            if is_open {
                *phase = Phase::Closing;
            }
            is_open
        });
        if !begins {
            return;
        }
        // A mail gives its place back when it has left or is given up.
        drop(timeout(limit, self.inner.places.acquire_many(QUEUE_LIMIT as u32)).await);
        let mut count = 0;
        self.inner.phase.send_modify(|phase| {
            *phase = Phase::Closed;
            count = QUEUE_LIMIT - self.inner.places.available_permits();
        });
        if count > 0 {
            self.inner.metrics.mails("failed").inc_by(count as u64);
            tracing::warn!(count, "mails were given up: they had not left before the end");
        }
    }
}

impl Inner {
    fn letter(&self, mail: Mail) -> Result<Letter> {
        let mut wrong = Vec::new();
        let to = address(&mail.to);
        if to.is_none() {
            wrong.push(FieldError::new("to", "invalid_address", "must be an email address"));
        }
        if mail.subject.chars().any(char::is_control) || mail.subject.chars().count() > SUBJECT_LIMIT {
            wrong.push(FieldError::new("subject", "invalid_subject", "must be one line of at most 200 characters"));
        }
        if mail.text.len() > TEXT_LIMIT_BYTES {
            wrong.push(FieldError::new("text", "too_long", "must have at most 65536 bytes"));
        }
        let Some(to) = to.filter(|_| wrong.is_empty()) else { return Err(Error::Invalid(wrong)) };
        // Quoted-printable holds every text: any character, any length of a line, spaces at a line's end.
        let text = mail.text.replace("\r\n", "\n");
        let body = Body::new_with_encoding(text, ContentTransferEncoding::QuotedPrintable)
            .map_err(|_| Error::internal("a mail's text has no encoding"))?;
        let now = u64::try_from(self.clock.now().micros()).unwrap_or(0);
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.clone()]).map_err(Error::internal)?;
        let message = Message::builder()
            .envelope(envelope.clone())
            .date(UNIX_EPOCH + Duration::from_micros(now))
            .message_id(Some(format!("<{}@{}>", self.ids.next(), self.from.email.domain())))
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(mail.subject)
            // RFC 3834: no answer by a machine is wanted.
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
            .singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(body))
            .map_err(Error::internal)?;
        let mut bytes = message.formatted();
        // What ends the mail over the wire ends its last line too: without this, a blank line would be added.
        if bytes.ends_with(b"\r\n") {
            bytes.truncate(bytes.len() - 2);
        }
        Ok(Letter { envelope, bytes })
    }
}

/// A mail as it goes over the wire.
struct Letter {
    envelope: Envelope,
    bytes: Vec<u8>,
}

struct Waiting {
    letter: Letter,
    accepted: Instant,
    failures: u32,
    /// Its place among [`QUEUE_LIMIT`], given back when the mail has left or is given up.
    _place: OwnedSemaphorePermit,
}

impl Waiting {
    /// When to try again after `failures`; `None` when that would be too late.
    fn next_try(&self, now: Instant) -> Option<Instant> {
        let next = now + pause_after(self.failures);
        (next.duration_since(self.accepted) <= KEPT_FOR).then_some(next)
    }
}

fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
}

/// Sends one mail at a time, whichever is due first.
struct Courier {
    server: Arc<Server>,
    metrics: Arc<Metrics>,
    queue: mpsc::Receiver<Waiting>,
    phase: watch::Receiver<Phase>,
    /// By the moment of the next try; the number keeps two of one moment apart.
    due: BTreeMap<(Instant, u64), Waiting>,
    count: u64,
    /// Whether the last try failed for a reason that should pass: said once, not for each mail.
    trouble: bool,
    /// Whether a mail is being delivered.
    delivering: bool,
    ended: mpsc::Sender<Attempt>,
    attempts: mpsc::Receiver<Attempt>,
}

impl Courier {
    fn new(
        server: Server,
        metrics: Arc<Metrics>,
        queue: mpsc::Receiver<Waiting>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let (ended, attempts) = mpsc::channel(1);
        Self {
            server: Arc::new(server),
            metrics,
            queue,
            phase,
            due: BTreeMap::new(),
            count: 0,
            trouble: false,
            delivering: false,
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
            if !self.delivering
                && next.is_some_and(|at| phase == Phase::Closing || at <= Instant::now())
                && let Some((_, waiting)) = self.due.pop_first()
            {
                self.start(waiting, phase);
                continue;
            }
            // No channel closes: whoever could send is kept here or in the queue.
            tokio::select! {
                Some(waiting) = self.queue.recv() => self.wait_until(Instant::now(), waiting),
                Some(attempt) = self.attempts.recv() => {
                    self.delivering = false;
                    self.settle(attempt);
                }
                Ok(()) = self.phase.changed() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() && !self.delivering => {}
            }
        }
    }

    /// Tries once, in a task of its own.
    fn start(&mut self, waiting: Waiting, phase: Phase) {
        if waiting.accepted.elapsed() > KEPT_FOR {
            return self.give_up(waiting, "it waited for too long");
        }
        self.delivering = true;
        let (server, mut current) = (Arc::clone(&self.server), self.phase.clone());
        let failure = Failure { permanent: false, reason: "the delivery panicked".to_owned() };
        let attempt = Attempt { waiting, outcome: Err(failure), is_last: phase != Phase::Open };
        let mut under_way = UnderWay { attempt: Some(attempt), ended: self.ended.clone() };
        tasks::panic_point(PanicPoint::MailTaken);
        tasks::spawn("mail-delivery", async move {
            let Some(attempt) = &mut under_way.attempt else { return };
            tokio::select! {
                outcome = server.deliver(&attempt.waiting.letter) => attempt.outcome = outcome,
                _ = current.wait_for(|phase| *phase == Phase::Closed) => {}
            }
        });
    }

    fn wait_until(&mut self, at: Instant, waiting: Waiting) {
        self.count += 1;
        self.due.insert((at, self.count), waiting);
    }

    /// What failed for now waits for its next try, unless it was the last.
    fn settle(&mut self, attempt: Attempt) {
        let Attempt { mut waiting, outcome, is_last } = attempt;
        let failure = match outcome {
            Ok(()) => {
                self.trouble = false;
                self.end(waiting, "sent");
                return;
            }
            Err(failure) => failure,
        };
        waiting.failures += 1;
        if failure.permanent {
            return self.give_up(waiting, &failure.reason);
        }
        match waiting.next_try(Instant::now()).filter(|_| !is_last) {
            Some(at) => {
                if !self.trouble {
                    tracing::warn!(reason = failure.reason, "a mail cannot be sent for now; it is tried again");
                }
                self.trouble = true;
                self.wait_until(at, waiting);
            }
            None => self.give_up(waiting, &failure.reason),
        }
    }

    fn give_up(&self, waiting: Waiting, reason: &str) {
        if self.end(waiting, "failed") {
            tracing::warn!(reason, "a mail was given up");
        }
    }

    /// Counts a mail that ends and gives its place back; false when [`Mailer::close`] has counted it already.
    fn end(&self, waiting: Waiting, outcome: &'static str) -> bool {
        // `close` counts the places under the lock that this holds, so each mail is counted by one of the two.
        let phase = self.phase.borrow();
        let is_counted = *phase == Phase::Closed;
        if !is_counted {
            self.metrics.mails(outcome).inc();
        }
        drop(waiting);
        !is_counted
    }
}

/// One try to deliver a mail.
struct Attempt {
    waiting: Waiting,
    outcome: std::result::Result<(), Failure>,
    /// Whether no other one follows.
    is_last: bool,
}

/// A try under way, given back when its task ends, by a panic too.
struct UnderWay {
    attempt: Option<Attempt>,
    ended: mpsc::Sender<Attempt>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            // There is room for the only one under way.
            drop(self.ended.try_send(attempt));
        }
    }
}

/// Why a mail did not leave.
struct Failure {
    permanent: bool,
    /// For the log: in words of ours or of the operating system, never of the SMTP server, which may repeat an address.
    reason: String,
}

impl Failure {
    fn of(error: &lettre::transport::smtp::Error) -> Self {
        let source = || std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        let reason = if let Some(status) = error.status() {
            format!("the SMTP server answered {status}")
        } else if error.is_response() {
            "the SMTP server's answer was cut off or not SMTP".to_owned()
        } else if error.is_tls() {
            format!("TLS: {}", source())
        } else {
            source()
        };
        // What the client itself refuses: no STARTTLS, no way to log in. Another try would be refused as well.
        Self { permanent: error.is_permanent() || error.is_client(), reason }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    None,
    StartTls,
    Implicit,
}

/// The SMTP server, decided.
struct Server {
    host: String,
    port: u16,
    encryption: Encryption,
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
    hello: ClientId,
}

impl Server {
    /// Reads the operator's URL. What is wrong is said without repeating it, for it holds the password.
    fn parse(url: &str, from: &Mailbox) -> std::result::Result<Self, String> {
        let parsed = url::Url::parse(url).map_err(|error| {
            format!("--smtp-url is no URL ({error}); special characters in the password must be percent-encoded")
        })?;
        if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err("--smtp-url ends after the port; / ? and # in the password must be percent-encoded".into());
        }
        let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        if host.is_empty() {
            return Err("--smtp-url names no host".into());
        }
        let (encryption, default_port) = match parsed.scheme() {
            "smtps" => (Encryption::Implicit, SUBMISSIONS_PORT),
            // On this machine there is nobody in between, and hardly ever a certificate.
            "smtp" if is_loopback(&host) => (Encryption::None, SUBMISSION_PORT),
            "smtp" => (Encryption::StartTls, SUBMISSION_PORT),
            _ => return Err("--smtp-url must begin with smtp:// or smtps://".into()),
        };
        let tls = match encryption {
            Encryption::None => None,
            _ => Some(TlsParameters::new(host.clone()).map_err(|error| format!("--smtp-url: no TLS: {error}"))?),
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

    /// One try, over a connection of its own.
    async fn deliver(&self, letter: &Letter) -> std::result::Result<(), Failure> {
        let place = (self.host.as_str(), self.port);
        let implicit = self.tls.clone().filter(|_| self.encryption == Encryption::Implicit);
        let connecting = AsyncSmtpConnection::connect_tokio1(place, Some(STEP_TIMEOUT), &self.hello, implicit, None);
        let mut connection = step(connecting).await?;
        if self.encryption == Encryption::StartTls
            && let Some(tls) = &self.tls
        {
            // Fails where the server does not offer it: nothing has been said to it yet.
            step(connection.starttls(tls.clone(), &self.hello)).await?;
        }
        if let Some(credentials) = &self.credentials {
            step(connection.auth(DEFAULT_MECHANISMS, credentials)).await?;
        }
        step(connection.send(&letter.envelope, &letter.bytes)).await?;
        drop(timeout(FAREWELL_TIMEOUT, connection.quit()).await);
        Ok(())
    }
}

async fn step<T>(
    work: impl Future<Output = std::result::Result<T, lettre::transport::smtp::Error>>,
) -> std::result::Result<T, Failure> {
    match timeout(STEP_TIMEOUT, work).await {
        Ok(outcome) => outcome.map_err(|error| Failure::of(&error)),
        Err(_) => Err(Failure { permanent: false, reason: format!("no answer within {} s", STEP_TIMEOUT.as_secs()) }),
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
        _ => Err("--smtp-url needs both a user and a password, or neither, in UTF-8 and percent-encoded".into()),
    }
}

fn sender(text: &str) -> std::result::Result<Mailbox, String> {
    let mailbox = Some(text).filter(|text| !text.chars().any(char::is_control)).and_then(|text| text.parse().ok());
    mailbox.filter(|mailbox: &Mailbox| address(mailbox.email.as_ref()).is_some()).ok_or_else(|| {
        "--mail-from must be an address such as posthaste@example.org, or Name <posthaste@example.org>".into()
    })
}

/// Whether mail can be sent to an address.
pub fn is_address(text: &str) -> bool {
    address(text).is_some()
}

/// An address that can stand in a command and in a header as it is. Of what RFC 5321 allows, only quoted local parts with
/// blanks, angle brackets or control characters are missing.
fn address(text: &str) -> Option<Address> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>'));
    if plain && text.len() <= ADDRESS_LIMIT_BYTES { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
