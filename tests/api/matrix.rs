//! Who may do what: every operation of the OpenAPI document, as every kind of caller, against a table.
//!
//! Invariants: an operation that is not in the table fails, and so does a row that is no operation. What somebody may not see
//! answers to the byte like what does not exist. A refused request changes nothing.

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

use cast::{Caller, Cast};
use scene::{Scene, parts};
use table::{Outcome, table};

/// The operations of the served document, each with its description.
async fn documented(cast: &Cast) -> BTreeMap<String, Value> {
    let document = cast.server.get("/openapi.json").await.json();
    let mut operations = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.insert(format!("{} {path}", method.to_uppercase()), operation.clone());
        }
    }
    operations
}

both!(every_operation_is_in_the_table, async |place| {
    let cast = Cast::start(place).await;
    let documented: Vec<String> = documented(&cast).await.into_keys().collect();
    let expected: Vec<String> = table().into_keys().map(str::to_owned).collect();
    assert_eq!(documented, expected);
});

both!(everyone_may_do_what_the_table_says, async |place| {
    let cast = Cast::start(place).await;
    let mut wrong = Vec::new();
    for (operation, row) in table() {
        try_everyone(&cast, operation, &row, &mut wrong).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
});

both!(open_registration_is_for_everyone_who_may_write, async |place| {
    let cast = Cast::start_with(place, true).await;
    let operation = "POST /api/users";
    let closed = Outcome::Refused { status: 403, code: "registration_closed", of_something_seen: false };
    let row = table()[operation]
        .iter()
        .map(|(column, outcome)| (*column, if *outcome == closed { Outcome::Done(201) } else { *outcome }))
        .collect();
    let mut wrong = Vec::new();
    try_everyone(&cast, operation, &row, &mut wrong).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Whoever makes an account makes an ordinary one.
    let users = cast.workshop.all("/api/users?q=made").await;
    assert!(users.len() > 20, "{users:?}");
    assert!(users.iter().all(|user| user["role"] == "user"), "{users:?}");
});

/// Whoever is refused comes first, so that it shows when something happens all the same.
async fn try_everyone(cast: &Cast, operation: &str, row: &BTreeMap<&str, Outcome>, wrong: &mut Vec<String>) {
    let mut scene = Scene::new(cast, operation).await;
    let callers = cast.callers(&scene.subject);
    let is_done = |caller: &Caller| matches!(row[&*caller.column], Outcome::Done(_));
    let before = state(cast, &scene).await;
    for caller in callers.iter().filter(|caller| !is_done(caller)) {
        let answer = call(cast, caller, operation, &scene.path, scene.body.as_ref()).await;
        wrong.extend(difference(operation, caller, row, &answer));
    }
    let after = state(cast, &scene).await;
    if after != before {
        wrong.push(format!("{operation}: who was refused changed something\n  {before}\n  {after}"));
    }
    let mut used = false;
    for index in (0..callers.len()).filter(|index| is_done(&callers[*index])) {
        if used && !scene.lasts {
            scene = Scene::new(cast, operation).await;
        }
        used = true;
        let caller = &cast.callers(&scene.subject)[index];
        let answer = call(cast, caller, operation, &scene.path, scene.body.as_ref()).await;
        wrong.extend(difference(operation, caller, row, &answer));
    }
}

async fn call(cast: &Cast, caller: &Caller, operation: &str, path: &str, body: Option<&Value>) -> Answer {
    cast.call(caller, parts(operation).0, path, body).await
}

/// What there is, and what the subject is.
async fn state(cast: &Cast, scene: &Scene) -> Value {
    let user = cast.workshop.get(&format!("/api/users/{}", scene.subject.user_name)).await.json();
    let mut stats = cast.workshop.get("/api/admin/stats").await.json();
    // It grows by itself.
    stats.as_object_mut().unwrap().remove("database_bytes");
    json!([user, stats])
}

fn difference(operation: &str, caller: &Caller, row: &BTreeMap<&str, Outcome>, answer: &Answer) -> Option<String> {
    let expected = row[&*caller.column];
    let status = answer.status.as_u16();
    let as_expected = match expected {
        Outcome::Done(expected) => status == expected,
        Outcome::Refused { status: expected, code, .. } => status == expected && answer.json()["code"] == code,
    };
    let body = String::from_utf8_lossy(&answer.bytes);
    (!as_expected).then(|| format!("{operation} as {}: {expected:?}, but {status} {body}", caller.name))
}

both!(what_may_not_be_seen_answers_like_what_does_not_exist, async |place| {
    let cast = Cast::start(place).await;
    let mut wrong = Vec::new();
    for (operation, row) in table().into_iter().filter(|(operation, _)| operation.contains('{')) {
        let scene = Scene::new(&cast, operation).await;
        for caller in cast.callers(&scene.subject) {
            let mut faces = Vec::new();
            for path in &scene.missing {
                let answer = call(&cast, &caller, operation, path, scene.body.as_ref()).await;
                faces.push((path, answer.status.as_u16(), face(&answer)));
            }
            let is_told_apart =
                matches!(row[&*caller.column], Outcome::Done(_) | Outcome::Refused { of_something_seen: true, .. });
            if is_told_apart {
                // Who may see the thing learns that there is none.
                let named = faces.iter().filter(|(_, status, _)| *status != 404);
                wrong.extend(named.map(|(path, _, face)| format!("{operation} as {}: {path}\n{face}", caller.name)));
            } else {
                let answer = call(&cast, &caller, operation, &scene.path, scene.body.as_ref()).await;
                faces.push((&scene.path, answer.status.as_u16(), face(&answer)));
            }
            for pair in faces.windows(2).filter(|pair| pair[0].2 != pair[1].2) {
                let ((one, _, its_face), (other, _, other_face)) = (&pair[0], &pair[1]);
                wrong
                    .push(format!("{operation} as {} tells {one} from {other}\n{its_face}\n{other_face}", caller.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
});

/// Everything that an answer shows but the time. The request's id is the same in all that are compared.
fn face(answer: &Answer) -> String {
    let mut headers: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    format!("{}\n{}\n{}", answer.status, headers.join("\n"), String::from_utf8_lossy(&answer.bytes))
}
