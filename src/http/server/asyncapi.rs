//! The AsyncAPI 3.0 document: the frames of the WebSocket, the items of the stream of server-sent events, and the deliveries of
//! webhooks. Its schemas are those of the OpenAPI document.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::schemas::{for_each_object, reach};
use crate::http::bodies::frames::{StreamHello, StreamReset};
use crate::http::bodies::live_schemas::{CLIENT_FRAMES, EVENT, SERVER_FRAMES, delivered_events, reference};

/// The messages of a channel, each with its id in the channel, and the names of their schemas.
struct Channel {
    id: &'static str,
    /// The path on this server. `None` for the addresses of webhooks, which the operator chooses.
    address: Option<&'static str>,
    description: &'static str,
    /// What the server sends: the ids of the messages and the names of their schemas.
    sent: Vec<(String, String)>,
    /// What the server receives.
    received: Vec<(String, String)>,
    bindings: Value,
}

fn channels() -> Vec<Channel> {
    let frames = |frames: &[(&str, &str)]| frames.iter().map(|(_, name)| message(name)).collect();
    vec![
        Channel {
            id: "socket",
            address: Some("/api/ws"),
            description: "The WebSocket. The query parameter `after` is a cursor: events after it are delivered first.",
            sent: frames(SERVER_FRAMES),
            received: frames(CLIENT_FRAMES),
            bindings: json!({"ws": {"method": "GET", "query": after()}}),
        },
        Channel {
            id: "stream",
            address: Some("/api/events/stream"),
            description: "The stream of server-sent events. The payload of a message is the field `data`. The field `event` of the \
                          first messages is `hello` or `reset`, and messages of the type Event have none. The field `id` is the \
                          cursor after the event.",
            sent: vec![message(&StreamHello::name()), message(&StreamReset::name()), message(EVENT)],
            received: Vec::new(),
            bindings: json!({"http": {}}),
        },
        Channel {
            id: "webhook",
            address: None,
            description: "The address of a webhook, to which each event is sent with POST. The headers `webhook-id`, \
                          `webhook-timestamp` and `webhook-signature` are those of Standard Webhooks. An answer with a status of \
                          2xx within 15 seconds is a success.",
            sent: delivered_events().into_iter().map(|(_, name)| message(&name)).collect(),
            received: Vec::new(),
            bindings: json!({"http": {}}),
        },
    ]
}

fn message(schema: &str) -> (String, String) {
    let mut id = schema.to_owned();
    id[..1].make_ascii_lowercase();
    (id, schema.to_owned())
}

fn after() -> Value {
    json!({"type": "object", "properties": {"after": {"type": "string", "maxLength": 64}}})
}

/// The document, with the schemas of the OpenAPI document.
pub fn document(openapi: &Value) -> Value {
    let all = &openapi["components"]["schemas"];
    let (mut documented, mut messages, mut operations) = (Map::new(), Map::new(), Map::new());
    let mut names = BTreeSet::new();
    for channel in channels() {
        let Channel { id, address, description, sent, received, bindings } = channel;
        let mut in_channel = Map::new();
        for (message, schema) in sent.iter().chain(&received) {
            let payload = reference(schema);
            reach(&payload, all, &mut names);
            in_channel.insert(message.clone(), json!({"$ref": format!("#/components/messages/{message}")}));
            let summary = all[schema]["description"].clone();
            let content =
                json!({"name": schema, "summary": summary, "contentType": "application/json", "payload": payload});
            messages.insert(message.clone(), content);
        }
        for (action, verb, exchanged) in [("send", "Sends", &sent), ("receive", "Receives", &received)] {
            if exchanged.is_empty() {
                continue;
            }
            let exchanged: Vec<Value> = exchanged
                .iter()
                .map(|(message, _)| json!({"$ref": format!("#/channels/{id}/messages/{message}")}))
                .collect();
            operations.insert(
                format!("{action}_{id}"),
                json!({
                    "action": action,
                    "summary": format!("{verb} the messages of the channel {id}."),
                    "description": description,
                    "channel": {"$ref": format!("#/channels/{id}")},
                    "messages": exchanged,
                }),
            );
        }
        documented.insert(
            id.to_owned(),
            json!({"address": address, "description": description, "messages": in_channel, "bindings": bindings}),
        );
    }
    let schemas: Map<String, Value> = names.into_iter().map(|name| (name.clone(), all[&name].clone())).collect();
    let mut schemas = Value::Object(schemas);
    for_each_object(&mut schemas, &mut |object| {
        // In AsyncAPI these two have other forms than in OpenAPI. The constants of `type` say which schema of a union applies.
        if object.get("discriminator").is_some_and(Value::is_object) {
            object.remove("discriminator");
        }
        if let Some(example) = object.remove("example") {
            object.insert("examples".to_owned(), json!([example]));
        }
    });
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Posthaste",
            "version": openapi["info"]["version"],
            "description": "The events of Posthaste. The actions are those of the server. `/openapi.json` describes the requests.",
            "contact": {"name": "Posthaste"},
            "license": {"name": "MIT"},
            "tags": [{"name": "live", "description": "Events, frames and deliveries of webhooks."}],
        },
        "servers": {
            "this": {
                "host": "{host}",
                "protocol": "ws",
                "description": "This server.",
                "variables": {"host": {"default": "localhost:8000", "description": "The host and the port of the server."}},
            },
        },
        "defaultContentType": "application/json",
        "channels": documented,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    })
}
