//! What never reaches a log.

use crate::both;
use crate::messages::poison;
use crate::support::answer_of;
use crate::support::process::{Process, Wrapping};

both!(what_people_write_stays_out_of_the_log, async |place| {
    let wrapping = Wrapping { arguments: vec!["--log".into(), "debug".into()], ..Wrapping::default() };
    let process = Process::start_wrapped(place, wrapping).await;
    let (trigger, _) = poison(place);
    place.sql(trigger).await;
    if place.kind == crate::support::place::Kind::Postgres {
        // PostgreSQL repeats the whole row in the details of such an error.
        place.sql("ALTER TABLE messaging.messages ADD CHECK (body <> 'canary-body-refused')").await;
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = |path: &str| format!("http://{}{path}", process.address);
    for body in ["canary-body-kept", "canary-body-refused", "poison"] {
        let message = serde_json::json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": body});
        let request = client.post(url("/api/messages")).header("idempotency-key", format!("canary-key-{body}"));
        let refused =
            body == "poison" || (body == "canary-body-refused" && place.kind == crate::support::place::Kind::Postgres);
        let answer = answer_of(request.json(&message)).await;
        assert_eq!(answer.status, if refused { 500 } else { 201 });
        assert!(!String::from_utf8_lossy(&answer.bytes).contains("poisoned"), "no cause in an answer");
    }
    answer_of(client.get(url("/api/users")).bearer_auth("canary-token")).await.problem(401, "unauthenticated");
    answer_of(client.get(url("/api/users?q=canary-query")).header("x-act-as", "canary-name")).await;
    answer_of(client.get(url("/api/messages/canary-path"))).await;
    let log_in = serde_json::json!({"user_name": "canary-name", "password": "canary-password", "code": "canary-code"});
    answer_of(client.post(url("/api/sessions")).json(&log_in)).await.problem(401, "invalid_credentials");
    let register =
        serde_json::json!({"user_name": "someone", "password": "canary-password", "email": "canary@example.org"});
    assert_eq!(answer_of(client.post(url("/api/users")).json(&register)).await.status, 201);
    let reset = serde_json::json!({"new_password": "canary-password"});
    let resetting = client.put(url("/api/password-resets/canary-reset")).json(&reset);
    answer_of(resetting).await.problem(404, "code_not_found");
    let ask = serde_json::json!({"email": "canary@example.org"});
    assert_eq!(answer_of(client.post(url("/api/password-resets")).json(&ask)).await.status, 202);
    answer_of(client.get(url("/api/users")).header("cookie", "posthaste_session=canary-cookie")).await;
    let metrics = String::from_utf8(answer_of(client.get(url("/metrics"))).await.bytes).unwrap();
    let log = process.log();
    assert!(log.contains("poisoned"), "the cause is for the log: {log}");
    for text in [&log, &metrics] {
        assert!(!text.contains("canary"), "{text}");
    }
    process.terminate().await;
});
