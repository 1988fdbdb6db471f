//! An erased user leaves nothing in the bytes of the database.

use reqwest::Method;
use serde_json::json;

use super::{erase, message, post_once};
use crate::both;
use crate::support::callers::holds;
use crate::support::{Server, answer_of};

/// A word that occurs in all data about the user and in no other data.
const WORD: &str = "xyzzy";
/// Number of messages that the user sends and receives. There are so many that pages of the database are split and moved.
const MESSAGES: usize = 400;

/// Creates the user with data of every kind: fields, devices, stored answers, messages. All of it contains the word.
async fn plant(server: &Server) {
    let body = json!({
        "user_name": "xyzzy.name", "first_name": "Xyzzy-first", "last_name": "xyzzy-last",
        "email": "xyzzy@example.org", "password": "xyzzy at length",
    });
    assert_eq!(post_once(server, "/api/users", "xyzzy user", &body).await.status, 201);
    for _ in 0..3 {
        let request = server.request(Method::POST, "/api/sessions").header("user-agent", "xyzzy-agent/1.0");
        let answer = answer_of(request.json(&json!({"user_name": "xyzzy.name", "password": "xyzzy at length"}))).await;
        assert_eq!(answer.status, 201);
    }
    let change = server.request(Method::PATCH, "/api/users/xyzzy.name");
    assert_eq!(answer_of(change.json(&json!({"first_name": "xyzzy-other"}))).await.status, 200);
    // Sends one message after the other, so that the pages of the database are filled to every degree.
    for number in 0..MESSAGES {
        // Bodies that fit on a page, and bodies that need several.
        let body = format!("{} {number}", WORD.repeat(1 + number * 37 % 1_500));
        let other = ["bugs", "duck", "xyzzy.name"][number % 3];
        let key = format!("theirs {number}");
        let theirs = post_once(server, "/api/messages", &key, &message("xyzzy.name", other, &body)).await;
        assert_eq!(theirs.status, 201);
        let key = format!("to them {number}");
        let reply = message(other, "xyzzy.name", &format!("re {number}"));
        assert_eq!(post_once(server, "/api/messages", &key, &reply).await.status, 201);
    }
    server.all("/api/messages/xyzzy.name").await;
}

both!(an_erasure_with_messages_leaves_no_bytes, async |place| {
    let server = Server::start(place).await;
    plant(&server).await;
    assert!(holds(&place.everything().await.into_bytes(), WORD), "the search itself works");
    assert_eq!(erase(&server, "/api/users/xyzzy.name?messages=delete").await.status, 204);
    // The server still runs, so its write-ahead log is searched as well.
    let kept = place.everything().await.into_bytes();
    let places: Vec<usize> = kept
        .windows(WORD.len())
        .enumerate()
        .filter(|(_, window)| window == &WORD.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(places.is_empty(), "found {} times, first at byte {}", places.len(), places[0]);
    assert!(!holds(&kept, WORD) && !holds(&kept, "Xyzzy"));
    let left = server.all("/api/messages/bugs").await;
    assert!(left.iter().any(|entry| entry["body"] == "re 0"), "messages of others stay");
    server.stop().await;
    assert!(!holds(&place.everything().await.into_bytes(), WORD));
});

both!(an_erasure_without_messages_leaves_only_their_bodies, async |place| {
    let server = Server::start(place).await;
    let body = json!({"user_name": "plugh.name", "first_name": "plugh", "email": "plugh@example.org"});
    assert_eq!(post_once(&server, "/api/users", "k", &body).await.status, 201);
    for number in 0..20 {
        post_once(&server, "/api/messages", &format!("a{number}"), &message("plugh.name", "bugs", "xyzzy")).await;
        post_once(&server, "/api/messages", &format!("b{number}"), &message("bugs", "plugh.name", "xyzzy")).await;
    }
    assert_eq!(erase(&server, "/api/users/plugh.name").await.status, 204);
    let kept = place.everything().await.into_bytes();
    assert!(holds(&kept, "xyzzy"));
    assert!(!holds(&kept, "plugh"));
});
