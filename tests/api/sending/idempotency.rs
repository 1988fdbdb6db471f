//! `Idempotency-Key` on requests that create something.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::error::Error;
use posthaste::base::time::{Clock, Timestamp};
use posthaste::domain::operations::housekeeping;
use posthaste::domain::sending::drafts::{Answer as SendAnswer, Draft, Recipient, Sender, Sent};
use posthaste::domain::shared::idempotency::{KeyedRequest, Once, StoredAnswer};
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::server::Answer;
use crate::support::{Options, Server, answer_of};

async fn send(server: &Server, key: &str, body: &Value) -> Answer {
    answer_of(server.request(Method::POST, "/api/messages").header("idempotency-key", key).json(body)).await
}

fn hey() -> Value {
    json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "hey"})
}

both!(a_repeat_gets_the_first_answer, async |place| {
    let server = Server::start(place).await;
    let first = send(&server, "key 1", &hey()).await;
    assert_eq!(first.status, 201);
    assert_eq!(first.header("idempotency-replayed"), None);
    for _ in 0..3 {
        let again = send(&server, "key 1", &hey()).await;
        assert_eq!(again.status, 201);
        assert_eq!(again.bytes, first.bytes);
        assert_eq!(again.header("location"), first.header("location"));
        assert_eq!(again.header("content-type"), first.header("content-type"));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
    }
    let other = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "hey!"});
    send(&server, "key 1", &other).await.problem(422, "idempotency_key_reused");
    // A repeat must have the same body, byte for byte. Equal JSON in other bytes is another request.
    let spaced = server
        .request(Method::POST, "/api/messages")
        .header("idempotency-key", "key 1")
        .header("content-type", "application/json")
        .body(format!(" {}", hey()));
    answer_of(spaced).await.problem(422, "idempotency_key_reused");
    assert_eq!(send(&server, "key 2", &hey()).await.json()["seq"], 2);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.messages").await, [[6]]);
});

both!(a_key_is_valid_after_a_restart, async |place| {
    let server = Server::start(place).await;
    let first = send(&server, "key", &hey()).await;
    server.stop().await;
    let server = Server::start(place).await;
    let again = send(&server, "key", &hey()).await;
    assert_eq!(again.bytes, first.bytes);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
});

both!(only_successful_answers_are_stored, async |place| {
    let server = Server::start(place).await;
    let to_nobody = json!({"sender_user_name": "bugs", "recipient_user_name": "later", "body": "hey"});
    send(&server, "key", &to_nobody).await.invalid(&["recipient_user_name"]);
    server.add_user("later", "", "").await;
    let sent = send(&server, "key", &to_nobody).await;
    assert_eq!(sent.status, 201);
    assert_eq!(sent.header("idempotency-replayed"), None);
});

both!(a_key_belongs_to_a_user, async |place| {
    let server = Server::start(place).await;
    let note = json!({"recipient_user_name": "porky", "body": "hey"});
    let as_person = |name: &'static str| {
        answer_of(
            server
                .request(Method::POST, "/api/messages")
                .header("x-act-as", name)
                .header("idempotency-key", "k")
                .json(&note),
        )
    };
    let bugs = as_person("bugs").await;
    let duck = as_person("DUCK").await;
    assert_eq!(bugs.json()["sender_user_name"], "bugs");
    assert_eq!(duck.json()["sender_user_name"], "duck");
    assert_eq!(as_person("BUGS").await.bytes, bugs.bytes);
    assert_eq!(as_person("duck").await.header("idempotency-replayed"), Some("true"));
});

both!(invalid_keys_are_refused, async |place| {
    let server = Server::start(place).await;
    for key in ["", "tab\there", &"x".repeat(256)] {
        send(&server, key, &hey()).await.invalid(&["Idempotency-Key"]);
    }
    let foreign = server
        .request(Method::POST, "/api/messages")
        .header("idempotency-key", reqwest::header::HeaderValue::from_bytes("ключ".as_bytes()).unwrap())
        .json(&hey());
    answer_of(foreign).await.invalid(&["Idempotency-Key"]);
    assert_eq!(send(&server, &"x".repeat(255), &hey()).await.status, 201);
    assert_eq!(send(&server, " ", &hey()).await.status, 422, "spaces around a header's value are not part of it");
});

both!(keys_are_kept_for_seven_days, async |place| {
    let hand = Arc::new(AtomicI64::new(Timestamp::parse("2026-11-22T23:59:59Z").unwrap().micros()));
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() };
    let server = Server::start_with(place, options).await;
    let first = send(&server, "key", &hey()).await;
    for _ in 0..7 {
        hand.fetch_add(86_400_000_000, Ordering::Relaxed);
        while housekeeping::batch(&server.app).await.unwrap() {}
        assert_eq!(send(&server, "key", &hey()).await.bytes, first.bytes);
    }
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.idempotency_keys").await, [[1]]);
    hand.fetch_add(86_400_000_000, Ordering::Relaxed);
    assert!(!housekeeping::batch(&server.app).await.unwrap());
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.idempotency_keys").await, [[0]]);
    let anew = send(&server, "key", &hey()).await;
    assert_eq!(anew.header("idempotency-replayed"), None);
    assert_ne!(anew.bytes, first.bytes);
});

both!(an_answer_that_cannot_be_rendered_is_an_error_and_sends_nothing, async |place| {
    let server = Server::start(place).await;
    let count = "SELECT count(*) FROM messaging.messages";
    let before = place.numbers(count).await[0][0];
    let send = |key: &str, render: fn(&Sent) -> Result<StoredAnswer, Error>| {
        let days = &server.app.key_days;
        let request = KeyedRequest::new(days, "test", key.as_bytes(), "POST", "/api/messages", b"").unwrap();
        server.app.sends.send(Draft {
            sender: Sender::Named("bugs".into()),
            recipient: Recipient::Direct("duck".into()),
            body: "hey".into(),
            reply_to: None,
            attachment_ids: Vec::new(),
            link_preview_declined: false,
            once: Once { request: Some(request), render, sealed: false },
            accepted_at: None,
            request_id: None,
        })
    };
    let rendered: fn(&Sent) -> Result<StoredAnswer, Error> =
        |_| Ok(StoredAnswer { status: 201, location: None, body: b"rendered".to_vec() });
    // Both sends wait in the same batch.
    let (refused, sent) =
        tokio::join!(send("one", |_| Err(Error::internal("cannot be rendered"))), send("two", rendered));
    assert!(matches!(refused, Err(Error::Internal(_))), "{refused:?}");
    let replayed = |answer: Result<SendAnswer, Error>| match answer {
        Ok(SendAnswer::KeyedAnswer(given) | SendAnswer::SentWithKey(given, _)) if given.answer.body == b"rendered" => {
            given.replayed
        }
        other => panic!("{other:?}"),
    };
    assert!(!replayed(sent));
    assert_eq!(place.numbers(count).await[0][0], before + 1);
    // The failed send has not used its key.
    assert!(!replayed(send("one", rendered).await));
    assert!(replayed(send("two", rendered).await));
    assert_eq!(place.numbers(count).await[0][0], before + 2);
});
