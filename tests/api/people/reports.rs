//! Reporting messages, and what administrators do about it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::people::{assert_hidden, delete, get, group, post, post_once, put, say};
use crate::support::server::Answer;
use crate::support::{Server, answer_of};

const MESSAGE: &str = "/api/conversations/1/messages/1";
const REPORT: &str = "/api/conversations/1/messages/1/report";

async fn report(server: &Server, person: &str, target: &str, reason: &str) -> Answer {
    post(server, person, target, json!({"reason": reason})).await
}

async fn decide(server: &Server, id: &Value, state: &str) -> Answer {
    let request = server.request(Method::PATCH, "/api/admin/reports");
    answer_of(request.json(&json!({"id": id, "state": state}))).await
}

async fn queue(server: &Server, target: &str) -> Vec<Value> {
    server.all(target).await.into_iter().map(|report| report["id"].clone()).collect()
}

both!(a_report_goes_to_the_administrators, async |place| {
    let server = Server::start(place).await;
    let made = report(&server, "bugs", REPORT, "too familiar").await;
    assert_eq!(made.status, 201);
    let made = made.json();
    for (field, value) in
        [("conversation_id", json!(1)), ("seq", json!(1)), ("reason", json!("too familiar")), ("state", json!("open"))]
    {
        assert_eq!(made[field], value, "{field}");
    }
    put(&server, "bugs", &format!("{MESSAGE}/reactions/:eyes:")).await;
    let listed = server.get("/api/admin/reports").await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let listed = &listed[0];
    for field in ["id", "conversation_id", "seq", "reason", "state", "created_at"] {
        assert_eq!(listed[field], made[field], "{field}");
    }
    assert_eq!(listed["reporter_user_name"], "bugs");
    assert_eq!((&listed["handled_at"], &listed["handled_by_user_name"]), (&Value::Null, &Value::Null));
    // The report shows the message as it is now.
    assert_eq!(listed["message"], server.get(MESSAGE).await.json());
    assert_eq!(delete(&server, "rdibari", MESSAGE).await.status, 204);
    assert!(server.get("/api/admin/reports").await.json()[0]["message"]["deleted_at"].is_string());

    let resolved = decide(&server, &made["id"], "resolved").await;
    assert_eq!(resolved.status, 200);
    let resolved = resolved.json();
    assert_eq!(resolved["state"], "resolved");
    assert!(resolved["handled_at"].is_string() && resolved["message"].is_object());
    assert_eq!(queue(&server, "/api/admin/reports").await, [Value::Null; 0]);
    assert_eq!(server.get("/api/admin/reports?state=resolved").await.json(), json!([resolved]));
    let reopened = decide(&server, &made["id"], "open").await.json();
    assert_eq!((&reopened["state"], &reopened["handled_at"]), (&json!("open"), &Value::Null));
    assert_eq!(queue(&server, "/api/admin/reports?state=open").await, [made["id"].clone()]);
    assert_eq!(decide(&server, &made["id"], "dismissed").await.json()["state"], "dismissed");
    assert_eq!(queue(&server, "/api/admin/reports?state=dismissed").await, [made["id"].clone()]);
    let log = server.get("/api/admin/audit").await.json();
    assert_eq!((&log[0]["action"], &log[0]["detail"]), (&json!("report.handled"), &json!("report 1: dismissed")));
    assert_eq!(log.as_array().unwrap().iter().filter(|entry| entry["action"] == "report.handled").count(), 3);
    decide(&server, &json!(99), "open").await.problem(404, "report_not_found");
    decide(&server, &made["id"], "burnt").await.invalid(&["state"]);
    server.get("/api/admin/reports?state=burnt").await.invalid(&["state"]);
    server.get("/api/admin/reports?cursor=x").await.invalid(&["cursor"]);
});

both!(the_deciding_administrator_is_shown_and_others_are_refused, async |place| {
    let server = Server::start(place).await;
    let made = report(&server, "bugs", REPORT, "too familiar").await.json();
    let role = server.request(Method::PUT, "/api/admin/users/porky/role").json(&json!({"role": "admin"}));
    assert_eq!(answer_of(role).await.status, 204);
    // Porky, an administrator, is no member of the conversation.
    let listed = get(&server, "porky", "/api/admin/reports").await.json();
    assert_eq!(listed[0]["message"]["body"], "Hey, whats up?");
    let request = server.request(Method::PATCH, "/api/admin/reports").header("x-act-as", "porky");
    let decided = answer_of(request.json(&json!({"id": made["id"], "state": "resolved"}))).await.json();
    assert_eq!(decided["handled_by_user_name"], "porky");
    get(&server, "bugs", "/api/admin/reports").await.problem(403, "admin_required");
});

both!(each_user_who_sees_a_message_reports_it_once, async |place| {
    let server = Server::start(place).await;
    let made = post_once(&server, "bugs", REPORT, "k", json!({"reason": "é".repeat(1_000)})).await;
    assert_eq!(made.status, 201);
    let again = post_once(&server, "bugs", REPORT, "k", json!({"reason": "é".repeat(1_000)})).await;
    assert_eq!((again.status, &again.bytes), (made.status, &made.bytes));
    report(&server, "bugs", REPORT, "again").await.problem(409, "already_reported");
    report(&server, "rdibari", REPORT, "my own").await.invalid(&["seq"]);
    let other = "/api/conversations/1/messages/2/report";
    for (body, field) in [
        (json!({}), "reason"),
        (json!({"reason": ""}), "reason"),
        (json!({"reason": "é".repeat(1_001)}), "reason"),
        (json!({"reason": "a\0b"}), "reason"),
        (json!({"reason": 1}), "reason"),
        (json!({"reason": "x", "state": "open"}), "state"),
    ] {
        post(&server, "rdibari", other, body).await.invalid(&[field]);
    }
    let nowhere = "/api/conversations/99/messages/1/report";
    let body = Some(json!({"reason": "x"}));
    assert_hidden(&server, "duck", Method::POST, REPORT, nowhere, body, "message_not_found").await;
    assert_eq!(delete(&server, "bugs", "/api/conversations/1/messages/2").await.status, 204);
    report(&server, "rdibari", other, "gone").await.problem(409, "message_deleted");
    let nobody = server.request(Method::POST, REPORT).json(&json!({"reason": "x"}));
    answer_of(nobody).await.problem(403, "act_as_required");
    assert_eq!(queue(&server, "/api/admin/reports").await.len(), 1);
});

both!(the_list_of_reports_has_pages, async |place| {
    let server = Server::start(place).await;
    let id = group(&server, "bugs", &["duck", "porky"], "all").await;
    let mut made = Vec::new();
    for number in 0..4 {
        let message = say(&server, "bugs", id, &format!("{number}"), None).await;
        for person in ["duck", "porky"] {
            let target = format!("/api/conversations/{id}/messages/{}/report", message["seq"]);
            made.push(report(&server, person, &target, "no").await.json()["id"].clone());
        }
    }
    assert_eq!(queue(&server, "/api/admin/reports?limit=3").await, made);
    decide(&server, &made[2], "resolved").await;
    made.remove(2);
    assert_eq!(queue(&server, "/api/admin/reports?limit=3&state=open").await, made);
    // Deleting a group deletes its messages. The reports stay.
    assert_eq!(delete(&server, "bugs", &format!("/api/conversations/{id}")).await.status, 204);
    assert_eq!(queue(&server, "/api/admin/reports?limit=3").await, made);
});

both!(an_erased_user_is_not_named_in_their_reports, async |place| {
    let server = Server::start(place).await;
    post_once(&server, "bugs", REPORT, "k", json!({"reason": "planted-word-5d2e"})).await;
    report(&server, "rdibari", "/api/conversations/1/messages/2/report", "of bugs").await;
    let exported = String::from_utf8(get(&server, "bugs", "/api/users/me/export").await.bytes).unwrap();
    let mine: Vec<Value> = exported
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["type"] == "report")
        .map(|line| line["data"]["reason"].clone())
        .collect();
    assert_eq!(mine, ["planted-word-5d2e"]);
    assert_eq!(answer_of(server.request(Method::DELETE, "/api/users/bugs")).await.status, 204);
    let listed = server.get("/api/admin/reports").await.json();
    assert_eq!((&listed[0]["reporter_user_name"], &listed[0]["reason"]), (&Value::Null, &json!("")));
    assert_eq!((&listed[1]["reporter_user_name"], &listed[1]["reason"]), (&json!("rdibari"), &json!("of bugs")));
    assert_eq!(listed[1]["message"]["sender_user_name"], Value::Null);
    assert!(!place.everything().await.contains("planted-word-5d2e"));
});
