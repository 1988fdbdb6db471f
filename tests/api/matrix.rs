//! The authorization matrix: every kind of caller tries every operation of the OpenAPI document. The outcomes are compared with
//! a table.
//!
//! Invariants: the test fails if an operation is missing in the table, or if a row has no operation. A caller who may not see a
//! thing gets, byte for byte, the answer for a thing that does not exist. A refused request changes nothing.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::both;
use crate::support::answer_of;
use crate::support::server::Answer;

mod assignment;
mod cast;
mod hidden;
mod roles;
mod scene;
mod table;

use cast::{Caller, Fixture};
use scene::{Case, parts};
use table::{Outcome, table};

/// The operations of the served OpenAPI document, each with its description.
async fn documented(fixture: &Fixture) -> BTreeMap<String, Value> {
    let document = fixture.server.get("/openapi.json").await.json();
    let mut operations = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.insert(format!("{} {path}", method.to_uppercase()), operation.clone());
        }
    }
    operations
}

both!(every_operation_is_in_the_table, async |place| {
    let fixture = Fixture::start(place).await;
    let documented: Vec<String> = documented(&fixture).await.into_keys().collect();
    let expected: Vec<String> = table().into_keys().map(str::to_owned).collect();
    assert_eq!(documented, expected);
});

both!(every_caller_may_do_what_the_table_says, async |place| {
    let fixture = Fixture::start(place).await;
    let mut wrong = Vec::new();
    for (operation, row) in table() {
        try_all_callers(&fixture, operation, &row, &mut wrong).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
});

both!(open_registration_is_for_every_caller_who_may_write, async |place| {
    let fixture = Fixture::start_with(place, true).await;
    let operation = "POST /api/users";
    let closed = Outcome::Refused { status: 403, code: "registration_closed", of_visible_thing: false };
    let row = table()[operation]
        .iter()
        .map(|(column, outcome)| (*column, if *outcome == closed { Outcome::Done(201) } else { *outcome }))
        .collect();
    let mut wrong = Vec::new();
    try_all_callers(&fixture, operation, &row, &mut wrong).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Every account that was created has the role `user`.
    let users = fixture.open_server.all("/api/users?q=made").await;
    assert!(users.len() > 20, "{users:?}");
    assert!(users.iter().all(|user| user["role"] == "user"), "{users:?}");
});

/// First tries all callers who must be refused, and asserts that their requests have changed nothing. Then tries the callers who
/// are allowed.
async fn try_all_callers(fixture: &Fixture, operation: &str, row: &BTreeMap<&str, Outcome>, wrong: &mut Vec<String>) {
    let mut case = Case::new(fixture, operation).await;
    let callers = fixture.callers(&case.subject);
    let is_done = |caller: &Caller| matches!(row[&*caller.column], Outcome::Done(_));
    let before = state(fixture, &case).await;
    for caller in callers.iter().filter(|caller| !is_done(caller)) {
        let answer = call(fixture, caller, operation, &case.path, case.body.as_ref()).await;
        wrong.extend(difference(operation, caller, row, &answer));
    }
    let after = state(fixture, &case).await;
    if after != before {
        wrong.push(format!("{operation}: a refused request changed something\n  {before}\n  {after}"));
    }
    let mut used = false;
    for index in (0..callers.len()).filter(|index| is_done(&callers[*index])) {
        if used && !case.lasts {
            case = Case::new(fixture, operation).await;
        }
        used = true;
        let caller = &fixture.callers(&case.subject)[index];
        let answer = call(fixture, caller, operation, &case.path, case.body.as_ref()).await;
        wrong.extend(difference(operation, caller, row, &answer));
    }
}

async fn call(fixture: &Fixture, caller: &Caller, operation: &str, path: &str, body: Option<&Value>) -> Answer {
    fixture.call(caller, parts(operation).0, path, body).await
}

/// The statistics of the server, and the subject's account.
async fn state(fixture: &Fixture, case: &Case) -> Value {
    let user = fixture.open_server.get(&format!("/api/users/{}", case.subject.user_name)).await.json();
    let mut stats = fixture.open_server.get("/api/admin/stats").await.json();
    // The size of the database changes by itself.
    stats.as_object_mut().unwrap().remove("database_bytes");
    json!([user, stats])
}

fn difference(operation: &str, caller: &Caller, row: &BTreeMap<&str, Outcome>, answer: &Answer) -> Option<String> {
    let expected = row[&*caller.column];
    let status = answer.status.as_u16();
    let as_expected = match expected {
        Outcome::Done(expected) => status == expected,
        Outcome::Refused { status: expected, code, .. } => {
            // The answer to HEAD has no body.
            status == expected && (operation.starts_with("HEAD ") || answer.json()["code"] == code)
        }
    };
    let body = String::from_utf8_lossy(&answer.bytes);
    (!as_expected).then(|| format!("{operation} as {}: {expected:?}, but {status} {body}", caller.name))
}

both!(hidden_things_answer_like_things_that_do_not_exist, async |place| {
    let fixture = Fixture::start(place).await;
    let mut wrong = Vec::new();
    for (operation, row) in table().into_iter().filter(|(operation, _)| operation.contains('{')) {
        let case = Case::new(&fixture, operation).await;
        for caller in fixture.callers(&case.subject) {
            let mut shown = Vec::new();
            for path in &case.missing {
                let answer = call(&fixture, &caller, operation, path, case.body.as_ref()).await;
                shown.push((path, answer.status.as_u16(), shown_text(&answer)));
            }
            let may_see =
                matches!(row[&*caller.column], Outcome::Done(_) | Outcome::Refused { of_visible_thing: true, .. });
            if may_see {
                // For a caller who may see such things, a missing one is a 404.
                let named = shown.iter().filter(|(_, status, _)| *status != 404);
                wrong.extend(named.map(|(path, _, text)| format!("{operation} as {}: {path}\n{text}", caller.name)));
            } else {
                let answer = call(&fixture, &caller, operation, &case.path, case.body.as_ref()).await;
                shown.push((&case.path, answer.status.as_u16(), shown_text(&answer)));
            }
            for pair in shown.windows(2).filter(|pair| pair[0].2 != pair[1].2) {
                let ((one, _, its_text), (other, _, other_text)) = (&pair[0], &pair[1]);
                wrong.push(format!(
                    "{operation} as {} shows a difference between {one} and {other}\n{its_text}\n{other_text}",
                    caller.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
});

/// The status, the headers except the date, and the body of an answer, as one text. All compared requests have the same request
/// id.
fn shown_text(answer: &Answer) -> String {
    let mut headers: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    format!("{}\n{}\n{}", answer.status, headers.join("\n"), String::from_utf8_lossy(&answer.bytes))
}
