//! Requests under open access that act as a user with `X-Act-As`.

use reqwest::Method;
use serde_json::{Value, json};

use super::server::Answer;
use super::{Server, answer_of};

/// A request of a user.
pub async fn call(server: &Server, person: &str, method: Method, target: &str, body: Option<Value>) -> Answer {
    let request = server.request(method, target).header("x-act-as", person);
    answer_of(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

pub async fn get(server: &Server, person: &str, target: &str) -> Answer {
    call(server, person, Method::GET, target, None).await
}

pub async fn put(server: &Server, person: &str, target: &str) -> Answer {
    call(server, person, Method::PUT, target, None).await
}

pub async fn patch(server: &Server, person: &str, target: &str, body: Value) -> Answer {
    call(server, person, Method::PATCH, target, Some(body)).await
}

pub async fn delete(server: &Server, person: &str, target: &str) -> Answer {
    call(server, person, Method::DELETE, target, None).await
}

pub async fn post(server: &Server, person: &str, target: &str, body: Value) -> Answer {
    call(server, person, Method::POST, target, Some(body)).await
}

/// A POST with an `Idempotency-Key`.
pub async fn post_once(server: &Server, person: &str, target: &str, key: &str, body: Value) -> Answer {
    let request = server.request(Method::POST, target).header("x-act-as", person).header("idempotency-key", key);
    answer_of(request.json(&body)).await
}

/// Creates a group of `owner` with other members. Returns its id.
pub async fn group(server: &Server, owner: &str, members: &[&str], history: &str) -> i64 {
    let new = json!({"kind": "group", "title": "Looney Tunes", "member_user_names": members, "history": history});
    let made = post(server, owner, "/api/conversations", new).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.bytes));
    made.json()["id"].as_i64().unwrap()
}

/// Sends a message into a conversation. Returns the answer's body.
pub async fn say(server: &Server, person: &str, conversation: i64, body: &str, reply_to: Option<i64>) -> Value {
    let new = json!({"conversation_id": conversation, "body": body, "reply_to": reply_to});
    let sent = post(server, person, "/api/messages", new).await;
    assert_eq!(sent.status, 201, "{}", String::from_utf8_lossy(&sent.bytes));
    sent.json()
}

/// The path of a message.
pub fn path_of(message: &Value) -> String {
    format!("/api/conversations/{}/messages/{}", message["conversation_id"], message["seq"])
}

/// Reads a message as a user: alone, in a page of its conversation and, for direct messages, in the user's timeline. Asserts
/// that the message is the same in all of them, and returns it.
pub async fn seen(server: &Server, person: &str, path: &str) -> Value {
    let alone = get(server, person, path).await.json();
    let (conversation, seq) = path.rsplit_once('/').unwrap();
    let mut pages = vec![format!("{conversation}?around={seq}")];
    if alone["recipient_id"].is_i64() {
        pages.push(format!("/api/messages/{person}?order=desc&limit=200"));
    }
    // Reads each page twice: the first time from the database, the second time from memory.
    for page in pages.iter().chain(&pages) {
        let answer = get(server, person, page).await;
        assert_eq!(answer.status, 200, "{page}: {}", String::from_utf8_lossy(&answer.bytes));
        let there = answer.json().as_array().unwrap().iter().find(|message| message["id"] == alone["id"]).cloned();
        assert_eq!(there.as_ref(), Some(&alone), "{page}");
    }
    alone
}

/// Asserts that a user gets the same 404 for `there`, which exists, as for `nowhere`, which does not exist.
pub async fn assert_hidden(
    server: &Server,
    person: &str,
    method: Method,
    there: &str,
    nowhere: &str,
    body: Option<Value>,
    code: &str,
) {
    let mut faces = Vec::new();
    for target in [there, nowhere] {
        let mut face = call(server, person, method.clone(), target, body.clone()).await.problem(404, code);
        face["request_id"] = Value::Null;
        faces.push(face);
    }
    assert_eq!(faces[0], faces[1], "{there}");
}
