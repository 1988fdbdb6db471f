//! The permissions in a group: users with every relation to the group try every operation on a conversation.
//!
//! Invariants: the test fails if an operation on a conversation is missing in the table, or if the table has a row for an
//! operation that the API does not have. A user outside a conversation gets, byte for byte, the answer for a conversation that
//! does not exist.

use reqwest::Method;
use serde_json::{Value, json};

use super::shown_text;
use crate::both;
use crate::support::server::Answer;
use crate::support::{Server, answer_of};

/// The columns:
///
/// - `out`, `inv`, `rem`: users who are not members. `out` never was one, `inv` has seen the preview of an invite and has not
///   joined with it, `rem` was removed.
/// - `mem`, `adm`, `own`: a member, an admin, an owner other than the creator of the group.
/// - `blk`: a member whom the creator of the group blocks.
///
/// Where an operation is about a message, its sender is the creator of the group. Where it is about a member, this member is
/// the creator as well. A cell is the status if the operation is allowed, or else the short form of a refusal.
const TABLE: &str = "
operation                                               out inv rem mem adm own blk
GET /api/conversations/{id}                             con con con 200 200 200 200
PATCH /api/conversations/{id}                           con con con rol 200 200 rol
DELETE /api/conversations/{id}                          con con con rol rol 204 rol
PUT /api/conversations/{id}/avatar                      con con con rol 200 200 rol
DELETE /api/conversations/{id}/avatar                   con con con rol 204 204 rol
GET /api/conversations/{id}/members                     con con con 200 200 200 200
PUT /api/conversations/{id}/members/{user_name}         con con con rol rol 200 rol
DELETE /api/conversations/{id}/members/{user_name}      con con con rol rol 204 rol
GET /api/conversations/{id}/invites                     con con con rol 200 200 rol
POST /api/conversations/{id}/invites                    con con con rol 201 201 rol
DELETE /api/conversations/{id}/invites/{invite_id}      con con con rol 204 204 rol
GET /api/conversations/{id}/incoming-webhooks           con con con rol 200 200 rol
POST /api/conversations/{id}/incoming-webhooks          con con con rol 201 201 rol
DELETE /api/conversations/{id}/incoming-webhooks/{hook_id} con con con rol 204 204 rol
GET /api/conversations/{id}/messages                    con con con 200 200 200 200
GET /api/conversations/{id}/messages/{seq}              non non non 200 200 200 200
PATCH /api/conversations/{id}/messages/{seq}            non non non nym nym nym nym
DELETE /api/conversations/{id}/messages/{seq}           non non non nym 204 204 nym
GET /api/conversations/{id}/messages/{seq}/history      non non non 200 200 200 200
PUT /api/conversations/{id}/messages/{seq}/reactions/{emoji} non non non 201 201 201 201
DELETE /api/conversations/{id}/messages/{seq}/reactions/{emoji} non non non 204 204 204 204
GET /api/conversations/{id}/messages/{seq}/reactions    non non non 200 200 200 200
PUT /api/conversations/{id}/messages/{seq}/pin          non non non rol 204 204 rol
DELETE /api/conversations/{id}/messages/{seq}/pin       non non non rol 204 204 rol
GET /api/conversations/{id}/pins                        con con con 200 200 200 200
GET /api/conversations/{id}/messages/{seq}/replies      non non non 200 200 200 200
POST /api/conversations/{id}/messages/{seq}/forward     non non non 201 201 201 201
POST /api/conversations/{id}/messages/{seq}/report      non non non 201 201 201 201
GET /api/conversations/{id}/messages/{seq}/receipts     non non non 200 200 200 200
POST /api/conversations/{id}/receipts                   con con con 200 200 200 200
POST /api/conversations/{id}/typing                     con con con 204 204 204 204
POST /api/messages                                      con con con 201 201 201 201
";

/// For each refusal: its short form in the table, the status and the code.
const REFUSALS: &[(&str, u16, &str)] = &[
    ("con", 404, "conversation_not_found"),
    ("non", 404, "message_not_found"),
    ("rol", 403, "insufficient_role"),
    ("nym", 403, "not_your_message"),
];

/// A group that the user `maker` has created, with an invite and an incoming webhook. Each column of the table has a user with
/// its name.
struct Group<'a> {
    server: &'a Server,
    id: i64,
    invite: i64,
    incoming_webhook: i64,
}

async fn call(server: &Server, person: &str, method: Method, target: &str, body: Option<&Value>) -> Answer {
    let request = server.request(method, target).header("x-act-as", person).header("x-request-id", "the-same-for-all");
    answer_of(match body {
        Some(body) => request.json(body),
        None => request,
    })
    .await
}

impl<'a> Group<'a> {
    async fn make(server: &'a Server) -> Self {
        let new =
            json!({"kind": "group", "title": "a group", "member_user_names": ["mem", "adm", "own", "rem", "blk"]});
        let made = call(server, "maker", Method::POST, "/api/conversations", Some(&new)).await;
        assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.bytes));
        let id = made.json()["id"].as_i64().unwrap();
        let path = format!("/api/conversations/{id}");
        for (name, role) in [("adm", "admin"), ("own", "owner")] {
            let body = json!({"role": role});
            let given = call(server, "maker", Method::PUT, &format!("{path}/members/{name}"), Some(&body)).await;
            assert_eq!(given.status, 200);
        }
        let removed = call(server, "maker", Method::DELETE, &format!("{path}/members/rem"), None).await;
        assert_eq!(removed.status, 204);
        let invite = call(server, "maker", Method::POST, &format!("{path}/invites"), None).await;
        assert_eq!(invite.status, 201);
        let preview = format!("/api/invites/{}", invite.json()["code"].as_str().unwrap());
        assert_eq!(call(server, "inv", Method::GET, &preview, None).await.status, 200);
        let named = json!({"name": "CI"});
        let hook = call(server, "maker", Method::POST, &format!("{path}/incoming-webhooks"), Some(&named)).await;
        assert_eq!(hook.status, 201);
        let message = json!({"conversation_id": id, "body": "what's up, doc?"});
        let sent = call(server, "maker", Method::POST, "/api/messages", Some(&message)).await.json();
        assert_eq!(sent["seq"], MESSAGE_SEQ);
        let number = |answer: Answer| answer.json()["id"].as_i64().unwrap();
        Self { server, id, invite: number(invite), incoming_webhook: number(hook) }
    }

    /// Sends the request of an operation on the conversation `id`: this group, or [`NO_ID`].
    async fn try_as(&self, operation: &str, person: &str, id: i64) -> Answer {
        let (method, template) = operation.split_once(' ').unwrap();
        let target = template
            .replace("{id}", &id.to_string())
            .replace("{seq}", &MESSAGE_SEQ.to_string())
            .replace("{user_name}", "maker")
            .replace("{emoji}", ":tada:")
            .replace("{invite_id}", &self.invite.to_string())
            .replace("{hook_id}", &self.incoming_webhook.to_string());
        assert!(!target.contains('{'), "{operation}: add values for its parameters here");
        let body = match operation {
            "POST /api/messages" => Some(json!({"conversation_id": id, "body": "hey"})),
            "POST /api/conversations/{id}/incoming-webhooks" => Some(json!({"name": "CI"})),
            "PATCH /api/conversations/{id}" => Some(json!({"title": "another title"})),
            "PUT /api/conversations/{id}/avatar" => {
                let bytes = crate::support::files::png(20, 20);
                let picture = crate::support::files::uploaded(self.server, person, "a.png", &bytes).await;
                Some(json!({"attachment_id": picture}))
            }
            "PUT /api/conversations/{id}/members/{user_name}" => Some(json!({"role": "admin"})),
            "POST /api/conversations/{id}/messages/{seq}/forward" => Some(json!({"conversation_id": self.id})),
            "POST /api/conversations/{id}/messages/{seq}/report" => Some(json!({"reason": "This is spam."})),
            "PATCH /api/conversations/{id}/messages/{seq}" => Some(json!({"body": "nothing much"})),
            "POST /api/conversations/{id}/receipts" => Some(json!({"read_seq": MESSAGE_SEQ})),
            _ => None,
        };
        if operation == "DELETE /api/conversations/{id}/messages/{seq}/reactions/{emoji}" {
            // Tries to add a reaction first, so that there is one to remove.
            call(self.server, person, Method::PUT, &target, None).await;
        }
        call(self.server, person, method.parse().unwrap(), &target, body.as_ref()).await
    }
}

/// The seq of the creator's message. The four messages before it are system messages: about the creation of the group, two
/// changes of roles and a removal.
const MESSAGE_SEQ: i64 = 5;
/// The id of a conversation that does not exist.
const NO_ID: i64 = 9_007_199_254_740_991;

fn rows() -> Vec<(String, Vec<(&'static str, &'static str)>)> {
    let mut lines = TABLE.lines().filter(|line| !line.is_empty());
    let columns: Vec<&str> = lines.next().unwrap().split_whitespace().skip(1).collect();
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let operation = format!("{} {}", words.next().unwrap(), words.next().unwrap());
            let cells: Vec<_> = columns.iter().copied().zip(words).collect();
            assert_eq!(cells.len(), columns.len(), "{operation}");
            (operation, cells)
        })
        .collect()
}

both!(every_user_may_do_in_a_group_what_the_table_says, async |place| {
    let server = Server::start(place).await;
    for name in ["maker", "out", "inv", "rem", "mem", "adm", "own", "blk"] {
        assert_eq!(server.post("/api/users", &json!({"user_name": name})).await.status, 201);
    }
    assert_eq!(call(&server, "maker", Method::PUT, "/api/blocks/blk", None).await.status, 204);
    let mut wrong = Vec::new();
    for (operation, cells) in rows() {
        // First tries all users who must be refused. They share one group, because a refused request changes nothing.
        let mut group = Group::make(&server).await;
        for (person, cell) in &cells {
            let known = cell.parse::<u16>().is_ok() || REFUSALS.iter().any(|(word, ..)| word == cell);
            assert!(known, "{operation} as {person}: {cell} is neither a status nor the short form of a refusal");
            let Some((_, status, code)) = REFUSALS.iter().find(|(word, ..)| word == cell) else { continue };
            let answer = group.try_as(&operation, person, group.id).await;
            if answer.status.as_u16() != *status || answer.json()["code"] != *code {
                wrong.push(format!("{operation} as {person}: {}", String::from_utf8_lossy(&answer.bytes)));
            }
            if *status == 404 {
                let nothing = group.try_as(&operation, person, NO_ID).await;
                if shown_text(&answer) != shown_text(&nothing) {
                    wrong.push(format!("{operation} as {person}\n{}\n{}", shown_text(&answer), shown_text(&nothing)));
                }
            }
        }
        for (person, status) in cells.iter().filter_map(|(person, cell)| Some((person, cell.parse::<u16>().ok()?))) {
            let answer = group.try_as(&operation, person, group.id).await;
            if answer.status != status {
                wrong.push(format!("{operation} as {person}: {}", String::from_utf8_lossy(&answer.bytes)));
            }
            if !operation.starts_with("GET") {
                group = Group::make(&server).await;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
});

both!(every_operation_on_a_conversation_is_in_the_table, async |place| {
    let server = Server::start(place).await;
    let document = server.get("/openapi.json").await.json();
    let mut operations: Vec<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(path, _)| path.starts_with("/api/conversations/{id}"))
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let mut expected: Vec<String> =
        rows().into_iter().map(|(operation, _)| operation).filter(|operation| operation.contains("{id}")).collect();
    operations.sort();
    expected.sort();
    assert_eq!(operations, expected);
});
