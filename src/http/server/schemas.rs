//! Makes the generated schemas of the OpenAPI document precise, so that validators and generators of clients understand them.
//!
//! Invariant: a field of an answer is null or absent, never both: a field that can be null is always there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::http::bodies::live_schemas::reference;

/// The beginning of a reference to a schema.
const SCHEMAS: &str = "#/components/schemas/";

/// Applies the rules of this module to the whole document.
pub fn refine(document: &mut Value) {
    let schemas = document["components"]["schemas"].clone();
    let enums = enums(&schemas);
    for_each_object(document, &mut |object| {
        merge_all_of(object, &schemas);
        lift_description(object);
    });
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        for (name, schema) in schemas {
            for_each_object(schema, &mut |object| name_enum(object, &enums, name));
        }
    }
    for_each_object(&mut document["paths"], &mut |object| {
        name_enum(object, &enums, "");
        describe_bytes(object);
    });
    require_nullable_fields(document);
}

/// Calls a function for each JSON object in a value, the inner ones first.
pub fn for_each_object(value: &mut Value, apply: &mut impl FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            for inner in object.values_mut() {
                for_each_object(inner, apply);
            }
            apply(object);
        }
        Value::Array(entries) => entries.iter_mut().for_each(|entry| for_each_object(entry, apply)),
        _ => {}
    }
}

/// Replaces `allOf` of several objects, which comes from flattened structs, by one object.
fn merge_all_of(object: &mut Map<String, Value>, schemas: &Value) {
    let Some(parts) = object.get("allOf").and_then(Value::as_array) else { return };
    let resolved: Vec<&Value> = parts.iter().map(|part| resolve(part, schemas)).collect();
    if !resolved.iter().all(|part| part["properties"].is_object()) {
        return;
    }
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for part in resolved {
        properties.extend(part["properties"].as_object().cloned().into_iter().flatten());
        required.extend(part["required"].as_array().cloned().into_iter().flatten());
    }
    object.remove("allOf");
    object.insert("type".to_owned(), "object".into());
    object.insert("properties".to_owned(), properties.into());
    object.insert("required".to_owned(), required.into());
}

fn resolve<'a>(schema: &'a Value, schemas: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|target| target.strip_prefix(SCHEMAS)) {
        Some(name) => &schemas[name],
        None => schema,
    }
}

/// Moves the description of a field from the first alternative of `oneOf` to the field.
fn lift_description(object: &mut Map<String, Value>) {
    let Some([first, second]) = object.get_mut("oneOf").and_then(Value::as_array_mut).map(Vec::as_mut_slice) else {
        return;
    };
    if second["type"] == "null"
        && first["$ref"].is_string()
        && let Some(description) = first.as_object_mut().and_then(|first| first.remove("description"))
    {
        object.insert("description".to_owned(), description);
    }
}

/// The names of the enums of the document, by their words.
fn enums(schemas: &Value) -> BTreeMap<String, String> {
    let named = schemas.as_object().into_iter().flatten();
    named
        .filter(|(_, schema)| schema["enum"].is_array())
        .map(|(name, schema)| (schema["enum"].to_string(), name.clone()))
        .collect()
}

/// Replaces an enum that the document names by a reference to it. `inside` is the schema that contains it.
fn name_enum(object: &mut Map<String, Value>, enums: &BTreeMap<String, String>, inside: &str) {
    let Some(name) = object.get("enum").and_then(|words| enums.get(&words.to_string())) else { return };
    if name == inside {
        return;
    }
    let mut named = Map::new();
    for kept in ["default", "example"] {
        named.extend(object.remove(kept).map(|value| (kept.to_owned(), value)));
    }
    named.extend(reference(name).as_object().cloned().into_iter().flatten());
    *object = named;
}

/// Replaces the lists of numbers with which the generator describes the bytes of files. A file can be answered with any media type.
fn describe_bytes(object: &mut Map<String, Value>) {
    let is_answer = !object.contains_key("required");
    let Some(content) = object.get_mut("content").and_then(Value::as_object_mut) else { return };
    for (media_type, described) in std::mem::take(content) {
        let is_bytes = described["schema"]["items"]["type"] == "integer" && !media_type.ends_with("json");
        let (media_type, described) = match &*media_type {
            _ if !is_bytes => (media_type, described),
            "application/octet-stream" if is_answer => ("*/*".to_owned(), bytes()),
            _ => (media_type, bytes()),
        };
        content.insert(media_type, described);
    }
}

fn bytes() -> Value {
    json!({"schema": {"type": "string", "format": "binary"}})
}

/// Makes the fields of answers that can be null required.
fn require_nullable_fields(document: &mut Value) {
    let schemas = document["components"]["schemas"].clone();
    let (mut asked, mut answered) = (BTreeSet::new(), BTreeSet::new());
    for operation in document["paths"].as_object().into_iter().flat_map(Map::values).filter_map(Value::as_object) {
        for operation in operation.values() {
            reach(&operation["requestBody"], &schemas, &mut asked);
            reach(&operation["responses"], &schemas, &mut answered);
        }
    }
    for name in answered.difference(&asked) {
        let schema = &mut document["components"]["schemas"][name];
        let Some(properties) = schema["properties"].as_object() else { continue };
        let required: BTreeSet<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let nullable = properties.iter().filter(|(_, field)| is_nullable(field)).map(|(name, _)| &**name);
        let all: BTreeSet<&str> = required.into_iter().chain(nullable).collect();
        let all = json!(all);
        if all != json!([]) {
            schema["required"] = all;
        }
    }
}

fn is_nullable(schema: &Value) -> bool {
    let types = schema["type"].as_array().is_some_and(|types| types.contains(&"null".into()));
    types || schema["type"] == "null" || schema["oneOf"].as_array().is_some_and(|forms| forms.iter().any(is_nullable))
}

/// Adds the names of all schemas to which a value refers, also through other schemas. Extensions do not count.
pub fn reach(value: &Value, schemas: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, inner) in object.iter().filter(|(key, _)| !key.starts_with("x-") && *key != "example") {
                match inner.as_str().and_then(|target| target.strip_prefix(SCHEMAS)).filter(|_| key == "$ref") {
                    Some(name) if names.insert(name.to_owned()) => reach(&schemas[name], schemas, names),
                    _ => reach(inner, schemas, names),
                }
            }
        }
        Value::Array(entries) => entries.iter().for_each(|entry| reach(entry, schemas, names)),
        _ => {}
    }
}
