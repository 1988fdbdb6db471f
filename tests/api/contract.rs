//! The OpenAPI and the AsyncAPI document: what programs need to rely on. `support::contract` compares all answers of all tests
//! with them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::callers::secured;
use crate::support::people::{call, delete, group, patch, post, put, say};
use crate::support::watch::{Socket, Stream};
use crate::support::{Options, Server, answer_of, contract};

/// Calls a function for each JSON object in a value, with its place.
fn for_each_object(place: &str, value: &Value, apply: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(object) => {
            apply(place, value);
            object.iter().for_each(|(key, inner)| for_each_object(&format!("{place}/{key}"), inner, apply));
        }
        Value::Array(entries) => {
            let numbered = entries.iter().enumerate();
            numbered.for_each(|(index, entry)| for_each_object(&format!("{place}/{index}"), entry, apply));
        }
        _ => {}
    }
}

/// The operations of a document: `METHOD path` and the operation.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
        })
        .collect()
}

fn assert_references_exist(document: &Value) {
    let mut missing = Vec::new();
    for_each_object("", document, &mut |place, object| {
        let target = object["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
        if target.is_some_and(|target| document.pointer(target).is_none()) {
            missing.push(format!("{place}: {}", object["$ref"]));
        }
    });
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

both!(every_kind_of_event_matches_its_schema, async |place| {
    let server = Server::start(place).await;
    let mut socket = Socket::of(&server, "duck").await;
    socket.presence = true;
    let mut stream = Stream::open(&server, "duck", None).await;
    put(&server, "bugs", "/api/friends/duck").await;
    put(&server, "duck", "/api/friends/bugs").await;
    let bugs = Socket::of(&server, "bugs").await;
    // The presence of a friend is published within half a second.
    tokio::time::sleep(Duration::from_millis(800)).await;
    delete(&server, "bugs", "/api/friends/duck").await;
    let room = group(&server, "bugs", &["duck", "porky"], "all").await;
    patch(&server, "bugs", &format!("/api/conversations/{room}"), json!({"title": "Merrie Melodies"})).await;
    let member = format!("/api/conversations/{room}/members/porky");
    call(&server, "bugs", Method::PUT, &member, Some(json!({"role": "admin"}))).await;
    delete(&server, "bugs", &member).await;
    let seq = say(&server, "bugs", room, "one", None).await["seq"].clone();
    let message = format!("/api/conversations/{room}/messages/{seq}");
    patch(&server, "bugs", &message, json!({"body": "two"})).await;
    put(&server, "duck", &format!("{message}/reactions/:tada:")).await;
    delete(&server, "duck", &format!("{message}/reactions/:tada:")).await;
    post(&server, "duck", &format!("/api/conversations/{room}/receipts"), json!({"read_seq": seq})).await;
    post(&server, "bugs", &format!("/api/conversations/{room}/typing"), json!({})).await;
    delete(&server, "bugs", &message).await;
    patch(&server, "bugs", "/api/users/me", json!({"first_name": "Bunny"})).await;
    delete(&server, "bugs", &format!("/api/conversations/{room}")).await;

    let document = server.get("/openapi.json").await.json();
    let schemas = document["components"]["schemas"]["Event"]["discriminator"]["mapping"].as_object().unwrap();
    let mut missing: BTreeSet<String> = schemas.keys().cloned().collect();
    while !missing.is_empty() {
        let event = socket.event().await;
        let kind = event["type"].as_str().unwrap();
        // The named schema describes the event, and `Socket` has checked that no other one does.
        contract::check(schemas[kind].as_str().unwrap().rsplit('/').next().unwrap(), &event);
        missing.remove(kind);
    }
    drop(bugs);
    // The stream checks its items too.
    let mut last = String::new();
    while last != "conversation.deleted" {
        last = stream.next().await.unwrap().data["type"].as_str().unwrap_or_default().to_owned();
    }
});

both!(the_actor_of_an_event_is_null_after_their_erasure, async |place| {
    let server = Server::start(place).await;
    let begin = server.get("/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    server.send("bugs", "duck", "hey").await;
    delete(&server, "bugs", "/api/users/me").await;
    let events = server.get(&format!("/api/events?after={begin}&wait=5")).await.json();
    let sent = &events["events"].as_array().unwrap().iter().find(|event| event["type"] == "message.created").unwrap();
    assert_eq!(sent.get("actor_user_name"), Some(&Value::Null), "{sent}");
});

both!(the_openapi_document_can_be_used_by_programs, async |place| {
    let server = Server::start(place).await;
    let answer = server.get("/openapi.json").await;
    let document = answer.json();
    assert_references_exist(&document);
    let tags: BTreeSet<&str> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let mut ids = BTreeMap::new();
    let mut wrong = Vec::new();
    for (name, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        wrong.extend(ids.insert(id, name.clone()).map(|other| format!("{name} has the id of {other}")));
        if operation["description"].as_str().is_none_or(|text| text.len() <= 10) {
            wrong.push(format!("{name} has no description"));
        }
        let tagged = operation["tags"]
            .as_array()
            .is_some_and(|used| used.len() == 1 && used.iter().all(|tag| tags.contains(tag.as_str().unwrap())));
        if !tagged {
            wrong.push(format!("{name} has not exactly one declared tag"));
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            let example = &response["content"]["application/problem+json"]["example"];
            if !example.is_null() {
                contract::check("Problem", example);
            }
            if !example.is_null() && example["status"].as_u64() != status.parse().ok() {
                wrong.push(format!("{name}: the example of {status} shows {}", example["status"]));
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for_each_object(name, schema, &mut |at, inner| {
            if at != name && inner["enum"].is_array() {
                wrong.push(format!("{at}: an enum without a name, for which each generator invents one"));
            }
            if inner["allOf"].is_array() {
                wrong.push(format!("{at}: allOf"));
            }
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(answer.bytes.len() < 700_000, "{} bytes", answer.bytes.len());
});

both!(the_asyncapi_document_has_the_schemas_of_the_openapi_document, async |place| {
    let server = Server::start(place).await;
    let document = server.get("/asyncapi.json").await.json();
    assert_eq!(document["asyncapi"], "3.0.0");
    assert_references_exist(&document);
    let openapi = server.get("/openapi.json").await.json();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let same = &openapi["components"]["schemas"][name];
        assert_eq!((&schema["required"], &schema["oneOf"]), (&same["required"], &same["oneOf"]), "{name}");
    }
    let channels = document["channels"].as_object().unwrap();
    let addresses: Vec<&Value> = channels.values().map(|channel| &channel["address"]).collect();
    assert_eq!(addresses, [&json!("/api/ws"), &json!("/api/events/stream"), &Value::Null]);
    let frames = channels["socket"]["messages"].as_object().unwrap();
    assert!(frames.contains_key("helloFrame") && frames.contains_key("sendFrame"), "{frames:?}");
});

both!(the_document_says_where_credentials_are_optional, async |place| {
    let server = Server::secured(place, &["bugs"]).await;
    let document = server.get("/openapi.json").await.json();
    let security = |path: &str, method: &str| document["paths"][path][method]["security"].clone();
    assert_eq!(security("/api/users", "post"), json!([{}, {"bearer": []}]));
    assert_eq!(security("/api/sessions", "post"), json!([{}]));
    assert_eq!(security("/api/users", "get")[0], json!({"bearer": []}));
    // Documentation pages sort the schemes by name.
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    assert_eq!(schemes.keys().next().unwrap(), "bearer");

    let closed = server.post("/api/users", &json!({"user_name": "elmer", "password": "three blue kites"})).await;
    let detail = closed.problem(403, "registration_closed")["detail"].to_string();
    assert!(detail.contains("send valid credentials of an administrator"), "{detail}");
    let token = server.token_of("bugs").await;
    let refused = server.post_as(&token, "/api/users", &json!({"user_name": "elmer"})).await;
    let detail = refused.problem(403, "registration_closed")["detail"].to_string();
    assert!(!detail.contains("send valid credentials"), "{detail}");
});

/// The operations whose examples can be tried one after the other, on a server without data, as an administrator.
const TRIED: &[&str] = &[
    "POST /api/users",
    "GET /api/users/{user_name}",
    "PATCH /api/users/{user_name}",
    "GET /api/users/{user_name}/presence",
    "POST /api/messages",
    "GET /api/messages/{user_name}",
    "GET /api/conversations/{id}",
    "PATCH /api/conversations/{id}",
    "GET /api/conversations/{id}/messages/{seq}",
    "PATCH /api/conversations/{id}/messages/{seq}",
    "POST /api/conversations/{id}/messages/{seq}/forward",
    "PUT /api/conversations/{id}/messages/{seq}/reactions/{emoji}",
    "POST /api/conversations/{id}/receipts",
    "POST /api/conversations",
    "PUT /api/friends/{user_name}",
    "PUT /api/blocks/{user_name}",
    "DELETE /api/blocks/{user_name}",
    "PUT /api/admin/users/{user_name}/role",
    "PUT /api/admin/users/{user_name}/ban",
    "DELETE /api/admin/users/{user_name}/ban",
    "POST /api/api-keys",
    "POST /api/webhooks",
    "POST /api/sessions",
];

both!(the_examples_of_the_document_succeed, async |place| {
    let server = Server::start_with(place, Options { demo: false, ..secured() }).await;
    server.add_person("owner", Some("three blue kites"), true).await;
    let login = server.log_in(json!({"user_name": "owner", "password": "three blue kites"})).await.json();
    let token = login["token"].as_str().unwrap();
    let document = server.get("/openapi.json").await.json();
    let all: BTreeMap<String, &Value> = operations(&document).into_iter().collect();
    for name in TRIED {
        let (operation, (method, path)) = (all[*name], name.split_once(' ').unwrap());
        let mut target = path.to_owned();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let example = parameter["example"].to_string();
            let hole = format!("{{{}}}", parameter["name"].as_str().unwrap());
            target = target.replace(&hole, example.trim_matches('"'));
        }
        let mut request = server.request_as(token, method.parse().unwrap(), &target);
        if let Some(schema) = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str() {
            request = request.json(&document.pointer(&format!("{}/example", &schema[1..])).unwrap());
        }
        let answer = answer_of(request).await;
        assert!(answer.status.is_success(), "{name}: {}", String::from_utf8_lossy(&answer.bytes));
    }
});
