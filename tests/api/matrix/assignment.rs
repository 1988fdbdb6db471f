//! Fields that a caller may not set. Every operation with a body refuses them, and the error names the field.

use reqwest::Method;

use super::*;

/// Fields that a caller might try to set, each with a value of the right type.
fn fields() -> Vec<(&'static str, Value)> {
    vec![
        ("role", json!("admin")),
        ("id", json!(1)),
        ("mfa", json!(false)),
        ("is_bot", json!(true)),
        ("created_at", json!("2026-11-22T08:30:00.123456Z")),
        ("modified_at", json!("2026-11-22T08:30:00.123456Z")),
        ("email_confirmed_at", json!("2026-11-22T08:30:00.123456Z")),
        ("banned_at", json!(null)),
        ("password_hash", json!("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA")),
        ("user_name", json!("someone-else")),
        ("avatar_url", json!("https://example.org/a.png")),
        ("admin", json!(true)),
        ("user_id", json!(1)),
        ("sender_id", json!(1)),
        ("created_by", json!(1)),
        ("kind", json!("system")),
        ("seq", json!(1)),
        ("key", json!("phk_mine")),
        ("token", json!("phs_mine")),
        ("expires_at", json!("9999-12-31T23:59:59Z")),
        ("__proto__", json!({"role": "admin"})),
    ]
}

pub fn with(mut body: Value, field: &str, value: Value) -> Value {
    body.as_object_mut().unwrap().insert(field.to_owned(), value);
    body
}

#[track_caller]
fn assert_unknown(answer: &Answer, field: &str) {
    let document = answer.invalid(&[field]);
    assert_eq!(document["errors"][0]["code"], "unknown_field", "{document}");
}

both!(a_user_cannot_change_fields_that_are_not_theirs_to_set, async |place| {
    let fixture = Fixture::start(place).await;
    let subject = fixture.subject(None).await;
    let profile = format!("/api/users/{}", subject.user_name);
    let before = fixture.open_server.get(&profile).await.json();
    for caller in fixture.callers(&subject).iter().filter(|caller| ["me", "ad", "*", "*/m"].contains(&&*caller.column))
    {
        let target = if ["ad", "*"].contains(&&*caller.column) { &profile } else { "/api/users/me" };
        for (field, value) in fields() {
            // The body has a valid field beside the unknown one. The whole request is refused.
            let body = with(json!({"first_name": "Changed"}), field, value);
            assert_unknown(&fixture.call(caller, "PATCH", target, Some(&body)).await, field);
        }
    }
    assert_eq!(fixture.open_server.get(&profile).await.json(), before);
    // The account is unchanged.
    let me = fixture.server.request(Method::GET, "/api/users/me").bearer_auth(&subject.token);
    assert_eq!(answer_of(me).await.json(), before);
    let stats = fixture.server.request(Method::GET, "/api/admin/stats").bearer_auth(&subject.token);
    answer_of(stats).await.problem(403, "admin_required");
});

both!(a_new_user_cannot_be_given_fields_that_are_not_the_callers_to_set, async |place| {
    let fixture = Fixture::start(place).await;
    let subject = fixture.subject(None).await;
    let count = fixture.open_server.get("/api/admin/stats").await.json()["users"].clone();
    for caller in fixture.callers(&subject).iter().filter(|caller| ["no", "ad", "w", "*"].contains(&&*caller.column)) {
        for (field, value) in fields().into_iter().filter(|(field, _)| *field != "user_name") {
            let body = with(json!({"user_name": "newcomer", "password": "what's up, doc?"}), field, value);
            assert_unknown(&fixture.call(caller, "POST", "/api/users", Some(&body)).await, field);
        }
    }
    fixture.open_server.get("/api/users/newcomer").await.problem(404, "user_not_found");
    assert_eq!(fixture.open_server.get("/api/admin/stats").await.json()["users"], count);
});

both!(every_operation_refuses_unknown_fields, async |place| {
    let fixture = Fixture::start(place).await;
    let document = fixture.server.get("/openapi.json").await.json();
    let table = table();
    let mut tried = 0;
    for (operation, description) in documented(&fixture).await {
        // Programs that use Slack's format send fields that have no meaning here.
        if operation == "POST /api/hooks/{token}" {
            continue;
        }
        let schema = &description["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let Some(schema) = schema.as_str() else {
            // The body is a file.
            let types = &description["requestBody"]["content"];
            if types.get("application/octet-stream").or(types.get("application/offset+octet-stream")).is_some() {
                continue;
            }
            assert!(description["requestBody"].is_null(), "{operation}: its body has no named schema");
            continue;
        };
        let schema = document.pointer(schema.trim_start_matches('#')).unwrap();
        assert_eq!(schema["additionalProperties"], false, "{operation}");
        let case = Case::new(&fixture, &operation).await;
        let before = state(&fixture, &case).await;
        let row = &table[&*operation];
        let callers = fixture.callers(&case.subject);
        // Chooses a caller whose request is accepted without the extra field.
        let caller = callers.iter().rfind(|caller| matches!(row[&*caller.column], Outcome::Done(_))).unwrap();
        for (field, value) in fields().into_iter().filter(|(field, _)| schema["properties"][*field].is_null()) {
            let body = with(case.body.clone().unwrap(), field, value);
            assert_unknown(&call(&fixture, caller, &operation, &case.path, Some(&body)).await, field);
            tried += 1;
        }
        assert_eq!(state(&fixture, &case).await, before, "{operation}");
    }
    assert!(tried > 150, "{tried}");
});
