//! Hidden things that a request does not name in its path, but in its body, a header, its query or its credentials.

use reqwest::Method;

use super::cast::{ERASED, NEVER};
use super::*;

/// Two requests that must get the same answer.
struct Pair {
    method: &'static str,
    targets: [String; 2],
    bodies: [Option<Value>; 2],
}

impl Pair {
    fn targets(method: &'static str, one: &str, other: &str) -> Self {
        Self { method, targets: [one.to_owned(), other.to_owned()], bodies: [None, None] }
    }

    fn bodies(target: &str, one: Value, other: Value) -> Self {
        Self { method: "POST", targets: [target.to_owned(), target.to_owned()], bodies: [Some(one), Some(other)] }
    }

    #[track_caller]
    fn assert<'a>(
        &'a self,
        fixture: &'a Fixture,
        caller: &'a Caller,
        status: u16,
        code: &'a str,
    ) -> impl Future<Output = ()> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let one = fixture.call(caller, self.method, &self.targets[0], self.bodies[0].as_ref()).await;
            let other = fixture.call(caller, self.method, &self.targets[1], self.bodies[1].as_ref()).await;
            assert_eq!(
                shown_text(&one),
                shown_text(&other),
                "{place}: {} {:?} as {}",
                self.method,
                self.targets,
                caller.name
            );
            let text = String::from_utf8_lossy(&one.bytes);
            assert_eq!(one.status, status, "{place}: as {}: {text}", caller.name);
            if status >= 400 {
                assert_eq!(one.json()["code"], code, "{place}: as {}", caller.name);
            }
        }
    }
}

/// The callers in some columns.
fn in_columns<'a>(callers: &'a [Caller], columns: &'a [&str]) -> impl Iterator<Item = &'a Caller> {
    callers.iter().filter(|caller| columns.contains(&&*caller.column))
}

both!(unauthenticated_callers_do_not_learn_which_paths_exist, async |place| {
    let fixture = Fixture::start(place).await;
    let subject = fixture.subject(None).await;
    for caller in in_columns(&fixture.callers(&subject), &["no"]) {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            for known in ["/api/messages", "/api/admin/stats", "/api/users/admin", "/api/conversations/1/messages/1"] {
                for unknown in ["/api/none", "/api/", "/api", "/api/users/admin/none", "/api/a/%ff/%00"] {
                    Pair::targets(method, known, unknown).assert(&fixture, caller, 401, "unauthenticated").await;
                }
            }
        }
    }
});

both!(a_body_does_not_reveal_what_is_hidden, async |place| {
    let fixture = Fixture::start(place).await;
    let subject = fixture.subject(None).await;
    let note = fixture.open_server.send(&subject.user_name, &subject.user_name, "a note to myself").await;
    let callers = fixture.callers(&subject);
    let hidden = note["conversation_id"].as_i64().unwrap();
    let send = |conversation: i64, sender: Option<&str>| {
        let body = json!({"conversation_id": conversation, "reply_to": 1, "body": "let me in"});
        match sender {
            Some(sender) => assignment::with(body, "sender_user_name", sender.into()),
            None => body,
        }
    };
    let none = 9_007_199_254_740_991_i64;
    for caller in in_columns(&callers, &["ot", "ad", "w/a", "*/a"]) {
        let pair = Pair::bodies("/api/messages", send(hidden, None), send(none, None));
        pair.assert(&fixture, caller, 404, "conversation_not_found").await;
    }
    for caller in in_columns(&callers, &["w", "*"]) {
        let pair = Pair::bodies("/api/messages", send(hidden, Some("other")), send(none, Some("other")));
        pair.assert(&fixture, caller, 404, "conversation_not_found").await;
    }
    // A message to an erased user gets the same answer as a message to an unknown user.
    let to = |name: &str| json!({"recipient_user_name": name, "body": "are you there?"});
    for caller in in_columns(&callers, &["me", "ot", "ad", "w/m", "*/a"]) {
        Pair::bodies("/api/messages", to(ERASED), to(NEVER)).assert(&fixture, caller, 422, "invalid_fields").await;
    }
    let from = |name: &str| json!({"sender_user_name": name, "recipient_user_name": "other", "body": "boo"});
    for caller in in_columns(&callers, &["w", "*"]) {
        Pair::bodies("/api/messages", from(ERASED), from(NEVER)).assert(&fixture, caller, 422, "invalid_fields").await;
    }
    // A user may give only their own name as sender, whether the other user exists or not.
    for caller in in_columns(&callers, &["ot", "ad", "w/a"]) {
        for other in ["subject-0", ERASED] {
            Pair::bodies("/api/messages", from(other), from(NEVER))
                .assert(&fixture, caller, 403, "not_the_sender")
                .await;
        }
    }
});

both!(a_query_does_not_reveal_erased_users, async |place| {
    let fixture = Fixture::start(place).await;
    let subject = fixture.subject(None).await;
    let callers = fixture.callers(&subject);
    for caller in in_columns(&callers, &["me", "ot", "ad", "r", "*", "r/m", "*/a"]) {
        let list = |name: &str| format!("/api/users?q={name}");
        Pair::targets("GET", &list(ERASED), &list(NEVER)).assert(&fixture, caller, 200, "").await;
    }
    let with = |name: &str| format!("/api/messages/{}?with={name}", subject.user_name);
    for caller in in_columns(&callers, &["me", "r", "r/m"]) {
        Pair::targets("GET", &with(ERASED), &with(NEVER)).assert(&fixture, caller, 422, "invalid_fields").await;
    }
    // A caller who may not read the messages does not learn whether the other user exists.
    for caller in in_columns(&callers, &["ot", "ad"]) {
        for there in ["other", ERASED] {
            Pair::targets("GET", &with(there), &with(NEVER)).assert(&fixture, caller, 403, "not_your_messages").await;
        }
    }
});

both!(private_fields_are_shown_only_to_callers_who_may_see_them, async |place| {
    let fixture = Fixture::start(place).await;
    let subject = fixture.subject(None).await;
    // A key without the scope `admin` that acts as an administrator sees only what every user sees.
    for (columns, shown) in [(["me", "ad", "r", "*", "r/m", "*/m", "*/a"].as_slice(), true), (&["ot", "r/a"], false)] {
        for caller in in_columns(&fixture.callers(&subject), columns) {
            let one = format!("/api/users/{}", subject.user_name);
            let many = format!("/api/users?q={}", subject.user_name);
            let one = fixture.call(caller, "GET", &one, None).await.json();
            let many = fixture.call(caller, "GET", &many, None).await.json();
            assert_eq!(one, many[0], "{}", caller.name);
            assert_eq!(one["user_name"], *subject.user_name, "{}", caller.name);
            for field in ["email", "direct_messages_from"] {
                assert_eq!(one[field].is_string(), shown, "{field} as {}: {one}", caller.name);
            }
        }
    }
});

both!(a_log_in_does_not_reveal_which_users_exist, async |place| {
    let fixture = Fixture::start(place).await;
    let subject = fixture.subject(Some("what's up, doc?")).await;
    let nobody = Caller { name: "nobody".into(), column: "no".into(), headers: Vec::new() };
    let by_name = |name: &str| json!({"user_name": name, "password": "nothing much, you?"});
    for there in [&*subject.user_name, ERASED, "banned", "other"] {
        let pair = Pair::bodies("/api/sessions", by_name(there), by_name(NEVER));
        pair.assert(&fixture, &nobody, 401, "invalid_credentials").await;
    }
    let by_email = |email: &str| json!({"email": email, "password": "nothing much, you?"});
    let pair = Pair::bodies("/api/sessions", by_email(&subject.email), by_email("nobody@example.org"));
    pair.assert(&fixture, &nobody, 401, "invalid_credentials").await;
    let reset = |email: &str| json!({"email": email});
    let pair = Pair::bodies("/api/password-resets", reset(&subject.email), reset("nobody@example.org"));
    pair.assert(&fixture, &nobody, 202, "").await;
});

both!(a_key_cannot_act_for_a_user_who_does_not_exist, async |place| {
    let fixture = Fixture::start(place).await;
    let subject = fixture.subject(None).await;
    for caller in in_columns(&fixture.callers(&subject), &["r", "w", "a", "*"]) {
        let mut shown = Vec::new();
        // No caller can act as a banned user either.
        for name in [NEVER, ERASED, "banned", "so not", "me"] {
            let mut caller = caller.clone();
            caller.headers.push(("x-act-as", name.into()));
            let answer = fixture.call(&caller, "GET", "/api/users/me", None).await;
            answer.invalid(&["X-Act-As"]);
            shown.push(shown_text(&answer));
        }
        shown.dedup();
        assert_eq!(shown.len(), 1, "{shown:?}");
    }
});

both!(erased_names_and_used_codes_are_never_valid_again, async |place| {
    let fixture = Fixture::start(place).await;
    let subject = fixture.subject(None).await;
    let target = format!("/api/admin/users/{}/password-resets", subject.user_name);
    let code = fixture.open_server.post(&target, &json!({})).await.json()["code"].as_str().unwrap().to_owned();
    let used = format!("/api/password-resets/{code}");
    let body = json!({"new_password": "nothing much, you?"});
    let first = fixture.server.request(Method::PUT, &used).json(&body);
    assert_eq!(answer_of(first).await.status, 204);
    let nobody = Caller { name: "nobody".into(), column: "no".into(), headers: Vec::new() };
    let pair = Pair {
        method: "PUT",
        targets: [used, "/api/password-resets/phr_none".into()],
        bodies: [Some(body.clone()), Some(body)],
    };
    pair.assert(&fixture, &nobody, 404, "code_not_found").await;
    // The name of an erased user cannot be used again. The refusal is the same as for the name of an existing user.
    let make = |name: &str| json!({"user_name": name});
    let callers = fixture.callers(&fixture.subject(None).await);
    for caller in in_columns(&callers, &["ad", "w", "*", "*/a"]) {
        Pair::bodies("/api/users", make(ERASED), make("other")).assert(&fixture, caller, 409, "user_name_taken").await;
    }
});
