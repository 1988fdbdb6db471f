//! For each operation, a valid request with everything that it needs to succeed, and the same request for things that do not
//! exist.
//!
//! A new operation needs a line in this file if its path names something other than a user, a conversation or a message, or if
//! it has a body.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use posthaste::domain::access::principal::Access;
use posthaste::http::server::router::openapi_json;
use reqwest::Method;
use serde_json::{Value, json};

use super::cast::{ERASED, Fixture, NEVER, Subject};
use crate::support::accounts::{PASSWORD, authenticator};
use crate::support::callers::now_micros;

/// An id that does not exist: the largest possible one.
const NO_ID: &str = "9007199254740991";

/// The OpenAPI document.
static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&openapi_json(Access::Secured).unwrap()).unwrap());

/// A request of an operation, and the user whom it is about.
pub struct Case {
    pub subject: Subject,
    pub path: String,
    /// An object, or bytes in base64 that are sent as they are.
    pub body: Option<Value>,
    /// Paths of the same operation with things that do not exist.
    pub missing: Vec<String>,
    /// Whether the request can be repeated after it has succeeded.
    pub lasts: bool,
}

/// Splits `METHOD /path/{template}`.
pub fn parts(operation: &str) -> (&str, &str) {
    operation.split_once(' ').unwrap()
}

impl Case {
    /// Creates a user and everything that the operation needs.
    pub async fn new(fixture: &Fixture, operation: &str) -> Self {
        let (method, template) = parts(operation);
        let with_password = matches!(operation, "POST /api/sessions" | "POST /api/users/{user_name}/mfa/disable");
        let subject = fixture.subject(with_password.then_some(PASSWORD)).await;
        let body = body(fixture, operation, &subject).await;
        let things = things(fixture, operation, &subject).await;
        let mut paths = things.into_iter().map(|thing| fill_in(template, thing));
        let question = match operation {
            "GET /api/search/messages" | "GET /api/gifs/search" => "?q=hey",
            "GET /api/presence" => "?user_names=rdibari",
            "POST /api/gifs" => "?pack=a&title=a",
            _ => "",
        };
        let path = paths.next().unwrap() + question;
        let lasts = ["GET", "HEAD"].contains(&method)
            || matches!(operation, "POST /api/sessions" | "POST /api/password-resets");
        Self { subject, path, body, missing: paths.collect(), lasts }
    }
}

/// Fills the parameters of a template in order.
fn fill_in(template: &str, values: Vec<String>) -> String {
    let mut path = String::new();
    let mut values = values.into_iter();
    for part in template.split('/').skip(1) {
        path.push('/');
        path.push_str(&if part.starts_with('{') { values.next().unwrap() } else { part.to_owned() });
    }
    path
}

/// Values for the parameters of the path. The first entry names a thing of the subject, the others name things that do not
/// exist.
async fn things(fixture: &Fixture, operation: &str, subject: &Subject) -> Vec<Vec<String>> {
    let (method, template) = parts(operation);
    let names = |existing: String, missing: &[&str]| {
        let missing = missing.iter().map(|name| vec![(*name).to_owned()]);
        std::iter::once(vec![existing]).chain(missing).collect()
    };
    match template {
        "/api/sessions/{id}" => {
            // Creates a second session, so that the request does not end the session of the caller.
            fixture.token(&subject.user_name).await;
            let sessions = fixture.act_as(&subject.user_name, Method::GET, "/api/sessions", None).await.json();
            let last = sessions.as_array().unwrap().last().unwrap()["id"].to_string();
            names(last, &[NO_ID, "0", "x"])
        }
        "/api/api-keys/{id}" => {
            let (revoked, kept) = (fixture.key(&["read"]).await.1, fixture.key(&["read"]).await.1);
            let target = format!("/api/api-keys/{revoked}");
            let answer = crate::support::answer_of(fixture.open_server.request(Method::DELETE, &target)).await;
            assert_eq!(answer.status, 204);
            names(kept.to_string(), &[NO_ID, "0", "x", &revoked.to_string()])
        }
        "/api/webhooks/{id}"
        | "/api/webhooks/{id}/deliveries"
        | "/api/webhooks/{id}/replay"
        | "/api/webhooks/{id}/rotate-secret"
        | "/api/webhooks/{id}/test" => {
            // Deletes older webhooks, because the number of webhooks is limited.
            for old in fixture.open_server.get("/api/webhooks").await.json().as_array().unwrap() {
                let target = format!("/api/webhooks/{}", old["id"]);
                crate::support::answer_of(fixture.open_server.request(Method::DELETE, &target)).await;
            }
            // Nobody listens at this port, so a test of the webhook fails at once.
            let new = json!({"url": "http://127.0.0.1:9/hook", "enabled": false});
            let made = fixture.open_server.post("/api/webhooks", &new).await.json();
            names(made["id"].to_string(), &[NO_ID, "0", "x"])
        }
        "/api/friends/{user_name}" | "/api/blocks/{user_name}" => {
            let other = fixture.subject(None).await.user_name;
            if method == "DELETE" {
                // Creates the friend request or the block that the operation ends.
                let target = template.replace("{user_name}", &other);
                fixture.act_as(&subject.user_name, Method::PUT, &target, None).await;
            }
            names(other, &[NEVER, ERASED])
        }
        "/api/attachments/{id}" | "/api/attachments/{id}/thumbnail" | "/api/attachments/{id}/links" => {
            names(picture(fixture, subject).await.to_string(), &[NO_ID, "0", "x"])
        }
        "/api/files/{token}" => {
            let target = format!("/api/attachments/{}/links", picture(fixture, subject).await);
            let made = fixture.act_as(&subject.user_name, Method::POST, &target, Some(&json!({}))).await.json();
            let token = made["url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            let changed = token.replace(|letter: char| letter.is_ascii_uppercase(), "a");
            names(token, &["x", "AAAA", &changed])
        }
        "/api/uploads/{id}" => {
            let request =
                fixture.open_server.request(Method::POST, "/api/uploads").header("x-act-as", &subject.user_name);
            let request = request.header("tus-resumable", "1.0.0").header("upload-length", 1_000);
            let made = crate::support::answer_of(request).await.json();
            names(made["id"].to_string(), &[NO_ID, "0", "x"])
        }
        "/api/emoji/{name}" => {
            let name = fixture.new_name("emoji");
            if method == "PUT" {
                return vec![vec![name]];
            }
            add_emoji(fixture, &name).await;
            names(name, &["nowhere", "x"])
        }
        "/api/gifs/{id}" | "/api/gifs/{id}/preview" | "/api/gifs/{id}/attach" => {
            names(add_gif(fixture, "a").await.to_string(), &[NO_ID, "0", "x"])
        }
        "/api/gifs/packs/{pack}" => {
            let pack = fixture.new_name("pack");
            add_gif(fixture, &pack).await;
            names(pack, &["nowhere"])
        }
        "/api/emoji/custom/{id}" => {
            let id = add_emoji(fixture, &fixture.new_name("emoji")).await;
            names(id.to_string(), &[NO_ID, "0", "x"])
        }
        "/api/scheduled/{id}" => {
            let name = &subject.user_name;
            let new = json!({"recipient_user_name": name, "body": "later", "send_at": "2027-06-01T00:00:00Z"});
            let made = fixture.act_as(name, Method::POST, "/api/messages", Some(&new)).await.json();
            names(made["id"].to_string(), &[NO_ID, "0", "x"])
        }
        "/api/conversations/{id}"
        | "/api/conversations/{id}/avatar"
        | "/api/conversations/{id}/members"
        | "/api/conversations/{id}/invites"
        | "/api/conversations/{id}/incoming-webhooks" => {
            let (group, _) = group(fixture, subject).await;
            names(group, &[NO_ID, "0", "x"])
        }
        "/api/conversations/{id}/members/{user_name}" => {
            let (group, member) = group(fixture, subject).await;
            let stranger = fixture.subject(None).await.user_name;
            let whom = if method == "DELETE" { member } else { stranger };
            [(&*group, &*whom), (NO_ID, &whom), ("x", &whom)]
                .map(|(id, name)| vec![id.to_owned(), name.to_owned()])
                .into()
        }
        "/api/conversations/{id}/invites/{invite_id}" => {
            let (group, _) = group(fixture, subject).await;
            let target = format!("/api/conversations/{group}/invites");
            let made = fixture.act_as(&subject.user_name, Method::POST, &target, None).await.json();
            let invite = made["id"].to_string();
            [(&*group, &*invite), (&group, NO_ID), (&group, "x")]
                .map(|(id, invite)| vec![id.to_owned(), invite.to_owned()])
                .into()
        }
        "/api/conversations/{id}/incoming-webhooks/{hook_id}" => {
            let (group, hook) = incoming_webhook(fixture, subject).await;
            let hook = hook["id"].to_string();
            [(&*group, &*hook), (&group, NO_ID), (&group, "x")]
                .map(|(id, hook)| vec![id.to_owned(), hook.to_owned()])
                .into()
        }
        "/api/hooks/{token}" => {
            let (_, hook) = incoming_webhook(fixture, subject).await;
            let token = hook["url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            names(token, &["phh_none", "x"])
        }
        "/api/invites/{code}" => {
            let (group, member) = group(fixture, subject).await;
            // Makes the member a second owner, so that the subject can leave the group and join again with the invite.
            let target = format!("/api/conversations/{group}/members/{member}");
            fixture.act_as(&subject.user_name, Method::PUT, &target, Some(&json!({"role": "owner"}))).await;
            let target = format!("/api/conversations/{group}/invites");
            let made = fixture.act_as(&member, Method::POST, &target, None).await.json();
            let target = format!("/api/conversations/{group}/members/me");
            assert_eq!(fixture.act_as(&subject.user_name, Method::DELETE, &target, None).await.status, 204);
            names(made["code"].as_str().unwrap().to_owned(), &["phi_none", "x"])
        }
        "/api/conversations/{id}/messages/{seq}/report" | "/api/conversations/{id}/messages/{seq}/forward" => {
            // Creates a message of another user, because users report and forward messages of others.
            let other = fixture.subject(None).await.user_name;
            messages(&fixture.open_server.send(&other, &subject.user_name, "a word to you").await)
        }
        "/api/conversations/{id}/messages/{seq}/reactions/{emoji}" => {
            let message = fixture.open_server.send(&subject.user_name, &subject.user_name, "a note to myself").await;
            let emoji = ":tada:".to_owned();
            let things: Vec<Vec<String>> =
                messages(&message).into_iter().map(|place| [place, vec![emoji.clone()]].concat()).collect();
            if method == "DELETE" {
                let target = fill_in(template, things[0].clone());
                fixture.act_as(&subject.user_name, Method::PUT, &target, None).await;
            }
            things
        }
        "/api/password-resets/{code}" => {
            let target = format!("/api/admin/users/{}/password-resets", subject.user_name);
            let code = fixture.open_server.post(&target, &json!({})).await.json()["code"].as_str().unwrap().to_owned();
            names(code, &["phr_none", "x"])
        }
        "/api/email-confirmations/{code}" => names(confirmation_code(fixture, subject).await, &["phe_none", "x"]),
        _ => {
            let parameters: Vec<&str> = template.split('/').filter(|part| part.starts_with('{')).collect();
            let note = || fixture.open_server.send(&subject.user_name, &subject.user_name, "a note to myself");
            match parameters[..] {
                [] => vec![Vec::new()],
                ["{user_name}"] => names(subject.user_name.clone(), &[NEVER, ERASED, "so%20not"]),
                ["{id}"] if template == "/api/messages/by-id/{id}" => {
                    names(note().await["id"].to_string(), &[NO_ID, "0", "x"])
                }
                ["{id}"] if template.starts_with("/api/conversations/") => {
                    names(note().await["conversation_id"].to_string(), &[NO_ID, "0", "x"])
                }
                ["{id}", "{seq}"] => messages(&note().await),
                _ => panic!("{template}: add values for its parameters here"),
            }
        }
    }
}

/// A picture that the subject has uploaded. Returns its id.
async fn picture(fixture: &Fixture, subject: &Subject) -> i64 {
    let bytes = crate::support::files::png(30, 30);
    crate::support::files::uploaded(&fixture.open_server, &subject.user_name, "a.png", &bytes).await
}

/// Conversation id and seq of a message, followed by pairs that name no message.
fn messages(message: &Value) -> Vec<Vec<String>> {
    let (id, seq) = (message["conversation_id"].to_string(), message["seq"].to_string());
    [(&*id, &*seq), (&id, "2"), (&id, "x"), (NO_ID, "1"), (NO_ID, NO_ID), ("x", "1")]
        .map(|(id, seq)| vec![id.to_owned(), seq.to_owned()])
        .into()
}

/// Adds a custom emoji, and returns its id.
async fn add_emoji(fixture: &Fixture, name: &str) -> i64 {
    let request = fixture.open_server.request(Method::PUT, &format!("/api/emoji/{name}"));
    let answer = crate::support::answer_of(request.body(crate::support::files::png(8, 8))).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()["id"].as_i64().unwrap()
}

/// Adds a GIF to a pack, and returns its id.
async fn add_gif(fixture: &Fixture, pack: &str) -> i64 {
    let request = fixture.open_server.request(Method::POST, &format!("/api/gifs?pack={pack}&title=a"));
    let answer = crate::support::answer_of(request.body(crate::support::files::gif(8, 8))).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()["id"].as_i64().unwrap()
}

/// A group that the subject owns, with another member.
async fn group(fixture: &Fixture, subject: &Subject) -> (String, String) {
    let member = fixture.subject(None).await.user_name;
    let new = json!({"kind": "group", "title": "a group", "member_user_names": [member]});
    let made = fixture.act_as(&subject.user_name, Method::POST, "/api/conversations", Some(&new)).await.json();
    (made["id"].to_string(), member)
}

/// A group that the subject owns, and an incoming webhook of it.
async fn incoming_webhook(fixture: &Fixture, subject: &Subject) -> (String, Value) {
    let (group, _) = group(fixture, subject).await;
    let target = format!("/api/conversations/{group}/incoming-webhooks");
    let made = fixture.act_as(&subject.user_name, Method::POST, &target, Some(&json!({"name": "CI"}))).await;
    (group, made.json())
}

/// Requests a code to confirm the subject's email address, and reads the code from the mail.
async fn confirmation_code(fixture: &Fixture, subject: &Subject) -> String {
    let mut mails = fixture.mails.lock().await;
    let target = format!("/api/users/{}/email-confirmations", subject.user_name);
    fixture.act_as(&subject.user_name, Method::POST, &target, None).await;
    loop {
        // Skips mails of other requests.
        let mail = mails.next_mail().await;
        if mail.to == subject.email {
            let word = mail.text.split_whitespace().find(|word| word.starts_with("phe_"));
            return word.unwrap_or_else(|| panic!("{}", mail.text)).to_owned();
        }
    }
}

async fn body(fixture: &Fixture, operation: &str, subject: &Subject) -> Option<Value> {
    let (method, template) = parts(operation);
    DOCUMENT["paths"][template][method.to_ascii_lowercase()].get("requestBody")?;
    Some(match operation {
        "POST /api/sessions" => json!({"user_name": subject.user_name, "password": PASSWORD}),
        "POST /api/password-resets" => json!({"email": subject.email}),
        "PUT /api/password-resets/{code}" => json!({"new_password": "nothing much, you?"}),
        "POST /api/users" => json!({"user_name": fixture.new_name("made"), "password": PASSWORD}),
        "PATCH /api/users/{user_name}" => json!({"first_name": "Rebecca"}),
        "PUT /api/users/{user_name}/password" => json!({"new_password": "nothing much, you?"}),
        "PUT /api/users/{user_name}/mfa" => json!({"code": offered_code(fixture, subject).await}),
        "POST /api/users/{user_name}/mfa/disable" => {
            let code = json!({"code": offered_code(fixture, subject).await});
            let target = format!("/api/users/{}/mfa", subject.user_name);
            let enabled = fixture.act_as(&subject.user_name, Method::PUT, &target, Some(&code)).await.json();
            json!({"password": PASSWORD, "code": enabled["recovery_codes"][0]})
        }
        "PATCH /api/conversations/{id}/messages/{seq}" => json!({"body": "hey"}),
        "POST /api/conversations/{id}/receipts" => json!({"read_seq": 1}),
        "POST /api/attachments" | "PATCH /api/uploads/{id}" => json!({"any": "file"}),
        "POST /api/attachments/{id}/links" => json!({"expires_in_s": 60}),
        "PUT /api/users/{user_name}/avatar" | "PUT /api/conversations/{id}/avatar" => {
            json!({"attachment_id": picture(fixture, subject).await})
        }
        "PUT /api/emoji/{name}" => BASE64_STANDARD.encode(crate::support::files::png(8, 8)).into(),
        "POST /api/gifs" => BASE64_STANDARD.encode(crate::support::files::gif(8, 8)).into(),
        "PATCH /api/emoji/{name}" => json!({"name": fixture.new_name("emoji")}),
        "POST /api/messages" => {
            json!({"sender_user_name": subject.user_name, "recipient_user_name": "other", "body": "Hey, whats up?"})
        }
        "POST /api/webhooks" => json!({"url": "https://example.com/hook", "enabled": false}),
        "PATCH /api/webhooks/{id}" => json!({"event_types": ["message.created"]}),
        "POST /api/webhooks/{id}/replay" => {
            json!({"after": fixture.open_server.get("/api/events").await.json()["cursor"]})
        }
        "POST /api/api-keys" => json!({"name": "the shop", "scopes": ["read"]}),
        "PUT /api/admin/users/{user_name}/role" => json!({"role": "admin"}),
        "POST /api/conversations/{id}/messages/{seq}/forward" => {
            let note = fixture.open_server.send(&subject.user_name, &subject.user_name, "more notes").await;
            json!({"conversation_id": note["conversation_id"]})
        }
        "POST /api/conversations/{id}/messages/{seq}/report" => json!({"reason": "This is spam."}),
        "PATCH /api/admin/reports" => json!({"id": reported(fixture, subject).await, "state": "resolved"}),
        "POST /api/conversations" => json!({"kind": "group", "title": "a group"}),
        "PATCH /api/conversations/{id}" => json!({"title": "another title"}),
        "PUT /api/conversations/{id}/members/{user_name}" | "POST /api/conversations/{id}/invites" => json!({}),
        "POST /api/conversations/{id}/incoming-webhooks" => json!({"name": "CI"}),
        "POST /api/hooks/{token}" => json!({"text": "The build is green."}),
        _ => panic!("{operation}: add a body for it here"),
    })
}

/// Makes the subject report a message that it has received. Returns the id of the report.
async fn reported(fixture: &Fixture, subject: &Subject) -> i64 {
    let other = fixture.subject(None).await.user_name;
    let message = fixture.open_server.send(&other, &subject.user_name, "a word to you").await;
    let target = format!("/api/conversations/{}/messages/{}/report", message["conversation_id"], message["seq"]);
    let body = json!({"reason": "This is spam."});
    let report = fixture.act_as(&subject.user_name, Method::POST, &target, Some(&body)).await.json();
    report["id"].as_i64().unwrap()
}

/// Requests a secret for an authenticator app. Returns the code that the app shows for it.
async fn offered_code(fixture: &Fixture, subject: &Subject) -> String {
    let target = format!("/api/users/{}/mfa", subject.user_name);
    let offer = fixture.act_as(&subject.user_name, Method::POST, &target, None).await.json();
    authenticator(offer["secret"].as_str().unwrap(), now_micros())
}
