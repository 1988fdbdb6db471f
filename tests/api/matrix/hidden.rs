//! What is hidden and not named by a path: in bodies, headers, queries and credentials.

use reqwest::Method;

use super::cast::{ERASED, NEVER};
use super::*;

/// Two requests that must be answered alike.
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
        cast: &'a Cast,
        caller: &'a Caller,
        status: u16,
        code: &'a str,
    ) -> impl Future<Output = ()> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let one = cast.call(caller, self.method, &self.targets[0], self.bodies[0].as_ref()).await;
            let other = cast.call(caller, self.method, &self.targets[1], self.bodies[1].as_ref()).await;
            assert_eq!(face(&one), face(&other), "{place}: {} {:?} as {}", self.method, self.targets, caller.name);
            let text = String::from_utf8_lossy(&one.bytes);
            assert_eq!(one.status, status, "{place}: as {}: {text}", caller.name);
            if status >= 400 {
                assert_eq!(one.json()["code"], code, "{place}: as {}", caller.name);
            }
        }
    }
}

/// Of a column, whoever stands there.
fn of<'a>(callers: &'a [Caller], columns: &'a [&str]) -> impl Iterator<Item = &'a Caller> {
    callers.iter().filter(|caller| columns.contains(&&*caller.column))
}

both!(nobody_learns_which_paths_there_are, async |place| {
    let cast = Cast::start(place).await;
    let subject = cast.subject(None).await;
    for caller in of(&cast.callers(&subject), &["no"]) {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            for known in ["/api/messages", "/api/admin/stats", "/api/users/admin", "/api/conversations/1/messages/1"] {
                for unknown in ["/api/none", "/api/", "/api", "/api/users/admin/none", "/api/a/%ff/%00"] {
                    Pair::targets(method, known, unknown).assert(&cast, caller, 401, "unauthenticated").await;
                }
            }
        }
    }
});

both!(a_body_does_not_tell_what_is_hidden, async |place| {
    let cast = Cast::start(place).await;
    let subject = cast.subject(None).await;
    let note = cast.workshop.send(&subject.user_name, &subject.user_name, "a note to myself").await;
    let callers = cast.callers(&subject);
    let hidden = note["conversation_id"].as_i64().unwrap();
    let send = |conversation: i64, sender: Option<&str>| {
        let body = json!({"conversation_id": conversation, "reply_to": 1, "body": "let me in"});
        match sender {
            Some(sender) => assignment::with(body, "sender_user_name", sender.into()),
            None => body,
        }
    };
    let none = 9_007_199_254_740_991_i64;
    for caller in of(&callers, &["ot", "ad", "w/a", "*/a"]) {
        let pair = Pair::bodies("/api/messages", send(hidden, None), send(none, None));
        pair.assert(&cast, caller, 404, "conversation_not_found").await;
    }
    for caller in of(&callers, &["w", "*"]) {
        let pair = Pair::bodies("/api/messages", send(hidden, Some("other")), send(none, Some("other")));
        pair.assert(&cast, caller, 404, "conversation_not_found").await;
    }
    // Who was erased is nobody.
    let to = |name: &str| json!({"recipient_user_name": name, "body": "are you there?"});
    for caller in of(&callers, &["me", "ot", "ad", "w/m", "*/a"]) {
        Pair::bodies("/api/messages", to(ERASED), to(NEVER)).assert(&cast, caller, 422, "invalid_fields").await;
    }
    let from = |name: &str| json!({"sender_user_name": name, "recipient_user_name": "other", "body": "boo"});
    for caller in of(&callers, &["w", "*"]) {
        Pair::bodies("/api/messages", from(ERASED), from(NEVER)).assert(&cast, caller, 422, "invalid_fields").await;
    }
    // A person may only say their own name, whoever else there is.
    for caller in of(&callers, &["ot", "ad", "w/a"]) {
        for other in ["subject-0", ERASED] {
            Pair::bodies("/api/messages", from(other), from(NEVER)).assert(&cast, caller, 403, "not_the_sender").await;
        }
    }
});

both!(a_query_does_not_tell_who_was_erased, async |place| {
    let cast = Cast::start(place).await;
    let subject = cast.subject(None).await;
    let callers = cast.callers(&subject);
    for caller in of(&callers, &["me", "ot", "ad", "r", "*", "r/m", "*/a"]) {
        let list = |name: &str| format!("/api/users?q={name}");
        Pair::targets("GET", &list(ERASED), &list(NEVER)).assert(&cast, caller, 200, "").await;
    }
    let with = |name: &str| format!("/api/messages/{}?with={name}", subject.user_name);
    for caller in of(&callers, &["me", "r", "r/m"]) {
        Pair::targets("GET", &with(ERASED), &with(NEVER)).assert(&cast, caller, 422, "invalid_fields").await;
    }
    // Who may not read the messages learns nothing of whom they are with.
    for caller in of(&callers, &["ot", "ad"]) {
        for there in ["other", ERASED] {
            Pair::targets("GET", &with(there), &with(NEVER)).assert(&cast, caller, 403, "not_your_messages").await;
        }
    }
});

both!(addresses_are_shown_to_whom_they_concern, async |place| {
    let cast = Cast::start(place).await;
    let subject = cast.subject(None).await;
    // A key that acts for an administrator is none without the scope for it.
    for (columns, shown) in [(["me", "ad", "r", "*", "r/m", "*/m", "*/a"].as_slice(), true), (&["ot", "r/a"], false)] {
        for caller in of(&cast.callers(&subject), columns) {
            let one = format!("/api/users/{}", subject.user_name);
            let many = format!("/api/users?q={}", subject.user_name);
            let one = cast.call(caller, "GET", &one, None).await.json();
            let many = cast.call(caller, "GET", &many, None).await.json();
            assert_eq!(one, many[0], "{}", caller.name);
            assert_eq!(one["user_name"], *subject.user_name, "{}", caller.name);
            for field in ["email", "direct_messages_from"] {
                assert_eq!(one[field].is_string(), shown, "{field} as {}: {one}", caller.name);
            }
        }
    }
});

both!(a_log_in_does_not_tell_who_there_is, async |place| {
    let cast = Cast::start(place).await;
    let subject = cast.subject(Some("what's up, doc?")).await;
    let nobody = Caller { name: "nobody".into(), column: "no".into(), headers: Vec::new() };
    let by_name = |name: &str| json!({"user_name": name, "password": "nothing much, you?"});
    for there in [&*subject.user_name, ERASED, "banned", "other"] {
        let pair = Pair::bodies("/api/sessions", by_name(there), by_name(NEVER));
        pair.assert(&cast, &nobody, 401, "invalid_credentials").await;
    }
    let by_email = |email: &str| json!({"email": email, "password": "nothing much, you?"});
    let pair = Pair::bodies("/api/sessions", by_email(&subject.email), by_email("nobody@example.org"));
    pair.assert(&cast, &nobody, 401, "invalid_credentials").await;
    let reset = |email: &str| json!({"email": email});
    let pair = Pair::bodies("/api/password-resets", reset(&subject.email), reset("nobody@example.org"));
    pair.assert(&cast, &nobody, 202, "").await;
});

both!(a_key_acts_for_nobody_who_is_not_there, async |place| {
    let cast = Cast::start(place).await;
    let subject = cast.subject(None).await;
    for caller in of(&cast.callers(&subject), &["r", "w", "a", "*"]) {
        let mut faces = Vec::new();
        // Whoever is kept out cannot be stood for either.
        for name in [NEVER, ERASED, "banned", "so not", "me"] {
            let mut caller = caller.clone();
            caller.headers.push(("x-act-as", name.into()));
            let answer = cast.call(&caller, "GET", "/api/users/me", None).await;
            answer.invalid(&["X-Act-As"]);
            faces.push(face(&answer));
        }
        faces.dedup();
        assert_eq!(faces.len(), 1, "{faces:?}");
    }
});

both!(a_name_and_a_code_are_gone_for_good, async |place| {
    let cast = Cast::start(place).await;
    let subject = cast.subject(None).await;
    let target = format!("/api/admin/users/{}/password-resets", subject.user_name);
    let code = cast.workshop.post(&target, &json!({})).await.json()["code"].as_str().unwrap().to_owned();
    let used = format!("/api/password-resets/{code}");
    let body = json!({"new_password": "nothing much, you?"});
    let first = cast.server.request(Method::PUT, &used).json(&body);
    assert_eq!(answer_of(first).await.status, 204);
    let nobody = Caller { name: "nobody".into(), column: "no".into(), headers: Vec::new() };
    let pair = Pair {
        method: "PUT",
        targets: [used, "/api/password-resets/phr_none".into()],
        bodies: [Some(body.clone()), Some(body)],
    };
    pair.assert(&cast, &nobody, 404, "code_not_found").await;
    // A name is not given again: who was erased is, in this, like who is there.
    let make = |name: &str| json!({"user_name": name});
    let callers = cast.callers(&cast.subject(None).await);
    for caller in of(&callers, &["ad", "w", "*", "*/a"]) {
        Pair::bodies("/api/users", make(ERASED), make("other")).assert(&cast, caller, 409, "user_name_taken").await;
    }
});
