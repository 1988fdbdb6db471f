//! Values of fields and parameters: dates and times, and the sentences for values that are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::Clock;
use serde_json::{Value, json};

use crate::both;
use crate::operations::operations::{posthaste, text};
use crate::support::callers::moment;
use crate::support::people::{get, group, patch, post};
use crate::support::{Answer, Options, Server};

/// The texts of the messages in a list, without those of the demo.
fn bodies(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    let entries = answer.json();
    let messages = entries.as_array().unwrap().iter().map(|entry| entry.get("message").unwrap_or(entry));
    let texts = messages.map(|message| message["body"].as_str().unwrap().to_owned());
    texts.filter(|text| text.starts_with("sent ")).collect()
}

both!(a_date_stands_for_its_beginning_in_utc, async |place| {
    let hand = Arc::new(AtomicI64::new(moment("2026-11-26T23:59:59.999999Z")));
    let server = Server::start_with(place, Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() });
    let server = server.await;
    let conversation = server.send("bugs", "duck", "sent before").await["conversation_id"].clone();
    hand.store(moment("2026-11-27T00:00:00Z"), Ordering::Relaxed);
    server.send("bugs", "duck", "sent after").await;
    for (date, time) in [("2026-11-27", "2026-11-27T00:00:00Z"), ("2026-11-28", "2026-11-28T00:00:00Z")] {
        for query in [
            "messages/bugs?since=",
            "messages/bugs?until=",
            "search/messages?q=sent&after=",
            "search/messages?q=sent&before=",
        ] {
            let by_date = bodies(&server.get(&format!("/api/{query}{date}")).await);
            assert_eq!(by_date, bodies(&server.get(&format!("/api/{query}{time}")).await), "{query}{date}");
        }
    }
    assert_eq!(bodies(&server.get("/api/messages/bugs?since=2026-11-27").await), ["sent after"]);
    assert_eq!(bodies(&server.get("/api/messages/bugs?until=2026-11-27").await), ["sent before"]);
    let place_of_date = format!("/api/conversations/{conversation}/messages?date=2026-11-27&limit=1");
    assert_eq!(bodies(&server.get(&place_of_date).await), ["sent after"]);
    for wrong in ["2026-11-31", "2026-1-1", "20261127", "2026-11-27T", "2026-W48-5", "now"] {
        server.get(&format!("/api/messages/bugs?since={wrong}")).await.invalid(&["since"]);
        server.get(&format!("/api/search/messages?q=sent&before={wrong}")).await.invalid(&["before"]);
    }

    let midnight = "2026-12-01T00:00:00.000000Z";
    let group = group(&server, "bugs", &["duck"], "all").await;
    let invite = json!({"expires_at": "2026-12-01"});
    let invite = post(&server, "bugs", &format!("/api/conversations/{group}/invites"), invite).await;
    assert_eq!(invite.json()["expires_at"], midnight);
    let own = json!({"me": {"muted_until": "2026-12-01"}});
    let own = patch(&server, "bugs", &format!("/api/conversations/{group}"), own).await;
    assert_eq!(own.json()["me"]["muted_until"], midnight);
    let later = json!({"recipient_user_name": "duck", "body": "later", "send_at": "2026-12-01"});
    assert_eq!(post(&server, "bugs", "/api/messages", later).await.json()["send_at"], midnight);
    let key = server.post("/api/api-keys", &json!({"name": "x", "expires_at": "2026-12-01"})).await;
    assert_eq!(key.json()["expires_at"], midnight);
    let wrong = json!({"name": "x", "expires_at": "2026-12-32"});
    server.post("/api/api-keys", &wrong).await.invalid(&["expires_at"]);
    assert_eq!(get(&server, "bugs", "/api/scheduled").await.json().as_array().unwrap().len(), 1);
});

both!(a_date_is_a_time_on_the_command_line_too, async |place| {
    // Creates the database.
    Server::start(place).await.stop().await;
    let create = |at: &str| posthaste(place, &["api-key", "create", "--name", "x", "--expires-at", at]);
    let made = create("2099-01-31");
    assert!(made.status.success(), "{}", text(&made));
    assert!(text(&posthaste(place, &["api-key", "list"])).contains("expires 2099-01-31T00:00:00.000000Z"));
    let wrong = create("2099-02-30");
    assert!(!wrong.status.success() && text(&wrong).contains("such as 2027-01-31"), "{}", text(&wrong));
});

/// The field, the code and the detail of the only error in an answer.
#[track_caller]
fn reason(answer: &Answer, field: &str) -> (String, String) {
    let problem = answer.invalid(&[field]);
    let error = |name: &str| problem["errors"][0][name].as_str().unwrap().to_owned();
    (error("code"), error("detail"))
}

both!(an_error_names_the_possible_values_of_a_body, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let path = format!("/api/conversations/{group}");
    let put = async |target: &str, body: Value| {
        let request = server.request(reqwest::Method::PUT, target).header("x-act-as", "bugs");
        crate::support::answer_of(request.json(&body)).await
    };
    for kind in [json!("room"), json!(5), json!(null), json!(true), json!(["group"]), json!("x`, expected `secret")] {
        let answer = post(&server, "bugs", "/api/conversations", json!({"kind": kind, "title": "x"})).await;
        assert_eq!(reason(&answer, "kind"), ("wrong_value".to_owned(), "must be direct or group".to_owned()), "{kind}");
    }
    let wrong_value = |detail: &str| ("wrong_value".to_owned(), detail.to_owned());
    let answer = patch(&server, "bugs", &path, json!({"history": "some"})).await;
    assert_eq!(reason(&answer, "history"), wrong_value("must be all or since_joined"));
    let answer = put(&format!("{path}/members/duck"), json!({"role": "boss"})).await;
    assert_eq!(reason(&answer, "role"), wrong_value("must be member, admin or owner"));
    let answer = patch(&server, "bugs", "/api/users/me", json!({"direct_messages_from": 1})).await;
    assert_eq!(reason(&answer, "direct_messages_from"), wrong_value("must be everyone or friends"));
    let request = server.request(reqwest::Method::PUT, "/api/admin/users/duck/role").json(&json!({"role": "boss"}));
    let answer = crate::support::answer_of(request).await;
    assert_eq!(reason(&answer, "role"), wrong_value("must be user or admin"));
    let key = server.post("/api/api-keys", &json!({"name": "x", "scopes": ["reed"]})).await;
    assert!(reason(&key, "scopes").1.contains("read, write and admin"));
    let hook = json!({"url": "https://example.org/", "event_types": ["message.made"]});
    assert!(reason(&server.post("/api/webhooks", &hook).await, "event_types").1.contains("message.created, "));

    let wrong_type = |detail: &str| ("wrong_type".to_owned(), detail.to_owned());
    for (body, field, detail) in [
        (json!({"recipient_user_name": 5, "body": "x"}), "recipient_user_name", "must be a string, not a number"),
        (json!({"conversation_id": "5", "body": "x"}), "conversation_id", "must be a whole number, not a string"),
        (json!({"conversation_id": 1.5, "body": "x"}), "conversation_id", "must be a whole number"),
        (json!({"recipient_user_name": "duck", "body": null}), "body", "must be a string, not null"),
        (
            json!({"recipient_user_name": "duck", "attachment_ids": 1}),
            "attachment_ids",
            "must be an array, not a number",
        ),
        (
            json!({"recipient_user_name": "duck", "attachment_ids": [1, "2"]}),
            "attachment_ids.1",
            "must be a whole number, not a string",
        ),
        (
            json!({"recipient_user_name": "duck", "body": "x", "link_preview": 1}),
            "link_preview",
            "must be true or false, not a number",
        ),
    ] {
        let answer = post(&server, "bugs", "/api/messages", body).await;
        assert_eq!(reason(&answer, field), wrong_type(detail));
    }
    for (number, detail) in [
        ("9223372036854775808", "must be a whole number between -2^63 and 2^63 - 1"),
        ("1e400", "must be a smaller number"),
    ] {
        let huge = format!(r#"{{"conversation_id": {number}, "body": "x"}}"#);
        let request = server.request(reqwest::Method::POST, "/api/messages").header("x-act-as", "bugs").body(huge);
        let answer = crate::support::answer_of(request.header("content-type", "application/json")).await;
        assert_eq!(reason(&answer, "conversation_id"), ("out_of_range".to_owned(), detail.to_owned()));
    }
    let answer = patch(&server, "bugs", &path, json!({"me": {"pinned": "yes"}})).await;
    assert_eq!(reason(&answer, "me.pinned"), wrong_type("must be true or false, not a string"));
    let answer = patch(&server, "bugs", &path, json!({"me": {"pined": true}})).await;
    assert_eq!(reason(&answer, "me.pined").0, "unknown_field");
});

both!(an_error_names_the_possible_values_of_a_parameter, async |place| {
    let server = Server::start(place).await;
    let wrong_value = |detail: &str| ("wrong_value".to_owned(), detail.to_owned());
    for (target, field, detail) in [
        ("/api/messages/bugs?order=up", "order", "must be asc or desc"),
        ("/api/friends/requests?direction=up", "direction", "must be incoming or outgoing"),
        ("/api/search/messages?q=x&has=nothing", "has", "must be attachment or link"),
    ] {
        assert_eq!(reason(&get(&server, "bugs", target).await, field), wrong_value(detail), "{target}");
    }
    let answer = server.get("/api/admin/reports?state=closed").await;
    assert_eq!(reason(&answer, "state"), wrong_value("must be open, resolved or dismissed"));
    let answer = crate::support::people::delete(&server, "bugs", "/api/users/me?messages=some").await;
    assert_eq!(reason(&answer, "messages"), wrong_value("must be keep or delete"));
    let answer = server.get("/api/messages/bugs?days=two").await;
    assert_eq!(reason(&answer, "days"), ("wrong_type".to_owned(), "must be a whole number".to_owned()));
    let answer = server.get("/api/messages/bugs?days=9223372036854775808").await;
    assert_eq!(reason(&answer, "days").0, "out_of_range");
});

both!(two_fields_that_exclude_each_other_are_not_missing, async |place| {
    let server = Server::start(place).await;
    let conversation = server.send("bugs", "duck", "x").await["conversation_id"].clone();
    let both = json!({"recipient_user_name": "duck", "conversation_id": conversation, "body": "x"});
    let detail = "Give exactly one of recipient_user_name and conversation_id";
    let answer = post(&server, "bugs", "/api/messages", both).await;
    assert_eq!(reason(&answer, "recipient_user_name"), ("excluded".to_owned(), detail.to_owned()));
    let answer = post(&server, "bugs", "/api/messages", json!({"body": "x"})).await;
    assert_eq!(reason(&answer, "recipient_user_name"), ("required".to_owned(), detail.to_owned()));
    let both = json!({"user_name": "bugs", "email": "bugs@example.org"});
    assert_eq!(reason(&server.post("/api/sessions", &both).await, "user_name").0, "excluded");
    assert_eq!(reason(&server.post("/api/sessions", &json!({})).await, "user_name").0, "required");
});
