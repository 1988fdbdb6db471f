//! `/api/conversations/{id}/incoming-webhooks` and `/api/hooks/{token}`: programs post messages into groups, in Slack's format.

use futures_util::future::join_all;
use posthaste::domain::access::principal::Access;
use posthaste::http::access::origin::OriginRules;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::operations::operations::{posthaste, text as text_of};
use crate::support::people::{delete, get, group, post, post_once, put, say};
use crate::support::process::{Process, Wrapping};
use crate::support::server::Answer;
use crate::support::{Options, Place, Server, answer_of};

/// Creates an incoming webhook of a group and returns the answer.
async fn create_webhook(server: &Server, person: &str, group: i64, name: &str) -> Value {
    let made = post(server, person, &path(group), json!({"name": name})).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.bytes));
    made.json()
}

fn path(group: i64) -> String {
    format!("/api/conversations/{group}/incoming-webhooks")
}

/// The path at which the webhook accepts messages.
fn target(hook: &Value) -> String {
    let url = hook["url"].as_str().unwrap();
    url[url.find("/api/").unwrap()..].to_owned()
}

/// Sends a text to a webhook, without credentials.
async fn send_text(server: &Server, target: &str, text: &str) -> Answer {
    server.post(target, &json!({"text": text})).await
}

async fn bytes(server: &Server, target: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
    let request = server.request(Method::POST, target).header("content-type", content_type);
    answer_of(request.body(body.into())).await
}

#[track_caller]
fn assert_ok(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    assert_eq!(answer.bytes, b"ok");
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
}

async fn messages(server: &Server, person: &str, group: i64) -> Vec<Value> {
    let answer = get(server, person, &format!("/api/conversations/{group}/messages?limit=200")).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json().as_array().unwrap().clone()
}

/// The texts of the messages of users and bots, without system messages.
async fn texts_in(server: &Server, person: &str, group: i64) -> Vec<String> {
    let texts = messages(server, person, group).await.into_iter().filter(|message| message["kind"] == "text");
    texts.map(|message| message["body"].as_str().unwrap().to_owned()).collect()
}

/// The name of the bot that sent the last message.
async fn last_sender(server: &Server, person: &str, group: i64) -> String {
    messages(server, person, group).await.last().unwrap()["sender_user_name"].as_str().unwrap().to_owned()
}

both!(a_program_posts_messages_into_a_group, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let made = create_webhook(&server, "bugs", group, "CI & Ünïts").await;
    assert_eq!(made["name"], "CI & Ünïts");
    assert_eq!((&made["conversation_id"], &made["created_by_user_name"]), (&json!(group), &json!("bugs")));
    assert!(made["created_at"].is_string());
    let url = made["url"].as_str().unwrap();
    let token = url.strip_prefix(&format!("http://{}/api/hooks/", server.address)).unwrap();
    assert!(token.len() >= 40, "{token}");
    // The URL is shown once, in this answer.
    let mut shown = made.clone();
    shown.as_object_mut().unwrap().remove("url");
    assert_eq!(get(&server, "bugs", &path(group)).await.json(), json!([shown]));
    assert!(!place.everything().await.contains(token));

    let cursor = server.get("/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    assert_ok(&send_text(&server, &target(&made), "The build is red, @duck!").await);
    let message = messages(&server, "duck", group).await.pop().unwrap();
    assert_eq!((&message["body"], &message["kind"]), (&json!("The build is red, @duck!"), &json!("text")));
    assert_eq!(message["mentions"], json!(["duck"]));
    let bot = message["sender_user_name"].as_str().unwrap().to_owned();
    assert!(bot.starts_with("ci-n-ts-bot-"), "{bot}");
    let user = server.get(&format!("/api/users/{bot}")).await.json();
    assert_eq!((&user["is_bot"], &user["first_name"]), (&json!(true), &json!("CI & Ünïts")));
    assert_eq!(user["id"], message["sender_id"]);
    assert_eq!(server.get("/api/users/duck").await.json()["is_bot"], false);
    let listed = server.get(&format!("/api/users?q={bot}")).await.json();
    assert_eq!(listed[0]["is_bot"], true);

    // The message becomes an event like any other message.
    let events = get(&server, "duck", &format!("/api/events?after={cursor}")).await.json();
    let created = events["events"].as_array().unwrap().iter().find(|event| event["type"] == "message.created");
    assert_eq!(created.unwrap()["data"]["sender_user_name"], *bot);
    let found = get(&server, "duck", &format!("/api/search/messages?q=red&from={bot}")).await.json();
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    let shown = get(&server, "duck", &format!("/api/conversations/{group}")).await.json();
    assert_eq!((&shown["me"]["unread_count"], &shown["me"]["mention_count"]), (&json!(1), &json!(1)), "{shown}");
    assert_eq!(shown["member_count"], 2);
    let doctor = posthaste(place, &["doctor"]);
    assert!(doctor.status.success(), "{}", text_of(&doctor));
});

both!(messages_in_the_format_of_slack_are_accepted, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let hook = target(&create_webhook(&server, "bugs", group, "CI").await);
    let full = json!({"text": "one", "username": "Somebody", "icon_emoji": ":tada:", "channel": "#general",
                      "attachments": [{"text": "more"}], "blocks": [], "unfurl_links": true});
    assert_ok(&server.post(&hook, &full).await);
    let form = |payload: &str| {
        format!("payload={}", url::form_urlencoded::byte_serialize(payload.as_bytes()).collect::<String>())
    };
    let content_type = "application/x-www-form-urlencoded";
    assert_ok(&bytes(&server, &hook, content_type, form(r#"{"text": "two & a half = 2½ + 0", "mrkdwn": true}"#)).await);
    let typed = "Application/X-WWW-Form-Urlencoded; charset=UTF-8";
    assert_ok(&bytes(&server, &hook, typed, format!("token=x&{}", form(r#"{"text": "three"}"#))).await);
    assert_ok(&bytes(&server, &hook, "application/json; charset=utf-8", r#"{"text": "four"}"#).await);
    let marked = form("\u{feff}{\"text\": \"five\"}");
    assert_ok(&bytes(&server, &hook, "application/x-www-form-urlencoded; charset=utf8", marked).await);
    assert_eq!(
        texts_in(&server, "duck", group).await,
        ["one\n\nmore", "two & a half = 2½ + 0", "three", "four", "five"]
    );

    server.post(&hook, &json!({})).await.invalid(&["text"]);
    server.post(&hook, &json!({"text": ""})).await.invalid(&["text"]);
    server.post(&hook, &json!({"text": null})).await.invalid(&["text"]);
    server.post(&hook, &json!({"text": 1})).await.invalid(&["text"]);
    server.post(&hook, &json!({"text": "a\0b"})).await.invalid(&["text"]);
    server.post(&hook, &json!(["text"])).await.invalid(&["body"]);
    server
        .post(&hook, &json!({"blocks": [{"type": "divider"}], "attachments": [{"text": "a\0b"}]}))
        .await
        .invalid(&["text"]);
    server.post(&hook, &json!({"blocks": "x", "attachments": [{"color": "good"}]})).await.invalid(&["text"]);
    assert_ok(&send_text(&server, &hook, &"é".repeat(8_000)).await);
    bytes(&server, &hook, content_type, "").await.invalid(&["payload"]);
    bytes(&server, &hook, content_type, "text=hey").await.invalid(&["payload"]);
    bytes(&server, &hook, content_type, form(r#"{"text": ""}"#)).await.invalid(&["text"]);
    bytes(&server, &hook, content_type, format!("{0}&{0}", form(r#"{"text": "x"}"#))).await.invalid(&["payload"]);
    bytes(&server, &hook, content_type, "payload=hey").await.invalid(&["payload"]);
    // Bytes that are not UTF-8 are refused. Stored with replacement characters, the text would be another one.
    for form in [
        b"payload=%7B%22text%22%3A%22caf%E9%22%7D".as_slice(),
        b"payload=%7B%22text%22%3A%22caf\xE9%22%7D",
        b"payload=%7B%22text%22%3A%22x%22%7D&note=caf%E9",
        b"caf%E9=x&payload=%7B%22text%22%3A%22x%22%7D",
        b"payload=%7B%22text%22%3A%22%ED%A0%80%22%7D",
        b"payload=%ff%00\xff",
    ] {
        let answer = bytes(&server, &hook, content_type, form).await;
        let problem = answer.problem(400, "malformed_form");
        assert!(problem["detail"].as_str().unwrap().contains("UTF-8"), "{problem}");
    }
    let latin = "application/x-www-form-urlencoded; charset=iso-8859-1";
    let answer = bytes(&server, &hook, latin, form(r#"{"text": "x"}"#)).await;
    answer.problem(415, "unsupported_media_type");
    bytes(&server, &hook, "application/json", "hey").await.problem(400, "malformed_json");
    for other in ["text/plain", "multipart/form-data; boundary=x", "application/json; charset=latin1", "x"] {
        bytes(&server, &hook, other, r#"{"text": "x"}"#).await.problem(415, "unsupported_media_type");
    }
    for content_type in ["application/json", content_type] {
        let huge = "x".repeat(1_024 * 1_024);
        bytes(&server, &hook, content_type, huge).await.problem(413, "body_too_large");
    }
    server.post(&format!("{hook}?wait=true"), &json!({"text": "x"})).await.invalid(&["wait"]);
    server.get(&hook).await.problem(405, "method_not_allowed");
    assert_eq!(texts_in(&server, "duck", group).await.len(), 6, "the five above and the long one");
    // A longer text is cut, and says so.
    assert_ok(&send_text(&server, &hook, &"é".repeat(8_001)).await);
    let cut = texts_in(&server, "duck", group).await.pop().unwrap();
    assert!(cut.chars().count() <= 8_000 && cut.starts_with("éé") && cut.ends_with("characters were cut off]"));
});

both!(attachments_and_blocks_become_text, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let hook = target(&create_webhook(&server, "bugs", group, "alerts").await);
    // As Grafana sends an alert.
    let grafana = json!({
        "channel": "#alerts", "username": "Grafana", "icon_url": "https://grafana.com/icon.png",
        "attachments": [{
            "color": "#D63232", "fallback": "[FIRING:1] DiskFull", "footer": "Grafana v11", "mrkdwn_in": ["pretext"],
            "title": "[FIRING:1] DiskFull", "title_link": "http://grafana.example/alerting/list",
            "text": "**Firing**\n\nValue: A=91 &gt; 90", "ts": 1_764_321_000, "image_url": "https://grafana.example/p.png"
        }]
    });
    // As Alertmanager sends one.
    let alertmanager = json!({
        "channel": "ops", "username": "alertmanager",
        "attachments": [{
            "title": "[RESOLVED] HighLatency", "title_link": "http://alertmanager.example/#/alerts", "pretext": "cluster *a*",
            "text": "<https://runbook.example/latency|Runbook>", "fallback": "[RESOLVED] HighLatency | http://…",
            "fields": [{"title": "severity", "value": "page", "short": true}, {"title": "job", "value": "api"}, {"value": 3}],
            "actions": [{"type": "button", "text": "Silence", "url": "http://alertmanager.example/#/silences"}]
        }, {"fallback": "only this"}]
    });
    // As a build server sends a report.
    let blocks = json!({
        "text": "Build 17 failed",
        "blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": "Build 17 failed"}},
            {"type": "section", "text": {"type": "mrkdwn", "text": "in *main* by <@U024BE7LH>"},
             "accessory": {"type": "button", "text": {"type": "plain_text", "text": "Log"}, "url": "https://ci.example/17"}},
            {"type": "section", "fields": [{"type": "mrkdwn", "text": "*Took:* 3 min"}, {"type": "plain_text", "text": "Try 2"}]},
            {"type": "divider"},
            {"type": "context", "elements": [{"type": "image", "image_url": "https://ci.example/i.png", "alt_text": "icon"},
                                             {"type": "mrkdwn", "text": "a commit"}]},
            {"type": "actions", "elements": [{"type": "button", "text": {"type": "plain_text", "text": "Retry"}, "value": "x"}]},
            {"type": "rich_text", "elements": [
                {"type": "rich_text_section", "elements": [{"type": "text", "text": "See "}, {"type": "link", "url": "https://a.example", "text": "a"}]},
                {"type": "rich_text_list", "elements": [{"type": "rich_text_section", "elements": [{"type": "text", "text": "one"}]}]}]},
            {"type": "unknown", "surprise": true}
        ]
    });
    for message in [grafana, alertmanager, blocks] {
        assert_ok(&server.post(&hook, &message).await);
    }
    assert_eq!(
        texts_in(&server, "duck", group).await,
        [
            "[FIRING:1] DiskFull (http://grafana.example/alerting/list)\n**Firing**\n\nValue: A=91 > 90\n\
             https://grafana.example/p.png\nGrafana v11",
            "cluster *a*\n[RESOLVED] HighLatency (http://alertmanager.example/#/alerts)\n\
             Runbook (https://runbook.example/latency)\nseverity: page\njob: api\n3\n\
             Silence (http://alertmanager.example/#/silences)\n\nonly this",
            "Build 17 failed\nin *main* by @U024BE7LH\nLog (https://ci.example/17)\n*Took:* 3 min\nTry 2\n———\n\
             icon (https://ci.example/i.png) a commit\nRetry\nSee a (https://a.example)\n• one",
        ]
    );
    // A text that the blocks do not contain comes first.
    let message =
        json!({"text": "summary", "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "details"}}]});
    assert_ok(&server.post(&hook, &message).await);
    assert_eq!(texts_in(&server, "duck", group).await.pop().unwrap(), "summary\n\ndetails");
});

both!(an_unknown_token_answers_like_a_path_that_does_not_exist, async |place| {
    let server = Server::start_with(place, Options { access: Access::Secured, ..Options::default() }).await;
    let open = Server::start(place).await;
    let group = group(&open, "bugs", &["duck"], "all").await;
    let made = create_webhook(&open, "bugs", group, "CI").await;
    // Under secured access, posting to the webhook needs no credentials, and managing webhooks does.
    assert_ok(&send_text(&server, &target(&made), "hey").await);
    server.post(&path(group), &json!({"name": "CI"})).await.problem(401, "unauthenticated");
    let mut wrong: Vec<String> = (0..40).map(|index| format!("/api/hooks/phh_{index:043}")).collect();
    let right = target(&made);
    wrong.extend([
        right.to_lowercase(),
        right.to_uppercase().replace("API/HOOKS", "api/hooks").replacen("/API", "/api", 1),
    ]);
    wrong.extend([
        format!("{right}A"),
        right[..right.len() - 1].to_owned(),
        format!("/api/hooks/{}", "x".repeat(9_000)),
    ]);
    wrong.extend(["/api/hooks/x".into(), "/api/hooks/%27%20OR%201=1".into(), format!("/api/hooks/{}", made["id"])]);
    for target in wrong {
        let mut problem = send_text(&server, &target, "hey").await.problem(404, "incoming_webhook_not_found");
        problem["request_id"] = Value::Null;
        assert!(!problem.to_string().contains("phh_"), "{problem}");
    }
    assert_eq!(texts_in(&open, "duck", group).await, ["hey"]);
});

both!(roles_decide_who_creates_lists_and_deletes_webhooks, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck", "porky"], "all").await;
    let made = create_webhook(&server, "bugs", group, "CI").await;
    let one = format!("{}/{}", path(group), made["id"]);
    for name in ["", &"x".repeat(33), "a\0b"] {
        post(&server, "bugs", &path(group), json!({"name": name})).await.invalid(&["name"]);
    }
    post(&server, "bugs", &path(group), json!({})).await.invalid(&["name"]);
    post(&server, "bugs", &path(group), json!({"name": "x", "channel": 1})).await.invalid(&["channel"]);
    let direct = server.send("bugs", "duck", "hey").await["conversation_id"].as_i64().unwrap();
    post(&server, "bugs", &path(direct), json!({"name": "CI"})).await.problem(409, "not_a_group");
    get(&server, "bugs", &path(direct)).await.problem(409, "not_a_group");
    delete(&server, "bugs", &format!("{}/1", path(direct))).await.problem(409, "not_a_group");
    post(&server, "duck", &path(group), json!({"name": "CI"})).await.problem(403, "insufficient_role");
    get(&server, "duck", &path(group)).await.problem(403, "insufficient_role");
    delete(&server, "duck", &one).await.problem(403, "insufficient_role");
    delete(&server, "bugs", &format!("{}/{}", path(group), 999)).await.problem(404, "incoming_webhook_not_found");
    let elsewhere = self::group(&server, "porky", &["duck"], "all").await;
    // The webhook belongs to another group.
    let misplaced = format!("{}/{}", path(elsewhere), made["id"]);
    delete(&server, "porky", &misplaced).await.problem(404, "incoming_webhook_not_found");
    for index in 0..19 {
        create_webhook(&server, "bugs", group, &format!("CI {index}")).await;
    }
    post(&server, "bugs", &path(group), json!({"name": "x"})).await.problem(409, "too_many_incoming_webhooks");
    let listed: Vec<Value> = {
        let page = get(&server, "bugs", &format!("{}?limit=15", path(group))).await;
        let rest = get(&server, "bugs", &page.next().unwrap()).await;
        assert_eq!(rest.next(), None);
        page.json().as_array().unwrap().iter().chain(rest.json().as_array().unwrap()).cloned().collect()
    };
    assert_eq!(listed.len(), 20);
    assert!(listed.iter().all(|hook| hook.get("url").is_none()));
    assert_eq!(delete(&server, "bugs", &one).await.status, 204);
    delete(&server, "bugs", &one).await.problem(404, "incoming_webhook_not_found");
    send_text(&server, &target(&made), "hey").await.problem(404, "incoming_webhook_not_found");
    create_webhook(&server, "bugs", group, "CI").await;

    // A repeat with the same key creates nothing and shows the URL again.
    let place = path(elsewhere);
    let first = post_once(&server, "porky", &place, "key", json!({"name": "CI"})).await;
    let again = post_once(&server, "porky", &place, "key", json!({"name": "CI"})).await;
    assert_eq!((first.status.as_u16(), &first.bytes), (201, &again.bytes));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(get(&server, "porky", &place).await.json().as_array().unwrap().len(), 1);
});

both!(messages_stay_after_their_webhook_is_deleted, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let made = create_webhook(&server, "bugs", group, "CI").await;
    assert_ok(&send_text(&server, &target(&made), "a trace of it").await);
    let bot = last_sender(&server, "duck", group).await;
    assert_eq!(delete(&server, "bugs", &format!("{}/{}", path(group), made["id"])).await.status, 204);
    let kept = messages(&server, "duck", group).await.pop().unwrap();
    assert_eq!((&kept["body"], &kept["sender_user_name"]), (&json!("a trace of it"), &json!(bot)));
    assert_eq!(server.get(&format!("/api/users/{bot}")).await.json()["is_bot"], true);
    // An administrator erases the bot together with its messages.
    assert_eq!(
        answer_of(server.request(Method::DELETE, &format!("/api/users/{bot}?messages=delete"))).await.status,
        204
    );
    let kept = messages(&server, "duck", group).await.pop().unwrap();
    assert_eq!((&kept["body"], &kept["sender_user_name"]), (&json!(""), &Value::Null), "{kept}");
    assert!(!place.everything().await.contains("a trace of it"));

    // Erasing the bot of a webhook that still exists deletes the webhook.
    let made = create_webhook(&server, "bugs", group, "CI").await;
    assert_ok(&send_text(&server, &target(&made), "another trace").await);
    let bot = last_sender(&server, "duck", group).await;
    assert_eq!(
        answer_of(server.request(Method::DELETE, &format!("/api/users/{bot}?messages=delete"))).await.status,
        204
    );
    send_text(&server, &target(&made), "hey").await.problem(404, "incoming_webhook_not_found");
    assert_eq!(get(&server, "bugs", &path(group)).await.json(), json!([]));
    assert!(!place.everything().await.contains("another trace"));

    // The webhook of a banned bot is refused until the ban is lifted.
    let made = create_webhook(&server, "bugs", group, "CI").await;
    assert_ok(&send_text(&server, &target(&made), "one").await);
    let ban = format!("/api/admin/users/{}/ban", last_sender(&server, "duck", group).await);
    assert_eq!(answer_of(server.request(Method::PUT, &ban)).await.status, 204);
    send_text(&server, &target(&made), "two").await.problem(404, "incoming_webhook_not_found");
    assert_eq!(answer_of(server.request(Method::DELETE, &ban)).await.status, 204);
    assert_ok(&send_text(&server, &target(&made), "three").await);
    assert_eq!(texts_in(&server, "duck", group).await[2..], ["one", "three"]);
});

both!(a_webhook_belongs_to_its_group_and_ends_with_it, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck", "porky"], "all").await;
    let role = json!({"role": "owner"});
    let member = format!("/api/conversations/{group}/members/duck");
    let raised = answer_of(server.request(Method::PUT, &member).header("x-act-as", "bugs").json(&role)).await;
    assert_eq!(raised.status, 200);
    let made = create_webhook(&server, "bugs", group, "CI").await;
    // The creator of the webhook leaves the group and is erased.
    assert_eq!(delete(&server, "bugs", &format!("/api/conversations/{group}/members/me")).await.status, 204);
    assert_ok(&send_text(&server, &target(&made), "still here").await);
    get(&server, "bugs", &path(group)).await.problem(404, "conversation_not_found");
    assert_eq!(get(&server, "duck", &path(group)).await.json()[0]["created_by_user_name"], "bugs");
    assert_eq!(answer_of(server.request(Method::DELETE, "/api/users/bugs")).await.status, 204);
    assert_eq!(get(&server, "duck", &path(group)).await.json()[0]["created_by_user_name"], Value::Null);
    assert_ok(&send_text(&server, &target(&made), "and still").await);
    assert_eq!(delete(&server, "duck", &format!("/api/conversations/{group}")).await.status, 204);
    send_text(&server, &target(&made), "hey").await.problem(404, "incoming_webhook_not_found");
    get(&server, "duck", &path(group)).await.problem(404, "conversation_not_found");
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.incoming_webhooks").await, [[0]]);
    // The webhook is also deleted when the last member leaves.
    let group = self::group(&server, "duck", &[], "all").await;
    let made = create_webhook(&server, "duck", group, "CI").await;
    assert_eq!(delete(&server, "duck", &format!("/api/conversations/{group}/members/me")).await.status, 204);
    send_text(&server, &target(&made), "hey").await.problem(404, "incoming_webhook_not_found");
});

both!(nobody_can_use_the_account_of_a_bot, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let made = create_webhook(&server, "bugs", group, "CI").await;
    assert_ok(&send_text(&server, &target(&made), "hey").await);
    let bot = last_sender(&server, "duck", group).await;
    // A bot cannot log in, not even under open access.
    let log_in = server.post("/api/sessions", &json!({"user_name": bot})).await;
    log_in.problem(401, "invalid_credentials");
    get(&server, &bot, "/api/conversations").await.invalid(&["X-Act-As"]);
    let later = json!(server.app.clock.now().plus_micros(3_600_000_000).to_string());
    for to in [json!({"conversation_id": group}), json!({"recipient_user_name": "duck"})] {
        for later in [&Value::Null, &later] {
            let mut new = to.clone();
            new["sender_user_name"] = json!(bot);
            new["body"] = json!("hey");
            if later.is_string() {
                new["send_at"] = later.clone();
            }
            server.post("/api/messages", &new).await.invalid(&["sender_user_name"]);
        }
    }
    // A bot has no friends, accepts no direct messages, and is a member of no group.
    put(&server, "duck", &format!("/api/friends/{bot}")).await.problem(409, "is_bot");
    let direct = json!({"recipient_user_name": bot, "body": "hey"});
    post(&server, "duck", "/api/messages", direct.clone()).await.problem(403, "not_friends");
    let changed = server.request(Method::PATCH, &format!("/api/users/{bot}"));
    let changed = answer_of(changed.json(&json!({"direct_messages_from": "everyone"}))).await;
    assert_eq!(changed.status, 200);
    post(&server, "duck", "/api/messages", direct).await.problem(403, "not_friends");
    let opened = json!({"kind": "direct", "user_name": bot});
    post(&server, "duck", "/api/conversations", opened).await.problem(403, "not_friends");
    let with_it = json!({"kind": "group", "title": "x", "member_user_names": [bot]});
    post(&server, "bugs", "/api/conversations", with_it).await.problem(403, "not_friends");
    for role in ["member", "owner"] {
        let member = server.request(Method::PUT, &format!("/api/conversations/{group}/members/{bot}"));
        answer_of(member.header("x-act-as", "bugs").json(&json!({"role": role}))).await.problem(403, "not_friends");
    }
    delete(&server, "bugs", &format!("/api/conversations/{group}/members/{bot}"))
        .await
        .problem(404, "member_not_found");
    let members = get(&server, "duck", &format!("/api/conversations/{group}/members")).await.json();
    assert_eq!(members.as_array().unwrap().len(), 2);
    // A reset code from an administrator does not let a bot log in either.
    let code = server.post(&format!("/api/admin/users/{bot}/password-resets"), &json!({})).await.json();
    let reset = server.request(Method::PUT, &format!("/api/password-resets/{}", code["code"].as_str().unwrap()));
    answer_of(reset.json(&json!({"new_password": "what's up, doc?"}))).await;
    let log_in = server.post("/api/sessions", &json!({"user_name": bot, "password": "what's up, doc?"})).await;
    log_in.problem(401, "invalid_credentials");
});

both!(a_bot_does_not_count_in_receipts, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let made = create_webhook(&server, "bugs", group, "CI").await;
    assert_ok(&send_text(&server, &target(&made), "from the bot").await);
    let sent = say(&server, "bugs", group, "from bugs", None).await;
    let read = json!({"read_seq": sent["seq"]});
    assert_eq!(post(&server, "duck", &format!("/api/conversations/{group}/receipts"), read).await.status, 200);
    for message in messages(&server, "bugs", group).await.iter().filter(|message| message["kind"] == "text") {
        assert!(message["timestamp_read"].is_string(), "{message}");
        assert!(message["timestamp_delivered"].is_string(), "{message}");
    }
    let readers = format!("/api/conversations/{group}/messages/{}/receipts", sent["seq"]);
    let readers = get(&server, "bugs", &readers).await.json();
    assert_eq!(readers.as_array().unwrap().len(), 1, "{readers}");
    // The name of a bot in a text is no mention.
    let bot = messages(&server, "bugs", group).await.into_iter().find(|message| message["body"] == "from the bot");
    let bot = bot.unwrap()["sender_user_name"].as_str().unwrap().to_owned();
    let said = say(&server, "duck", group, &format!("thanks, @{bot}"), None).await;
    assert_eq!(said["mentions"], json!([]));
    // Members may reply to a bot's message and react to it, and admins may delete it.
    let seq = said["seq"].as_i64().unwrap() - 2;
    let place_of = format!("/api/conversations/{group}/messages/{seq}");
    assert_eq!(put(&server, "duck", &format!("{place_of}/reactions/:tada:")).await.status, 201);
    delete(&server, "duck", &place_of).await.problem(403, "not_your_message");
    assert_eq!(delete(&server, "bugs", &place_of).await.status, 204);
});

both!(fifty_requests_together_are_fifty_messages, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let hook = target(&create_webhook(&server, "bugs", group, "CI").await);
    let texts: Vec<String> = (0..50).map(|index| format!("number {index:02}")).collect();
    for answer in join_all(texts.iter().map(|text| send_text(&server, &hook, text))).await {
        assert_ok(&answer);
    }
    let mut found = texts_in(&server, "duck", group).await;
    found.sort();
    assert_eq!(found, texts);
    let seqs: Vec<i64> =
        messages(&server, "duck", group).await.iter().map(|message| message["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as i64).collect::<Vec<_>>());
    // Repeats with the same idempotency key are one message.
    let once = || {
        let request = server.request(Method::POST, &hook).header("idempotency-key", "build 7");
        answer_of(request.json(&json!({"text": "once"})))
    };
    let answers = join_all((0..8).map(|_| once())).await;
    answers.iter().for_each(assert_ok);
    let replayed = |answer: &&Answer| answer.header("idempotency-replayed") == Some("true");
    assert_eq!(answers.iter().filter(replayed).count(), 7);
    assert_eq!(texts_in(&server, "duck", group).await.iter().filter(|body| *body == "once").count(), 1);
    let request = server.request(Method::POST, &hook).header("idempotency-key", "build 7");
    let other = answer_of(request.json(&json!({"text": "twice"}))).await;
    other.problem(422, "idempotency_key_reused");
});

both!(a_webhook_has_a_rate_limit, async |place| {
    let open = Server::start(place).await;
    let group = group(&open, "bugs", &["duck"], "all").await;
    let (one, other) =
        (create_webhook(&open, "bugs", group, "one").await, create_webhook(&open, "bugs", group, "other").await);
    let server = Server::start_with(place, Options { rate_limits: true, ..Options::default() }).await;
    let mut granted = 0;
    let refused = loop {
        let answer = send_text(&server, &target(&one), "hey").await;
        if answer.status != 200 {
            break answer;
        }
        granted += 1;
    };
    // One address may send a burst of 60 requests, so the refusal comes from the webhook's own limit.
    assert!((30..45).contains(&granted), "{granted}");
    refused.problem(429, "rate_limited");
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_ok(&send_text(&server, &target(&other), "hey").await);
});

both!(a_webhook_works_after_a_restart_and_shows_the_public_url, async |place| {
    let origins = || OriginRules { public_origin: Some("https://chat.example.org".into()), ..OriginRules::default() };
    let server = Server::start_with(place, Options { origins: origins(), ..Options::default() }).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let made = create_webhook(&server, "bugs", group, "CI").await;
    assert!(made["url"].as_str().unwrap().starts_with("https://chat.example.org/api/hooks/phh_"), "{made}");
    assert_ok(&send_text(&server, &target(&made), "before").await);
    server.stop().await;
    let server = Server::start(place).await;
    assert_ok(&send_text(&server, &target(&made), "after").await);
    assert_eq!(texts_in(&server, "duck", group).await, ["before", "after"]);
    let senders: Vec<Value> = messages(&server, "duck", group)
        .await
        .iter()
        .rev()
        .take(2)
        .map(|message| message["sender_id"].clone())
        .collect();
    assert_eq!(senders[0], senders[1]);
    let lines = String::from_utf8(server.get("/api/users/bugs/export").await.bytes).unwrap();
    let line = lines.lines().find(|line| line.contains("\"type\":\"incoming_webhook\"")).unwrap();
    assert!(line.contains("\"name\":\"CI\""), "{line}");
    let token = made["url"].as_str().unwrap().rsplit('/').next().unwrap();
    assert!(!lines.contains(token));
});

async fn process(place: &Place) -> Process {
    let arguments = vec!["--log".into(), "debug".into()];
    Process::start_wrapped(place, Wrapping { arguments, ..Wrapping::default() }).await
}

both!(a_token_is_in_no_log_and_no_metric, async |place| {
    let process = process(place).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let call = |method: Method, target: &str, body: Value| {
        let request = client.request(method, format!("http://{}{target}", process.address)).header("x-act-as", "bugs");
        answer_of(request.json(&body))
    };
    let new = json!({"kind": "group", "title": "x", "member_user_names": ["duck"]});
    let group = call(Method::POST, "/api/conversations", new).await.json()["id"].as_i64().unwrap();
    let made = call(Method::POST, &path(group), json!({"name": "CI"})).await.json();
    let target = target(&made);
    assert_ok(&call(Method::POST, &target, json!({"text": "hey"})).await);
    call(Method::POST, &target, json!({"text": ""})).await.invalid(&["text"]);
    call(Method::GET, &target, json!({})).await.problem(405, "method_not_allowed");
    let gone = format!("{target}x");
    let problem = call(Method::POST, &gone, json!({"text": "hey"})).await.problem(404, "incoming_webhook_not_found");
    let metrics = String::from_utf8(call(Method::GET, "/metrics", json!({})).await.bytes).unwrap();
    assert!(metrics.contains("route=\"/api/hooks/{token}\""), "{metrics}");
    let token = target.rsplit('/').next().unwrap();
    let log = process.log();
    assert!(log.contains("/api/hooks/{token}"), "{log}");
    for text in [log, metrics, problem.to_string()] {
        assert!(!text.contains(token), "{text}");
    }
    process.terminate().await;
});

both!(an_outgoing_webhook_to_an_incoming_one_makes_no_loop, async |place| {
    let server = Server::start_with(place, Options { webhook_allow_private: true, ..Options::default() }).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let made = create_webhook(&server, "bugs", group, "echo").await;
    let url = format!("http://{}{}", server.address, target(&made));
    // A delivery of an outgoing webhook has no field `text`, so the incoming webhook refuses it, and the refusal creates no
    // event.
    let new = json!({"url": url, "event_types": ["message.created"]});
    let webhook = server.post("/api/webhooks", &new).await.json();
    say(&server, "duck", group, "hey", None).await;
    let started = std::time::Instant::now();
    loop {
        let ledger = server.get(&format!("/api/webhooks/{}/deliveries", webhook["id"])).await.json();
        if ledger[0]["last_status"] == 422 {
            break;
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{ledger}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(texts_in(&server, "duck", group).await, ["hey"]);
});
