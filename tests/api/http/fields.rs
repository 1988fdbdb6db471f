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
        for query in ["messages/bugs?since=", "messages/bugs?until=", "search/messages?q=sent&after=", "search/messages?q=sent&before="] {
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
    let create = |at: &str| posthaste(place, &["api-key", "create", "--name", "x", "--expires-at", at]);
    let made = create("2099-01-31");
    assert!(made.status.success(), "{}", text(&made));
    assert!(text(&posthaste(place, &["api-key", "list"])).contains("expires 2099-01-31T00:00:00.000000Z"));
    let wrong = create("2099-02-30");
    assert!(!wrong.status.success() && text(&wrong).contains("such as 2027-01-31"), "{}", text(&wrong));
});
