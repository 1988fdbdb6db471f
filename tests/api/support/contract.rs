//! Compares every answer, frame and event that the tests see with the OpenAPI document of the server.
//!
//! Invariant: the comparison is stricter than the document. A field that the document does not name is an error too, so a field
//! cannot be added without its description.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::{Draft, Validator};
use posthaste::domain::access::principal::Access;
use posthaste::http::server::router::openapi_json;
use reqwest::header::HeaderMap;
use serde_json::{Map, Value};

use super::server::Answer;

static CONTRACT: LazyLock<Contract> = LazyLock::new(Contract::new);

struct Contract {
    document: Value,
    /// Schemas that are ready to validate, by their JSON text.
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// Asserts that the document describes this answer to a request. Answers of a proxy, which have no request id, are not checked.
pub fn check_answer(method: &str, target: &str, answer: &Answer) {
    let is_problem = answer.header("content-type") == Some("application/problem+json");
    if answer.header("x-request-id").is_none() && !is_problem {
        return;
    }
    let path = target.split('?').next().unwrap_or_default();
    let errors = CONTRACT.errors_of_answer(method, path, answer);
    let text = String::from_utf8_lossy(&answer.bytes);
    let status = answer.status.as_u16();
    assert!(errors.is_empty(), "{method} {path}: {status} is not as described: {}\n{text}", errors.join("; "));
}

/// Asserts that a value matches a schema of the document.
#[track_caller]
pub fn check(schema: &str, value: &Value) {
    let reference = serde_json::json!({"$ref": format!("#/components/schemas/{schema}")});
    let errors = CONTRACT.errors(&reference, value);
    assert!(errors.is_empty(), "{value} is not a {schema}: {}", errors.join("; "));
}

/// Asserts that the reply to a frame is the answer to the corresponding request.
pub fn check_reply(frame: &Value, reply: &Value) {
    check("ServerFrame", reply);
    let path = match frame["type"].as_str() {
        Some("send") => "/api/messages",
        Some("read" | "delivered") => "/api/conversations/1/receipts",
        Some("typing") => "/api/conversations/1/typing",
        _ => return,
    };
    let status = reply["status"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status");
    if status < 300 {
        check("ClientFrame", frame);
    }
    let problem = status >= 400;
    let content_type = if problem { "application/problem+json" } else { "application/json" };
    let mut headers = HeaderMap::new();
    headers.insert("content-type", content_type.parse().unwrap());
    headers.insert("x-request-id", "reply".parse().unwrap());
    let bytes = if reply["body"].is_null() { Vec::new() } else { reply["body"].to_string().into_bytes() };
    check_answer("POST", path, &Answer { status: status.try_into().unwrap(), headers, bytes });
}

impl Contract {
    fn new() -> Self {
        let mut document: Value = serde_json::from_str(&openapi_json(Access::Secured).unwrap()).unwrap();
        for schema in document["components"]["schemas"].as_object_mut().unwrap().values_mut() {
            close(schema);
        }
        Self { document, validators: Mutex::default() }
    }

    fn errors_of_answer(&self, method: &str, path: &str, answer: &Answer) -> Vec<String> {
        let content_type = answer.header("content-type").unwrap_or_default();
        let Some(operation) = self.operation(method, path) else {
            if content_type != "application/problem+json" {
                return Vec::new();
            }
            let problem = serde_json::json!({"$ref": "#/components/schemas/Problem"});
            return if method == "HEAD" { Vec::new() } else { self.errors(&problem, &answer.json()) };
        };
        let response = &operation["responses"][answer.status.as_str()];
        let response = match response["$ref"].as_str() {
            Some(target) => self.document.pointer(target.trim_start_matches('#')).unwrap(),
            None => response,
        };
        if response.is_null() {
            return vec!["the document has no such status".to_owned()];
        }
        // A compressed body is not JSON. The stored answer about an erased user has no body.
        if method == "HEAD" || answer.bytes.is_empty() || answer.header("content-encoding").is_some() {
            return Vec::new();
        }
        let Some(content) = content_of(response, content_type) else {
            return vec![format!("the document has no content of the type {content_type:?}")];
        };
        if !content_type.ends_with("json") {
            return Vec::new();
        }
        self.errors(&content["schema"], &answer.json())
    }

    /// The operation of a method and a path. Literal segments take precedence over parameters.
    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let is_parameter = |segment: &str| segment.starts_with('{');
        let matches = |template: &str| {
            let (template, path) = (template.split('/'), path.split('/'));
            template.clone().count() == path.clone().count()
                && template
                    .zip(path)
                    .all(|(wanted, given)| wanted == given || is_parameter(wanted) && !given.is_empty())
        };
        let paths = self.document["paths"].as_object().unwrap().iter().filter(|(template, _)| matches(template));
        let (_, item) = paths.min_by_key(|(template, _)| template.split('/').map(is_parameter).collect::<Vec<_>>())?;
        let method = method.to_ascii_lowercase();
        match (item.get(&method), &*method) {
            (None, "head") => item.get("get"),
            (operation, _) => operation,
        }
    }

    fn errors(&self, schema: &Value, value: &Value) -> Vec<String> {
        let validator = self.validator(schema);
        let errors = validator.iter_errors(value);
        errors.map(|error| format!("{} {error}", error.instance_path())).collect()
    }

    fn validator(&self, schema: &Value) -> Arc<Validator> {
        let mut validators = self.validators.lock().unwrap();
        let made = validators.entry(schema.to_string()).or_insert_with(|| {
            let mut root = schema.as_object().cloned().unwrap_or_default();
            root.insert("components".to_owned(), self.document["components"].clone());
            let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true);
            Arc::new(options.build(&Value::Object(root)).unwrap())
        });
        Arc::clone(made)
    }
}

/// Makes all objects of a schema refuse fields that it does not name.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.iter_mut().filter(|(key, _)| *key != "example").for_each(|(_, inner)| close(inner));
            if object.get("properties").is_some_and(Value::is_object) && object.get("type").is_none_or(Value::is_string)
            {
                object.entry("additionalProperties").or_insert(Value::Bool(false));
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(close),
        _ => {}
    }
}

/// The content of a response for a media type.
fn content_of<'a>(response: &'a Value, content_type: &str) -> Option<&'a Value> {
    let content: &Map<String, Value> = response["content"].as_object()?;
    let essence = content_type.split(';').next().unwrap_or_default();
    let family = format!("{}/*", essence.split('/').next().unwrap_or_default());
    [essence, &family, "*/*"].iter().find_map(|name| content.get(*name))
}
