//! Tests of key sets from a URL, against a local server that counts connections.
//!
//! Invariant: connections are counted, not requests, so a request that only begins is counted as well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

use super::*;
use crate::domain::identity::jwt::jwks::{FETCH_TIMEOUT, RemoteSet};

/// A time limit that no operation reaches, except in the tests of slow servers.
const LONG: Duration = Duration::from_secs(20);

/// How the server answers a request.
#[derive(Clone)]
enum Answer {
    Keys(Vec<Value>),
    /// The keys, after a delay.
    Late(Duration, Vec<Value>),
    /// The head, then one byte every 20 ms.
    Drip,
    /// Bytes until the client closes the connection.
    Endless,
    /// This response, byte for byte.
    Raw(String),
    /// Closes the connection without an answer.
    Close,
}

struct Server {
    address: SocketAddr,
    answer: watch::Sender<Answer>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, current) = watch::channel(answer);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = current.borrow().clone();
                tokio::spawn(respond(stream, answer));
            }
        });
        Self { address, answer, connections }
    }

    fn url(&self) -> Url {
        format!("http://{}/jwks.json", self.address).parse().unwrap()
    }

    fn answers(&self, answer: Answer) {
        self.answer.send_replace(answer);
    }

    fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    async fn verifier(&self, timeout: Duration) -> JwtVerifier {
        verifier(Keys::Set(Jwks::Url(RemoteSet::open(self.url(), timeout, NOW).await.unwrap())))
    }
}

async fn respond(mut stream: TcpStream, answer: Answer) {
    let mut head = Vec::new();
    // A TLS handshake begins with byte 22 and has no end that this server recognises. It gets the same answer.
    while !head.ends_with(b"\r\n\r\n") && head != [22] {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let set = |keys: Vec<Value>| {
        let body = json!({"keys": keys}).to_string();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let text = match answer {
        Answer::Keys(keys) => set(keys),
        Answer::Late(after, keys) => {
            tokio::time::sleep(after).await;
            set(keys)
        }
        Answer::Raw(text) => text,
        Answer::Close => return,
        Answer::Drip => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
            while stream.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return;
        }
        Answer::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b' '; 65_536]).await.is_ok() {}
            return;
        }
    };
    let _ = stream.write_all(text.as_bytes()).await;
}

async fn is_unavailable(verifier: &JwtVerifier, token: &str, now: Timestamp) -> bool {
    matches!(verifier.verify(token, now).await, Err(Error::Unavailable { .. }))
}

/// Verifies 200 tokens concurrently. `kid` gives the name of the key for each. Returns how many were accepted.
async fn verify_many(verifier: &Arc<JwtVerifier>, kid: impl Fn(usize) -> String, now: Timestamp) -> usize {
    let mut tasks = JoinSet::new();
    for number in 0..200 {
        let (verifier, token) = (Arc::clone(verifier), EC.good(&kid(number)));
        // Clocks are read before locks are taken, so the times arrive in any order.
        let now = Timestamp::from_micros(now.micros() + [3, 0, 7, 1][number % 4]);
        tasks.spawn(async move { accepts_at(&verifier, &token, now).await });
    }
    tasks.join_all().await.into_iter().filter(|accepted| *accepted).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_unknown_keys_cause_one_fetch_in_30_seconds() {
    let server = Server::start(Answer::Keys(vec![EC.jwk("known")])).await;
    let verifier = Arc::new(server.verifier(LONG).await);
    assert_eq!(server.count(), 1);
    assert_eq!(verify_many(&verifier, |_| "known".into(), NOW).await, 200);
    assert_eq!(verify_many(&verifier, |number| format!("unknown {number}"), after(29)).await, 0);
    assert_eq!(server.count(), 1);
    for slow in [Duration::ZERO, Duration::from_millis(200)] {
        let (count, now) = (server.count(), after(60 * server.count() as i64));
        server.answers(Answer::Late(slow, vec![EC.jwk("known")]));
        assert_eq!(verify_many(&verifier, |number| format!("unknown {number}"), now).await, 0);
        assert_eq!(server.count(), count + 1);
        assert_eq!(verify_many(&verifier, |_| "same".into(), now).await, 0);
        assert_eq!(server.count(), count + 1);
    }
    // A server that fails is not contacted more often.
    server.answers(Answer::Close);
    assert_eq!(verify_many(&verifier, |_| "unknown".into(), after(300)).await, 0);
    assert_eq!(verify_many(&verifier, |_| "unknown".into(), after(320)).await, 0);
    assert_eq!(server.count(), 4);
    assert_eq!(verify_many(&verifier, |_| "known".into(), after(320)).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_caller_who_waits_gets_the_new_key() {
    let server = Server::start(Answer::Keys(vec![EC.jwk("old")])).await;
    let verifier = Arc::new(server.verifier(LONG).await);
    server.answers(Answer::Late(Duration::from_millis(100), vec![EC.jwk("new")]));
    assert_eq!(verify_many(&verifier, |_| "new".into(), after(31)).await, 200);
    assert_eq!(server.count(), 2);
    assert!(!accepts_at(&verifier, &EC.good("old"), after(32)).await);
}

#[tokio::test]
async fn tokens_that_cannot_be_valid_cause_no_fetch() {
    let server = Server::start(Answer::Keys(vec![EC.jwk("known")])).await;
    let verifier = server.verifier(LONG).await;
    let header = r#"{"alg":"ES256","kid":"unknown"}"#;
    for claims in [json!({"exp": NOW_S}), json!({"iss": "other"}), json!({"aud": "other"}), json!({"sub": null})] {
        assert!(!accepts_at(&verifier, &EC.token(header, &claims_with(claims)), after(300)).await);
    }
    for header in [r#"{"alg":"HS256","kid":"unknown"}"#, r#"{"alg":"ES256"}"#, r#"{"alg":"RS256","kid":"known"}"#] {
        let signer = if header.contains("known\"}") { &*RSA } else { &*ED };
        assert!(!accepts_at(&verifier, &signer.token(header, &claims().to_string()), after(300)).await);
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn nothing_that_a_token_names_is_contacted() {
    let server = Server::start(Answer::Keys(vec![EC.jwk("known")])).await;
    let forger = Signer::ec();
    let elsewhere = Server::start(Answer::Keys(vec![forger.jwk("forged")])).await;
    let verifier = server.verifier(LONG).await;
    let url = elsewhere.url().to_string();
    let mut now = 0;
    for name in ["jku", "x5u", "kid", "iss", "jwks_uri"] {
        for kid in ["known", "forged"] {
            let mut header = json!({"alg": "ES256", "kid": kid, "typ": "JWT"});
            header[name] = url.clone().into();
            for claims in [claims_with(json!({})), claims_with(json!({"iss": url}))] {
                now += 31;
                assert!(!accepts_at(&verifier, &forger.token(&header.to_string(), &claims), after(now)).await);
            }
        }
    }
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Server::start(Answer::Keys(vec![EC.jwk("k")])).await;
    for status in [301, 302, 303, 307, 308] {
        let url = elsewhere.url();
        let answer = format!("HTTP/1.1 {status} Elsewhere\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n");
        let server = Server::start(Answer::Raw(answer)).await;
        let verifier = server.verifier(LONG).await;
        assert!(is_unavailable(&verifier, &EC.good("k"), after(3)).await);
        assert_eq!(server.count(), 2);
    }
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn invalid_answers_leave_the_keys_unchanged() {
    let server = Server::start(Answer::Keys(vec![EC.jwk("k")])).await;
    let verifier = server.verifier(LONG).await;
    let good = json!({"keys": [ED.jwk("new")]}).to_string();
    let with_status =
        |line: &str, body: &str| format!("HTTP/1.1 {line}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let many: Vec<_> = (0..101).map(|number| ED.jwk(&format!("new{number}"))).collect();
    let answers = [
        with_status("404 Not KeyLookup", &good),
        with_status("500 Broken", &good),
        with_status("201 Created", &good),
        with_status("200 OK", "<html>"),
        with_status("200 OK", ""),
        with_status("200 OK", &json!({"keys": many}).to_string()),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n{good}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{good}", 10 << 20),
        "nonsense".into(),
    ];
    let mut now = 0;
    for answer in answers {
        now += 31;
        server.answers(Answer::Raw(answer));
        assert!(!accepts_at(&verifier, &ED.good("new"), after(now)).await);
        assert!(accepts_at(&verifier, &EC.good("k"), after(now)).await);
    }
    assert_eq!(server.count(), 10);
    server.answers(Answer::Raw(with_status("200 OK", &good)));
    assert!(accepts_at(&verifier, &ED.good("new"), after(now + 31)).await);
    // An empty set is valid: the backend has withdrawn every key.
    server.answers(Answer::Keys(vec![]));
    assert!(!accepts_at(&verifier, &ED.good("unknown"), after(now + 62)).await);
    assert!(!accepts_at(&verifier, &ED.good("new"), after(now + 62)).await);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_not_read_to_its_end() {
    let server = Server::start(Answer::Endless).await;
    let began = Instant::now();
    let verifier = server.verifier(LONG).await;
    assert!(began.elapsed() < LONG / 2, "the fetch ended at its time limit, not at its size limit");
    assert!(is_unavailable(&verifier, &EC.good("k"), NOW).await);
    let body = " ".repeat(10 << 20);
    server.answers(Answer::Raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())));
    assert!(is_unavailable(&verifier, &EC.good("k"), after(3)).await);
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_slow_server_delays_callers_no_longer_than_the_timeout() {
    assert!(FETCH_TIMEOUT <= Duration::from_secs(5));
    for slow in [Answer::Late(LONG, vec![EC.jwk("k")]), Answer::Drip] {
        let server = Server::start(slow).await;
        let began = Instant::now();
        let verifier = Arc::new(server.verifier(Duration::from_millis(300)).await);
        assert!(is_unavailable(&verifier, &EC.good("k"), after(2)).await);
        assert!(began.elapsed() >= Duration::from_millis(600));
        assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
        assert_eq!(server.count(), 2);
    }
}

#[tokio::test]
async fn with_https_a_server_without_a_certificate_is_refused() {
    let server = Server::start(Answer::Keys(vec![EC.jwk("k")])).await;
    let url = server.url().to_string().replace("http:", "https:");
    let verifier = JwtVerifier::open(settings(KeySource::Jwks(url)), NOW).await.unwrap();
    assert_eq!(server.count(), 1);
    assert!(is_unavailable(&verifier, &EC.good("k"), NOW).await);
}

#[tokio::test]
async fn a_server_that_starts_later_is_used() {
    // Nobody listens on this port yet.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let verifier = JwtVerifier::open(settings(KeySource::Jwks(url)), NOW).await.unwrap();
    assert!(is_unavailable(&verifier, &EC.good("k"), NOW).await);

    let server = Server::start(Answer::Close).await;
    let verifier = server.verifier(LONG).await;
    assert!(is_unavailable(&verifier, &EC.good("k"), after(1)).await);
    assert_eq!(server.count(), 1);
    assert!(is_unavailable(&verifier, &EC.good("k"), after(2)).await);
    assert_eq!(server.count(), 2);
    // A malformed token is refused without keys.
    assert!(!accepts_at(&verifier, "nonsense", after(3)).await);
    server.answers(Answer::Keys(vec![EC.jwk("k")]));
    assert!(is_unavailable(&verifier, &EC.good("k"), after(3)).await);
    assert!(accepts_at(&verifier, &EC.good("k"), after(4)).await);
    assert_eq!(server.count(), 3);
}

/// A token that is valid for two days.
fn long_lived(signer: &Signer, kid: &str) -> String {
    let header = json!({"alg": signer.algorithm(), "kid": kid}).to_string();
    signer.token(&header, &claims_with(json!({"exp": NOW_S + 200_000})))
}

#[tokio::test]
async fn keys_are_fetched_again_after_10_minutes_while_nobody_waits() {
    let server = Server::start(Answer::Keys(vec![EC.jwk("old")])).await;
    let verifier = server.verifier(LONG).await;
    let (old, new) = (long_lived(&EC, "old"), long_lived(&ED, "new"));
    assert!(accepts_at(&verifier, &old, after(599)).await);
    assert_eq!(server.count(), 1);
    server.answers(Answer::Late(Duration::from_secs(1), vec![ED.jwk("new")]));
    let began = Instant::now();
    assert!(accepts_at(&verifier, &old, after(600)).await);
    assert!(accepts_at(&verifier, &old, after(601)).await);
    assert!(began.elapsed() < Duration::from_millis(900), "a caller waited for the fetch");
    // A caller who needs the new keys joins the fetch that is running.
    assert!(accepts_at(&verifier, &new, after(602)).await);
    assert!(!accepts_at(&verifier, &old, after(603)).await);
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn keys_stay_valid_for_a_day_if_the_server_is_unreachable() {
    let server = Server::start(Answer::Keys(vec![EC.jwk("k")])).await;
    let verifier = server.verifier(LONG).await;
    let token = long_lived(&EC, "k");
    server.answers(Answer::Close);
    assert!(accepts_at(&verifier, &token, after(3_600)).await);
    assert!(accepts_at(&verifier, &token, after(86_399)).await);
    assert!(is_unavailable(&verifier, &token, after(86_400)).await);
    server.answers(Answer::Keys(vec![EC.jwk("k")]));
    assert!(accepts_at(&verifier, &token, after(86_402)).await);
}

#[tokio::test]
async fn a_key_withdrawn_during_a_quiet_period_verifies_nothing() {
    let server = Server::start(Answer::Keys(vec![EC.jwk("old")])).await;
    let verifier = Arc::new(server.verifier(LONG).await);
    server.answers(Answer::Late(Duration::from_millis(100), vec![ED.jwk("new")]));
    let token = long_lived(&EC, "old");
    let first = accepts_at(&verifier, &token, after(1_200));
    let second = accepts_at(&verifier, &token, after(1_200));
    assert_eq!(tokio::join!(first, second), (false, false));
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn while_the_server_hangs_only_one_caller_waits_for_it() {
    let server = Server::start(Answer::Keys(vec![EC.jwk("k")])).await;
    let timeout = Duration::from_secs(1);
    let verifier = server.verifier(timeout).await;
    server.answers(Answer::Late(LONG, vec![]));
    let token = long_lived(&EC, "k");
    let began = Instant::now();
    assert!(accepts_at(&verifier, &token, after(7_200)).await);
    assert!(began.elapsed() >= timeout);
    for seconds in 1..50 {
        assert!(accepts_at(&verifier, &token, after(7_200 + seconds)).await);
    }
    assert!(began.elapsed() < timeout * 19 / 10, "{:?}", began.elapsed());
    assert!(server.count() <= 3);
}

#[tokio::test]
async fn a_fetch_continues_if_the_caller_who_caused_it_goes_away() {
    let server = Server::start(Answer::Close).await;
    let verifier = server.verifier(LONG).await;
    server.answers(Answer::Late(Duration::from_millis(200), vec![EC.jwk("k")]));
    let token = EC.good("k");
    let given_up = tokio::time::timeout(Duration::from_millis(20), verifier.verify(&token, after(5))).await;
    assert!(given_up.is_err());
    assert!(accepts_at(&verifier, &token, after(5)).await);
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_clock_set_back_does_not_prevent_fetches() {
    let server = Server::start(Answer::Keys(vec![EC.jwk("k")])).await;
    let verifier = server.verifier(LONG).await;
    server.answers(Answer::Keys(vec![ED.jwk("new")]));
    assert!(accepts_at(&verifier, &ED.good("new"), after(-100_000)).await);
    assert_eq!(server.count(), 2);
}
