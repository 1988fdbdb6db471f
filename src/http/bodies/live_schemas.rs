//! The schemas of events and frames, made from their types: one schema for each kind, and unions of them.
//!
//! Invariant: exactly one schema of a union matches a value. `type` is a constant in each of them, and names the schema.

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::conversations::ConversationBody;
use super::events::{EndedConversation, MemberChange, PresenceChange, ReactionChange, TypingChange, WatermarkChange};
use super::messages::MessageBody;
use super::users::UserBody;
use crate::domain::events::events::{EphemeralKind, Kind};

/// The name of the union of all events.
pub const EVENT: &str = "Event";
/// The name of the union of the events that webhooks receive: those in the event log, and tests.
pub const LOGGED_EVENT: &str = "LoggedEvent";
/// The name of the union of the frames of the server.
pub const SERVER_FRAME: &str = "ServerFrame";
/// The name of the union of the frames of a client.
pub const CLIENT_FRAME: &str = "ClientFrame";
/// The name of the union of the two forms of a deleted conversation.
const DELETED_CONVERSATION: &str = "DeletedConversation";

/// A reference to a schema of the document.
pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The schema of the data of an event.
fn data_of(kind: Kind) -> Cow<'static, str> {
    match kind {
        Kind::MessageCreated | Kind::MessageUpdated | Kind::MessageDeleted => MessageBody::name(),
        Kind::FriendRequested | Kind::FriendAccepted | Kind::FriendRemoved | Kind::UserUpdated => UserBody::name(),
        Kind::ConversationCreated | Kind::ConversationUpdated => ConversationBody::name(),
        Kind::ConversationDeleted => DELETED_CONVERSATION.into(),
        Kind::MemberAdded | Kind::MemberUpdated | Kind::MemberRemoved => MemberChange::name(),
        Kind::ReactionAdded | Kind::ReactionRemoved => ReactionChange::name(),
        Kind::ReceiptUpdated => WatermarkChange::name(),
    }
}

/// Whether events of this kind are about users and not about a conversation.
const fn is_about_users(kind: Kind) -> bool {
    matches!(kind, Kind::FriendRequested | Kind::FriendAccepted | Kind::FriendRemoved | Kind::UserUpdated)
}

/// The schema of one kind of event.
struct EventSchema {
    /// The `type` of the event.
    kind: &'static str,
    meaning: &'static str,
    data: Cow<'static, str>,
    is_logged: bool,
    is_about_users: bool,
}

impl EventSchema {
    fn logged(kind: Kind) -> Self {
        let (data, is_about_users) = (data_of(kind), is_about_users(kind));
        Self { kind: kind.as_str(), meaning: kind.meaning(), data, is_logged: true, is_about_users }
    }

    fn ephemeral(kind: EphemeralKind) -> Self {
        let (data, is_about_users) = match kind {
            EphemeralKind::Typing => (TypingChange::name(), false),
            EphemeralKind::Presence => (PresenceChange::name(), true),
        };
        Self { kind: kind.as_str(), meaning: kind.meaning(), data, is_logged: false, is_about_users }
    }

    fn all() -> impl Iterator<Item = Self> {
        let logged = Kind::ALL.iter().map(|kind| Self::logged(*kind));
        logged.chain(EphemeralKind::ALL.iter().map(|kind| Self::ephemeral(*kind)))
    }

    /// The name of the schema, such as `MessageCreatedEvent` for `message.created`.
    fn name(&self) -> String {
        let words = self.kind.split('.').map(|word| word[..1].to_ascii_uppercase() + &word[1..]);
        words.chain(["Event".to_owned()]).collect()
    }

    /// The schema, from the fields that all events have.
    fn schema(&self, fields: &Map<String, Value>) -> Value {
        let mut fields = fields.clone();
        fields.insert("type".to_owned(), constant(self.kind));
        fields.insert("data".to_owned(), reference(&self.data));
        if self.is_logged {
            let description = "The cursor after this event.";
            let cursor = json!({"type": "string", "description": description, "example": "5f3a9c1e7b204d68-42"});
            fields.insert("cursor".to_owned(), cursor);
        } else if let Some(cursor) = fields.get_mut("cursor").and_then(Value::as_object_mut) {
            // A schema that allows only null is more precise, but some generators leave out the field.
            cursor.insert("description".to_owned(), "Null, because the event is not stored.".into());
            cursor.remove("example");
        }
        if self.is_about_users {
            fields.remove("conversation_id");
        } else if let Some(conversation) = fields.get_mut("conversation_id") {
            conversation["description"] = "The conversation in which it happened.".into();
        }
        object(self.meaning, fields)
    }
}

/// The frames of the server: the `type` of each, and the name of its schema.
pub const SERVER_FRAMES: &[(&str, &str)] = &[
    ("hello", "HelloFrame"),
    ("event", "EventFrame"),
    ("reply", "ReplyFrame"),
    ("reset", "ResetFrame"),
    ("pong", "PongFrame"),
];

/// The frames of a client: the `type` of each, and the name of its schema.
pub const CLIENT_FRAMES: &[(&str, &str)] = &[
    ("send", "SendFrame"),
    ("read", "ReadFrame"),
    ("delivered", "DeliveredFrame"),
    ("typing", "TypingFrame"),
    ("presence", "PresenceFrame"),
    ("ping", "PingFrame"),
];

/// The kind of the event that a test of a webhook delivers, and the name of its schema.
const TEST_EVENT: (&str, &str) = ("webhook.test", "WebhookTestEvent");

/// The kinds of events that webhooks receive, each with the name of its schema.
pub fn delivered_events() -> Vec<(&'static str, String)> {
    let logged = EventSchema::all().filter(|event| event.is_logged).map(|event| (event.kind, event.name()));
    logged.chain([(TEST_EVENT.0, TEST_EVENT.1.to_owned())]).collect()
}

/// Replaces the schemas that were generated from the types of events and frames with one schema for each kind. `sent` is the
/// schema of the body of a request that sends a message.
pub fn add(schemas: &mut Map<String, Value>, sent: &str) {
    add_events(schemas);
    add_server_frames(schemas);
    add_client_frames(schemas, sent);
}

fn add_events(schemas: &mut Map<String, Value>) {
    let fields = properties(schemas.get(EVENT));
    let events: Vec<EventSchema> = EventSchema::all().collect();
    for event in &events {
        schemas.insert(event.name(), event.schema(&fields));
    }
    let named = |event: &EventSchema| (event.kind.to_owned(), event.name());
    let all = union("An event. `type` says which one.", events.iter().map(named));
    schemas.insert(TEST_EVENT.1.to_owned(), test_event(&fields));
    let delivered = delivered_events().into_iter().map(|(kind, name)| (kind.to_owned(), name));
    let logged = union("An event that a webhook receives.", delivered);
    schemas.insert(EVENT.to_owned(), all);
    schemas.insert(LOGGED_EVENT.to_owned(), logged);
    if let Some(ended) = schemas.get_mut(&*EndedConversation::name()) {
        // Without this, it would also match a whole conversation.
        ended["additionalProperties"] = false.into();
    }
    let forms = [reference(&ConversationBody::name()), reference(&EndedConversation::name())];
    let description = "A deleted conversation: whole, or only its `id` once it no longer exists.";
    schemas.insert(DELETED_CONVERSATION.to_owned(), json!({"description": description, "oneOf": forms}));
}

/// The schema of the event that a test of a webhook delivers, from the fields that all events have.
fn test_event(fields: &Map<String, Value>) -> Value {
    let mut own: Map<String, Value> = fields
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), "cursor" | "at"))
        .map(|(name, field)| (name.clone(), field.clone()))
        .collect();
    if let Some(cursor) = own.get_mut("cursor").and_then(Value::as_object_mut) {
        cursor.insert("description".to_owned(), "Null, because the event is not stored.".into());
        cursor.remove("example");
    }
    let id = Map::from_iter([(
        "webhook_id".to_owned(),
        json!({"type": "integer", "description": "The id of the webhook."}),
    )]);
    own.insert("type".to_owned(), constant(TEST_EVENT.0));
    own.insert("data".to_owned(), object("Which webhook is tested.", id));
    object("An administrator tests the webhook.", own)
}

fn add_server_frames(schemas: &mut Map<String, Value>) {
    let event = json!({"event": reference(EVENT)});
    schemas.insert("EventFrame".to_owned(), json!({"description": "An event.", "properties": event}));
    for (kind, name) in SERVER_FRAMES {
        let mut fields = properties(schemas.get(*name));
        fields.insert("type".to_owned(), constant(kind));
        let schema = object(&description(schemas.get(*name)), fields);
        schemas.insert((*name).to_owned(), schema);
    }
    let named = SERVER_FRAMES.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned()));
    schemas.insert(SERVER_FRAME.to_owned(), union("A frame of the server. `type` says which one.", named));
}

fn add_client_frames(schemas: &mut Map<String, Value>, sent: &str) {
    let head = properties(schemas.remove("FrameHead").as_ref());
    let receipts = schemas.remove("ReceiptFrame");
    for (kind, name) in CLIENT_FRAMES {
        let source = match *kind {
            "send" => schemas.get(sent).cloned(),
            "read" | "delivered" => receipts.clone(),
            _ => schemas.get(*name).cloned(),
        };
        let mut schema = source.unwrap_or_else(|| json!({"type": "object"}));
        let mut fields = properties(Some(&schema));
        fields.insert("type".to_owned(), constant(kind));
        // A `ping` has no reply, so it has no `ref`.
        if *kind != "ping" {
            fields.extend(head.clone().into_iter().filter(|(field, _)| *kind == "send" || field == "ref"));
        }
        let mut required: Vec<Value> = schema["required"].as_array().cloned().unwrap_or_default();
        required.insert(0, "type".into());
        if let Some(example) = schema.get_mut("example").and_then(Value::as_object_mut) {
            example.insert("type".to_owned(), (*kind).into());
        }
        if *kind == "send" {
            let meaning =
                "Sends a message, as `POST /api/messages` does with the other fields as its body. Always answered.";
            schema["description"] = meaning.into();
        }
        schema["properties"] = Value::Object(fields);
        schema["required"] = required.into();
        schema["additionalProperties"] = false.into();
        schemas.insert((*name).to_owned(), schema);
    }
    let named = CLIENT_FRAMES.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned()));
    schemas.insert(CLIENT_FRAME.to_owned(), union("A frame of a client. `type` says which one.", named));
}

fn constant(word: &str) -> Value {
    json!({"type": "string", "const": word})
}

fn properties(schema: Option<&Value>) -> Map<String, Value> {
    schema.and_then(|schema| schema["properties"].as_object()).cloned().unwrap_or_default()
}

fn description(schema: Option<&Value>) -> String {
    schema.and_then(|schema| schema["description"].as_str()).unwrap_or_default().to_owned()
}

/// An object that always has all of these fields.
fn object(description: &str, fields: Map<String, Value>) -> Value {
    let required: Vec<&String> = fields.keys().collect();
    json!({"type": "object", "description": description, "required": required, "properties": fields})
}

/// The union of schemas that differ in the constant of their field `type`.
fn union(description: &str, named: impl Iterator<Item = (String, String)>) -> Value {
    let mut mapping = Map::new();
    let mut members = Vec::new();
    for (kind, name) in named {
        let member = reference(&name);
        mapping.insert(kind, member["$ref"].clone());
        members.push(member);
    }
    json!({
        "description": description,
        "oneOf": members,
        "discriminator": {"propertyName": "type", "mapping": mapping},
    })
}
