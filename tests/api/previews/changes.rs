//! The preview of a message from its send to its deletion.

use reqwest::Method;
use serde_json::{Value, json};

use super::*;
use crate::both;
use crate::support::answer_of;
use crate::support::files::{stored, wait_for_stored};
use crate::support::people::{assert_hidden, delete, post_once, seen};
use crate::support::watch::Socket;

both!(a_preview_arrives_after_the_message, async |place| {
    let (server, site) = (start(place).await, site().await);
    assert_eq!(server.get("/api/capabilities").await.json()["link_previews"], true);
    let mut socket = Socket::of(&server, "duck").await;
    let cursor = socket.cursor.clone();
    let url = format!("{}/news?a=b#part", site.url);
    let sent = send(&server, &format!("see {url}.")).await;
    let path = path_of(&sent);
    assert_eq!(socket.event_of("message.created").await["data"]["link_preview"], Value::Null);
    let event = socket.event_of("message.updated").await;
    let message = seen(&server, "bugs", &path).await;
    let preview = &message["link_preview"];
    assert_eq!((&preview["url"], &preview["title"]), (&json!(url), &json!("/news?a=b")));
    assert_eq!((&preview["description"], &preview["image"]["width"]), (&Value::Null, &json!(400)));
    assert_eq!(event["data"]["link_preview"], *preview);
    assert_eq!(event["actor_user_name"], "bugs");
    // It is not an edit, and the image is not one of the message's attachments.
    assert_eq!((&message["edited_at"], &message["attachments"]), (&Value::Null, &json!([])));
    assert_eq!(get(&server, "bugs", &format!("{path}/history")).await.json(), json!([]));
    let found = |has: &'static str| get_found(&server, has);
    assert_eq!((found("link").await, found("attachment").await), (1, 0));
    // A long poll, and pages that were kept in memory.
    let polled = get(&server, "duck", &format!("/api/events?after={cursor}&wait=20")).await.json();
    let polled = polled["events"].as_array().unwrap().iter().rfind(|event| event["type"] == "message.updated").cloned();
    assert_eq!(polled.unwrap()["data"]["link_preview"], *preview);
    assert_eq!(seen(&server, "duck", &path).await["link_preview"], *preview);
    // Who sees the message sees the image.
    let image = preview["image"]["url"].as_str().unwrap();
    for person in ["bugs", "duck"] {
        assert_eq!(get(&server, person, image).await.status, 200);
        assert_eq!(get(&server, person, &format!("{image}/thumbnail")).await.status, 200);
    }
    assert_hidden(&server, "porky", Method::GET, image, "/api/attachments/999", None, "attachment_not_found").await;
    // The site learns nothing about the message.
    assert_eq!(site.targets(), ["/news?a=b", "/image.png"]);
    for headers in site.headers() {
        let mut names: Vec<&str> = headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "host", "user-agent"]);
        assert_eq!(headers["user-agent"], concat!("posthaste/", env!("CARGO_PKG_VERSION")));
    }
    assert_eq!(outcomes(&server, "made").await, 1);
});

/// The number of messages that a search for `see` finds.
async fn get_found(server: &Server, has: &str) -> usize {
    let found = get(server, "bugs", &format!("/api/search/messages?q=see&has={has}")).await;
    assert_eq!(found.status, 200, "{}", String::from_utf8_lossy(&found.bytes));
    found.json().as_array().unwrap().len()
}

both!(a_server_without_the_option_calls_nobody, async |place| {
    let site = site().await;
    let server = Server::start(place).await;
    assert_eq!(server.get("/api/capabilities").await.json()["link_previews"], false);
    send(&server, &format!("{}/a", site.url)).await;
    server.stop().await;
    // The message stays without a preview also after a start with the option.
    let server = start(place).await;
    let sent = send(&server, &format!("{}/b", site.url)).await;
    preview_of(&server, &sent).await;
    assert_eq!(site.targets()[0], "/b");
});

both!(a_sender_can_send_without_a_preview, async |place| {
    let (server, site) = (start(place).await, site().await);
    let body = format!("{}/declined", site.url);
    let declined = json!({"recipient_user_name": "duck", "body": body, "link_preview": false});
    let sent = send_new(&server, declined.clone()).await;
    let mut socket = Socket::of(&server, "bugs").await;
    let mut frame = declined.clone();
    frame["type"] = json!("send");
    let reply = socket.ask(frame).await;
    assert_eq!(reply["status"], 201, "{reply}");
    let soon = posthaste::base::time::Timestamp::from_micros(server.app.clock.now().micros() + 300_000);
    let mut later = declined.clone();
    later["send_at"] = json!(soon.to_string());
    let accepted = post(&server, "bugs", "/api/messages", later).await.json();
    assert_eq!(accepted["link_preview"], false);
    let scheduled = path_of(&sent).replace("/messages/1", "/messages/3");
    wait_for(&server, &scheduled, |message| message["seq"] == 3).await;
    // The wish stays with the message: for edits, and for forwards.
    let edited = patch(&server, "bugs", &path_of(&sent), json!({"body": format!("{}/edited", site.url)})).await.json();
    assert_eq!(edited["link_preview"], Value::Null);
    let into = json!({"conversation_id": sent["conversation_id"]});
    assert_eq!(post(&server, "bugs", &format!("{}/forward", path_of(&sent)), into).await.status, 201);
    // All of them were before this one in the queue.
    let asked = send_new(&server, json!({"recipient_user_name": "duck", "body": site.url, "link_preview": true})).await;
    preview_of(&server, &asked).await;
    assert_eq!(site.targets(), ["/", "/image.png"]);
    for entry in server.all("/api/messages/duck?with=bugs").await {
        assert_eq!(entry["link_preview"].is_object(), entry["id"] == asked["id"], "{entry}");
    }
});

both!(every_way_to_send_gives_a_preview, async |place| {
    let (server, site) = (start(place).await, site().await);
    let body = json!({"recipient_user_name": "duck", "body": format!("{}/a", site.url)});
    let first = post_once(&server, "bugs", "/api/messages", "key", body.clone()).await;
    let preview = preview_of(&server, &first.json()).await;
    assert_eq!(preview["title"], "/a");
    // A repeated request gets the answer of the first one.
    let again = post_once(&server, "bugs", "/api/messages", "key", body).await;
    assert_eq!((again.header("idempotency-replayed"), again.json()), (Some("true"), first.json()));
    let soon = posthaste::base::time::Timestamp::from_micros(server.app.clock.now().micros() + 300_000).to_string();
    let later = json!({"recipient_user_name": "duck", "body": format!("{}/b", site.url), "send_at": soon});
    let accepted = post(&server, "bugs", "/api/messages", later).await.json();
    assert_eq!(accepted["link_preview"], true);
    let path = path_of(&first.json()).replace("/messages/1", "/messages/2");
    let message = wait_for(&server, &path, |message| message["link_preview"].is_object()).await;
    assert_eq!(message["link_preview"]["title"], "/b");
    let mut socket = Socket::of(&server, "bugs").await;
    let frame = json!({"type": "send", "recipient_user_name": "duck", "body": format!("{}/c", site.url)});
    assert_eq!(socket.ask(frame).await["status"], 201);
    let path = path.replace("/messages/2", "/messages/3");
    let message = wait_for(&server, &path, |message| message["link_preview"].is_object()).await;
    assert_eq!(message["link_preview"]["title"], "/c");
});

both!(an_edit_keeps_or_replaces_the_preview, async |place| {
    let (server, site) = (start(place).await, site().await);
    let edit = async |path: &str, body: String| patch(&server, "bugs", path, json!({"body": body})).await.json();
    let sent = send(&server, &format!("{}/a", site.url)).await;
    let (path, first) = (path_of(&sent), preview_of(&server, &sent).await);
    let edited = edit(&path, format!("look: {}/a, and http://other.example/", site.url)).await;
    assert_eq!(edited["link_preview"], first);
    assert_eq!(seen(&server, "duck", &path).await["link_preview"], first);
    // Another first link.
    let edited = edit(&path, format!("{}/b", site.url)).await;
    assert_eq!(edited["link_preview"], Value::Null);
    let second = preview_of(&server, &sent).await;
    assert_eq!((&second["title"], &second["url"]), (&json!("/b"), &json!(format!("{}/b", site.url))));
    let old_image = first["image"]["url"].as_str().unwrap();
    assert_ne!(second["image"]["url"], old_image);
    // The old image belongs to nothing any more, and the sweep deletes its attachment.
    let begun = Instant::now();
    while get(&server, "bugs", old_image).await.status != 404 {
        assert!(begun.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(&server, "duck", second["image"]["url"].as_str().unwrap()).await.status, 200);
    // No link, and no stored bytes.
    let edited = edit(&path, "no link".into()).await;
    assert_eq!(edited["link_preview"], Value::Null);
    assert_eq!(seen(&server, "duck", &path).await["link_preview"], Value::Null);
    wait_for_stored(place, 0).await;
});

both!(the_image_goes_with_the_last_message_that_shows_it, async |place| {
    let (server, site) = (start(place).await, site().await);
    let sent = send(&server, &format!("{}/a", site.url)).await;
    let first = preview_of(&server, &sent).await;
    let into = json!({"conversation_id": sent["conversation_id"]});
    let forwarded = post(&server, "duck", &format!("{}/forward", path_of(&sent)), into).await;
    let second = preview_of(&server, &forwarded.json()).await;
    // The forwarding user has an attachment of their own. Nothing was fetched again, and the bytes are stored once.
    assert_eq!((&second["title"], second["image"]["id"] == first["image"]["id"]), (&first["title"], false));
    assert_eq!(site.targets(), ["/a", "/image.png"]);
    assert_eq!(stored(place).len(), 2);
    assert_eq!(delete(&server, "bugs", &path_of(&sent)).await.status, 204);
    let tombstone = seen(&server, "duck", &path_of(&sent)).await;
    assert_eq!(tombstone["link_preview"], Value::Null);
    let image = second["image"]["url"].as_str().unwrap().to_owned();
    assert_eq!(get(&server, "bugs", &image).await.status, 200);
    assert_eq!(delete(&server, "duck", &path_of(&forwarded.json())).await.status, 204);
    wait_for_stored(place, 0).await;
    // The page is known, but the bytes of its image are gone, so both are fetched again.
    let again = send(&server, &format!("{}/a", site.url)).await;
    let third = preview_of(&server, &again).await;
    assert_eq!(get(&server, "duck", third["image"]["url"].as_str().unwrap()).await.status, 200);
    assert_eq!(site.targets().len(), 4);
});

both!(previews_are_exported_and_erased, async |place| {
    let (server, site) = (start(place).await, site().await);
    let sent = send(&server, &format!("{}/a", site.url)).await;
    let preview = preview_of(&server, &sent).await;
    let export = answer_of(server.request(Method::GET, "/api/users/bugs/export")).await;
    let lines: Vec<Value> = export
        .bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let of_type = |kind: &str| lines.iter().filter(|line| line["type"] == kind).cloned().collect::<Vec<Value>>();
    assert!(of_type("message").iter().any(|line| line["data"]["link_preview"] == preview), "{lines:?}");
    assert!(of_type("attachment").iter().any(|line| line["data"]["id"] == preview["image"]["id"]), "{lines:?}");
    // Kept messages keep their previews.
    let other = post(
        &server,
        "porky",
        "/api/messages",
        json!({"recipient_user_name": "duck", "body": format!("{}/b", site.url)}),
    );
    let other = path_of(&other.await.json());
    let begun = Instant::now();
    while get(&server, "duck", &other).await.json()["link_preview"].is_null() {
        assert!(begun.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(answer_of(server.request(Method::DELETE, "/api/users/porky?messages=keep")).await.status, 204);
    let kept = get(&server, "duck", &other).await.json()["link_preview"].clone();
    assert_eq!(kept["title"], "/b");
    assert_eq!(get(&server, "duck", kept["image"]["url"].as_str().unwrap()).await.status, 200);
    assert_eq!(answer_of(server.request(Method::DELETE, "/api/users/bugs?messages=delete")).await.status, 204);
    let begun = Instant::now();
    while get(&server, "duck", preview["image"]["url"].as_str().unwrap()).await.status != 404 {
        assert!(begun.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(&server, "duck", &path_of(&sent)).await.json()["link_preview"], Value::Null);
});
