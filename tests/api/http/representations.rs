//! Encodings, entity tags and conditional requests (RFC 9110): what caches and careful clients rely on.

use std::collections::BTreeSet;

use posthaste::base::time::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::people::{get, group, path_of, post, say};
use crate::support::server::Answer;
use crate::support::{Server, answer_of};

/// Headers that differ between two answers, or that only an answer with a body has.
const PASSING: [&str; 4] = ["date", "x-request-id", "transfer-encoding", "content-length"];

async fn ask(server: &Server, person: &str, method: Method, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = server.request(method, target).header("x-act-as", person);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer_of(request).await
}

async fn change(server: &Server, person: &str, target: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut request = server.request(Method::PATCH, target).header("x-act-as", person);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer_of(request.json(body)).await
}

fn tag(answer: &Answer) -> String {
    let tag = answer.header("etag").expect("the answer has no ETag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "a weak tag: {tag}");
    tag
}

#[track_caller]
fn assert_varies(answer: &Answer) {
    let lines: Vec<&str> = answer.headers.get_all("vary").iter().map(|line| line.to_str().unwrap()).collect();
    let vary = lines.join(", ").to_lowercase();
    assert_eq!(vary.matches("accept-encoding").count(), 1, "{vary}");
}

both!(each_encoding_of_an_answer_has_its_own_tag, async |place| {
    let server = Server::start(place).await;
    let message = path_of(&server.send("bugs", "duck", &"again and ".repeat(500)).await);
    let mut tags = Vec::new();
    for encoding in ["identity", "gzip", "br"] {
        let answer = ask(&server, "bugs", Method::GET, &message, &[("accept-encoding", encoding)]).await;
        assert_eq!(answer.header("content-encoding").unwrap_or("identity"), encoding);
        assert_varies(&answer);
        tags.push((encoding, tag(&answer)));
    }
    assert_eq!(tags.iter().map(|(_, tag)| tag).collect::<BTreeSet<_>>().len(), 3, "{tags:?}");
    let plain = ask(&server, "bugs", Method::GET, &message, &[]).await;
    assert_eq!(tag(&plain), tags[0].1);
    assert_varies(&plain);
    for method in [Method::GET, Method::HEAD] {
        for (encoding, its_tag) in &tags {
            for (_, known) in &tags {
                for known in [known.clone(), format!("W/{known}"), format!("\"x\", {known}"), "*".to_owned()] {
                    let headers = [("accept-encoding", *encoding), ("if-none-match", &known)];
                    let answer = ask(&server, "bugs", method.clone(), &message, &headers).await;
                    assert_eq!(answer.status, 304, "{method} {known}");
                    assert_eq!((tag(&answer), answer.bytes.len()), (its_tag.clone(), 0));
                    assert_varies(&answer);
                    assert_eq!(answer.header("cache-control"), Some("no-store"));
                    for absent in ["content-encoding", "content-type", "content-length"] {
                        assert_eq!(answer.header(absent), None, "{method} {known} {absent}");
                    }
                }
            }
        }
    }
    let edited = change(&server, "bugs", &message, &[], &json!({"body": "again and ".repeat(501)})).await;
    assert_eq!(edited.status, 200);
    for (encoding, old) in &tags {
        let headers = [("accept-encoding", *encoding), ("if-none-match", old)];
        assert_eq!(ask(&server, "bugs", Method::GET, &message, &headers).await.status, 200);
        let headers = [("if-match", old.as_str())];
        ask(&server, "bugs", Method::GET, &message, &headers).await.problem(412, "precondition_failed");
    }
});

both!(head_has_the_headers_of_get, async |place| {
    let server = Server::start(place).await;
    let message = path_of(&server.send("bugs", "duck", &"again and ".repeat(500)).await);
    let targets = [
        message.as_str(),
        "/api/users/bugs",
        "/api/users",
        "/api/messages/bugs",
        "/api/messages/bugs?limit=1&since=2020-01-01",
        "/api/capabilities",
        "/openapi.json",
        "/docs/",
        "/healthz",
        "/metrics",
    ];
    for target in targets {
        for encoding in ["", "identity", "gzip", "br", "gzip;q=0.5, br;q=0.1"] {
            let headers = [("accept-encoding", encoding)];
            let headers = if encoding.is_empty() { &[][..] } else { &headers };
            let whole = ask(&server, "bugs", Method::GET, target, headers).await;
            let head = ask(&server, "bugs", Method::HEAD, target, headers).await;
            let shown = |answer: &Answer| -> BTreeSet<String> {
                let headers = answer.headers.iter().filter(|(name, _)| !PASSING.contains(&name.as_str()));
                headers.map(|(name, value)| format!("{name}: {value:?}")).collect()
            };
            assert_eq!((head.status, shown(&head)), (whole.status, shown(&whole)), "{target} {encoding}");
            assert!(head.bytes.is_empty());
            assert_varies(&head);
            if let Some(length) = head.header("content-length")
                && target != "/metrics"
            {
                assert_eq!(length.parse(), Ok(whole.bytes.len()), "{target} {encoding}");
            }
        }
    }
});

both!(a_refused_encoding_does_not_refuse_the_request, async |place| {
    let server = Server::start(place).await;
    server.send("bugs", "duck", &"again and ".repeat(500)).await;
    for (accepted, encoding) in [
        ("identity;q=0", None),
        ("*;q=0", None),
        ("gzip;q=0, br;q=0, identity; q=0.000", None),
        ("gzip, identity;q=0", Some("gzip")),
        ("gzip;q=0.5, identity", None),
        ("br;q=0, gzip", Some("gzip")),
    ] {
        let headers = [("accept-encoding", accepted)];
        let answer = ask(&server, "bugs", Method::GET, "/api/messages/bugs", &headers).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-encoding")), (200, encoding), "{accepted}");
        let message = json!({"recipient_user_name": "duck", "body": "hey"});
        let request = server.request(Method::POST, "/api/messages").header("x-act-as", "bugs").json(&message);
        assert_eq!(answer_of(request.header("accept-encoding", accepted)).await.status, 201, "{accepted}");
    }
});

both!(a_change_needs_a_version_that_if_match_names, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let message = path_of(&say(&server, "bugs", group, "one", None).await);
    let conversation = format!("/api/conversations/{group}");
    for (target, name) in [("/api/users/me", "first_name"), (&conversation, "title"), (&message, "body")] {
        let seen = async || tag(&get(&server, "bugs", target).await);
        let first = seen().await;
        let gzip = format!("{}-gzip\"", first.strip_suffix('"').unwrap());
        let weak = format!("W/{first}");
        for (header, value) in [
            ("if-match", "\"0123\""),
            ("if-match", &weak),
            ("if-match", ""),
            ("if-none-match", &first),
            ("if-none-match", &gzip),
            ("if-none-match", "*"),
        ] {
            let answer = change(&server, "bugs", target, &[(header, value)], &json!({name: "no"})).await;
            answer.problem(412, "precondition_failed");
            assert_eq!(seen().await, first, "{target} {header}: {value}");
        }
        let answer = change(&server, "bugs", target, &[("if-match", &first)], &json!({name: "two"})).await;
        assert_eq!((answer.status.as_u16(), tag(&answer)), (200, seen().await), "{target}");
        let answer = change(&server, "bugs", target, &[("if-match", &first)], &json!({name: "three"})).await;
        answer.problem(412, "precondition_failed");
        let second = seen().await;
        assert_ne!(second, first);
        for number in 0..3 {
            let current = seen().await;
            let value = match number {
                0 => "*".to_owned(),
                1 => format!("\"x\", {current}"),
                // The tag of an encoding of the current version.
                _ => format!("{}-br\"", current.strip_suffix('"').unwrap()),
            };
            let body = json!({name: format!("change {number}")});
            let answer = change(&server, "bugs", target, &[("if-match", &value)], &body).await;
            assert_eq!(answer.status, 200, "{target} {value}");
        }
        // Of several callers who have seen the same version, one changes it.
        let current = seen().await;
        let changes = (0..8).map(|number| {
            let (server, current) = (&server, &current);
            async move {
                let body = json!({name: format!("at the same time {number}")});
                change(server, "bugs", target, &[("if-match", current)], &body).await.status.as_u16()
            }
        });
        let mut statuses = futures_util::future::join_all(changes).await;
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412, 412, 412, 412, 412, 412, 412], "{target}");
    }
    // A condition does not hide another refusal, and says nothing about what the caller may not see.
    let wrong = [("if-match", "\"0123\"")];
    change(&server, "duck", &message, &wrong, &json!({"body": "x"})).await.problem(403, "not_your_message");
    change(&server, "porky", &message, &wrong, &json!({"body": "x"})).await.problem(404, "message_not_found");
    change(&server, "duck", &conversation, &wrong, &json!({"title": "x"})).await.problem(403, "insufficient_role");
    let any = [("if-match", "*")];
    change(&server, "bugs", "/api/conversations/99999", &any, &json!({"title": "x"}))
        .await
        .problem(404, "conversation_not_found");
});

both!(deleting_needs_a_version_that_if_match_names, async |place| {
    let server = Server::start(place).await;
    let group = group(&server, "bugs", &["duck"], "all").await;
    let message = path_of(&say(&server, "bugs", group, "one", None).await);
    let in_an_hour = Clock::System.now().plus_micros(3_600_000_000).to_string();
    let later = json!({"recipient_user_name": "duck", "body": "later", "send_at": in_an_hour});
    let scheduled = post(&server, "bugs", "/api/messages", later).await;
    let scheduled = scheduled.header("location").unwrap().to_owned();
    let conversation = format!("/api/conversations/{group}");
    for (person, target) in
        [("bugs", message.as_str()), ("bugs", &scheduled), ("bugs", &conversation), ("porky", "/api/users/me")]
    {
        let current = tag(&get(&server, person, target).await);
        for headers in [[("if-match", "\"0123\"")], [("if-none-match", current.as_str())]] {
            let answer = ask(&server, person, Method::DELETE, target, &headers).await;
            answer.problem(412, "precondition_failed");
        }
        assert_eq!(tag(&get(&server, person, target).await), current, "{target}");
        let headers = [("if-match", current.as_str())];
        assert_eq!(ask(&server, person, Method::DELETE, target, &headers).await.status, 204, "{target}");
        let again = ask(&server, person, Method::DELETE, target, &headers).await;
        // A tombstone is another version of the message.
        let expected = if target == message { 412 } else { 404 };
        assert!(again.status == expected || person == "porky", "{target}: {}", again.status);
    }
});
