//! Texts that show nothing are refused wherever a text is required.

use serde_json::{Value, json};

use crate::both;
use crate::support::Server;
use crate::support::files::{noise, uploaded};
use crate::support::people::{get, group, patch, post};

/// White space, control characters and invisible characters.
const BLANK: &[&str] =
    &[" ", "   ", "\t\n", "\u{A0}\u{3000}", "\u{200B}", "\u{200B}\u{FEFF}\u{2060} ", "\u{AD}", "\u{3164}", "\u{2800}"];
/// Texts with something to see.
const SHOWN: &[&str] = &[" a ", "\u{200B}.", "👍🏽", "❤\u{FE0F}", "\u{200F}א", "\u{301}"];

both!(a_message_needs_a_visible_character, async |place| {
    let server = Server::start(place).await;
    let sent = server.send("bugs", "duck", "hey").await;
    let path = format!("/api/conversations/{}/messages/{}", sent["conversation_id"], sent["seq"]);
    let id = group(&server, "bugs", &["duck"], "all").await;
    let hooks = format!("/api/conversations/{id}/incoming-webhooks");
    let hook = post(&server, "bugs", &hooks, json!({"name": "CI"})).await.json()["url"].as_str().unwrap().to_owned();
    let hook = hook[hook.find("/api/").unwrap()..].to_owned();
    for body in BLANK {
        let new = json!({"recipient_user_name": "duck", "body": body});
        let problem = post(&server, "bugs", "/api/messages", new.clone()).await;
        problem.invalid(&["body"]);
        assert_eq!(problem.json()["errors"][0]["code"], "required", "{body:?}");
        let mut later = new;
        later["send_at"] = in_an_hour();
        post(&server, "bugs", "/api/messages", later).await.invalid(&["body"]);
        patch(&server, "bugs", &path, json!({"body": body})).await.invalid(&["body"]);
        server.post(&hook, &json!({"text": body})).await.invalid(&["text"]);
        post(&server, "bugs", &format!("{path}/report"), json!({"reason": body})).await.invalid(&["reason"]);
        patch(&server, "bugs", &format!("/api/conversations/{id}"), json!({"title": body})).await.invalid(&["title"]);
        post(&server, "bugs", &hooks, json!({"name": body})).await.invalid(&["name"]);
        server.post("/api/api-keys", &json!({"name": body})).await.invalid(&["name"]);
    }
    assert_eq!(get(&server, "bugs", &path).await.json()["body"], "hey");
    for body in SHOWN {
        let sent = server.send("bugs", "duck", body).await;
        assert_eq!(sent["body"], *body);
        assert_eq!(patch(&server, "bugs", &path, json!({"body": body})).await.json()["body"], *body);
        assert_eq!(server.post(&hook, &json!({"text": body})).await.status, 200);
    }
    // Beside an attachment the body may show nothing.
    let file = uploaded(&server, "bugs", "a.bin", &noise(10)).await;
    for body in ["", " ", "\u{200B}"] {
        let new = json!({"recipient_user_name": "duck", "body": body, "attachment_ids": [file]});
        let sent = post(&server, "bugs", "/api/messages", new).await;
        assert_eq!((sent.status.as_u16(), &sent.json()["body"]), (201, &json!(body)));
        let path = format!("/api/conversations/{}/messages/{}", sent.json()["conversation_id"], sent.json()["seq"]);
        assert_eq!(patch(&server, "bugs", &path, json!({"body": "x"})).await.status, 200);
        assert_eq!(patch(&server, "bugs", &path, json!({"body": " "})).await.json()["body"], " ");
        let forward = post(&server, "bugs", &format!("{path}/forward"), json!({"conversation_id": id})).await;
        assert_eq!((forward.status.as_u16(), &forward.json()["body"]), (201, &json!(" ")));
    }
});

fn in_an_hour() -> Value {
    let now = posthaste::base::time::Clock::System.now();
    now.plus_micros(3_600_000_000).to_string().into()
}
