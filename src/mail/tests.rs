//! Tests of settings, mail fields and retries, without an SMTP server. `tests/api/operations/mail.rs` tests sending.

use std::sync::atomic::AtomicI64;

use super::*;

fn parse(url: &str) -> std::result::Result<SmtpServer, String> {
    SmtpServer::parse(url, &sender("posthaste@example.org").unwrap())
}

fn refusal(url: &str) -> String {
    parse(url).err().unwrap_or_else(|| panic!("{url} is accepted"))
}

fn mailer(from: &str) -> Mailer {
    let settings = MailSettings { url: "smtp://127.0.0.1:1".into(), from: from.into() };
    // 2026-11-22T08:30:00Z
    let clock = Clock::Manual(Arc::new(AtomicI64::new(1_795_336_200_000_000)));
    Mailer::new(&settings, clock, &Rng::System, Arc::new(Metrics::new())).unwrap()
}

fn mail() -> Mail {
    Mail { to: "bugs@example.org".into(), subject: "Hello".into(), text: "Text".into() }
}

#[test]
fn only_connections_to_loopback_are_unencrypted() {
    for (url, encryption, port) in [
        ("smtp://example.org", Encryption::StartTls, 587),
        ("smtp://user:password@example.org:25", Encryption::StartTls, 25),
        ("smtp://10.0.0.1", Encryption::StartTls, 587),
        ("smtp://localhost.example.org", Encryption::StartTls, 587),
        ("smtp://127.0.0.1.example.org", Encryption::StartTls, 587),
        ("smtp://[2001:db8::1]", Encryption::StartTls, 587),
        ("smtps://example.org", Encryption::Implicit, 465),
        ("smtps://127.0.0.1:2465", Encryption::Implicit, 2465),
        ("smtp://localhost", Encryption::None, 587),
        ("smtp://LOCALHOST:25", Encryption::None, 25),
        ("smtp://127.8.9.1:25", Encryption::None, 25),
        ("smtp://[::1]:25/", Encryption::None, 25),
        ("smtp://[::ffff:127.0.0.1]:25", Encryption::None, 25),
    ] {
        let server = parse(url).unwrap();
        assert_eq!((server.encryption, server.port), (encryption, port), "{url}");
        assert_eq!(server.tls.is_some(), encryption != Encryption::None, "{url}");
    }
}

#[test]
fn errors_about_the_url_do_not_contain_the_password() {
    for url in [
        "",
        "canary",
        "http://user:canary@example.org",
        "smtp://user:canary/more@example.org",
        "smtp://user:canary?more@example.org",
        "smtp://user:canary#more@example.org",
        "smtp://user:canary@example.org/path",
        "smtp://user:canary@",
        "smtp://user:canary@example.org:99999",
        "smtp://user:canary%0d%0a@example.org",
        "smtp://user:canary%ff@example.org",
        "smtp://:canary@example.org",
        "smtp://canary@example.org",
    ] {
        let sentence = refusal(url);
        assert!(sentence.starts_with("--smtp-url ") && !sentence.contains("canary"), "{url}: {sentence}");
    }
    let settings = MailSettings { url: "smtp://user:canary@example.org".into(), from: "a@example.org".into() };
    assert_eq!(format!("{settings:?}"), r#"MailSettings { url: "…", from: "a@example.org" }"#);
}

#[test]
fn the_sender_may_have_a_name() {
    assert_eq!(sender("a@example.org").unwrap().name, None);
    assert_eq!(sender("Post Haste <a@example.org>").unwrap().name.as_deref(), Some("Post Haste"));
    for text in ["", "a", "a@", "a@example.org, b@example.org", "a@example.org\r\nBcc: b@example.org", "ä@example.org"]
    {
        assert!(sender(text).is_err(), "{text}");
    }
}

#[tokio::test]
async fn a_field_cannot_inject_other_fields_or_recipients() {
    let mailer = mailer("posthaste@example.org");
    for to in [
        "",
        "bugs",
        "bugs@example.org\r\nBcc: duck@example.org",
        "bugs@example.org\nBcc: duck@example.org",
        "bugs@example.org\rBcc: duck@example.org",
        "\"bugs\r\nBcc: duck\"@example.org",
        "bugs@example.org, duck@example.org",
        "bugs@example.org,duck@example.org",
        "bugs@example.org>\r\nRCPT TO:<duck@example.org",
        "bugs@example.org> NOTIFY=NEVER",
        "Bugs <bugs@example.org>",
        "bugs@example.org ",
        "bugs\0@example.org",
        "bügs@example.org",
    ] {
        let error = mailer.send(Mail { to: to.into(), ..mail() }).unwrap_err();
        let Error::Invalid(fields) = error else { panic!("{to:?}: {error}") };
        assert_eq!((fields.len(), fields[0].field.as_ref()), (1, "to"), "{to:?}");
    }
    for subject in ["a\r\nBcc: duck@example.org", "a\nb", "a\rb", "a\0", "a\u{85}b", &"x".repeat(SUBJECT_LIMIT + 1)] {
        let error = mailer.send(Mail { subject: subject.into(), ..mail() }).unwrap_err();
        let Error::Invalid(fields) = error else { panic!("{subject:?}: {error}") };
        assert_eq!((fields.len(), fields[0].field.as_ref()), (1, "subject"), "{subject:?}");
    }
    let error = mailer.send(Mail { text: "x".repeat(TEXT_LIMIT_BYTES + 1), ..mail() }).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    let long = format!("{}@example.org", "x".repeat(ADDRESS_LIMIT_BYTES));
    assert!(mailer.send(Mail { to: long, ..mail() }).is_err());
}

#[tokio::test]
async fn an_encoded_mail_has_its_date_and_says_that_a_program_wrote_it() {
    let mailer = mailer("Post Haste <posthaste@example.org>");
    let encoded = mailer.inner.encode(Mail { text: "Zeile ä\r\n.\n\rend ".into(), ..mail() }).unwrap();
    let text = String::from_utf8(encoded.bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    for line in [
        "From: \"Post Haste\" <posthaste@example.org>",
        "To: bugs@example.org",
        "Subject: Hello",
        "Date: Sun, 22 Nov 2026 08:30:00 +0000",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
    ] {
        assert!(head.split("\r\n").any(|found| found == line), "{line}: {head}");
    }
    let ids: Vec<&str> = head.split("\r\n").filter(|line| line.starts_with("Message-ID: <")).collect();
    assert!(ids.len() == 1 && ids[0].ends_with("@example.org>"), "{head}");
    assert_eq!(body, "Zeile =C3=A4\r\n.\r\n=0Dend=20");
    let other = mailer.inner.encode(mail()).unwrap();
    assert!(!String::from_utf8(other.bytes).unwrap().contains(ids[0]), "two mails have the same Message-ID");
}

#[tokio::test]
async fn a_mail_that_close_gives_up_is_counted_once() {
    let mailer = mailer("posthaste@example.org");
    let failed = || mailer.inner.metrics.mails("failed").get();
    for _ in 0..2 {
        mailer.send(mail()).unwrap();
    }
    let mut dispatcher = mailer.inner.dispatcher.lock().await;
    // `close` comes while one mail is being sent and the other one waits.
    let first = dispatcher.queue.recv().await.unwrap();
    mailer.close(Duration::ZERO).await;
    assert_eq!(failed(), 2);
    // The attempts end after `close`. Both mails have already been counted as failed, so the outcomes are not counted.
    let failure = Failure { is_permanent: true, reason: "refused".into() };
    dispatcher.finish(Attempt { mail: first, outcome: Err(failure), is_last: true });
    let other = dispatcher.queue.recv().await.unwrap();
    dispatcher.finish(Attempt { mail: other, outcome: Ok(()), is_last: true });
    assert_eq!((failed(), mailer.inner.metrics.mails("sent").get()), (2, 0));
    assert!(mailer.send(mail()).is_err());
}

#[tokio::test]
async fn pauses_grow_and_the_last_attempt_is_within_ten_minutes() {
    let seconds: Vec<u64> = (1..10).map(|failures| pause_after(failures).as_secs()).collect();
    assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    let mailer = mailer("posthaste@example.org");
    let accepted_at = Instant::now();
    let permit = Arc::clone(&mailer.inner.permits).try_acquire_owned().unwrap();
    let message = mailer.inner.encode(mail()).unwrap();
    let queued = QueuedMail { message, accepted_at, failures: 7, _permit: permit };
    let last = accepted_at + RETRY_LIMIT - LONGEST_PAUSE;
    assert_eq!(queued.next_attempt(last), Some(accepted_at + RETRY_LIMIT));
    assert_eq!(queued.next_attempt(last + Duration::from_millis(1)), None);
}
