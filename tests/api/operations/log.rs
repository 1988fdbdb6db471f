//! The log lines of a request. Tests find them by the request id in the answer.

use std::time::{Duration, Instant};

use futures_util::SinkExt as _;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::both;
use crate::messages::messages::poison;
use crate::support::process::{Process, Wrapping};
use crate::support::watch::Socket;
use crate::support::{Answer, Place, answer_of};

/// The longest wait for a log line. The server writes a line before the answer or a moment after it.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);
/// Number of sends at the same time. It is higher than the number of batches that can be in progress, so that some sends share
/// a batch.
const CROWD: usize = 12;
/// The test repeats this many times to get the refused send into a batch with other sends.
const CROWD_ATTEMPTS: usize = 50;

async fn start(place: &Place, format: &str) -> Process {
    let arguments = ["--log", "debug", "--log-format", format].map(str::to_owned).to_vec();
    Process::start_wrapped(place, Wrapping { arguments, ..Wrapping::default() }).await
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn send(process: &Process, client: &reqwest::Client, body: &str) -> Answer {
    let message = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": body});
    answer_of(client.post(format!("http://{}/api/messages", process.address)).json(&message)).await
}

fn id_of(answer: &Answer) -> String {
    answer.header("x-request-id").unwrap().to_owned()
}

/// All complete lines that are JSON. Lines of a panic or of the shell are left out, because they are not JSON.
fn lines(process: &Process) -> Vec<Value> {
    process.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The fields of the span `name` in a line.
pub fn span<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    line["spans"].as_array()?.iter().find(|span| span["name"] == name)
}

/// Whether the line belongs to a batch that has this request.
fn is_in_batch(line: &Value, id: &str) -> bool {
    let ids = span(line, "send_batch").and_then(|batch| batch["request_ids"].as_str());
    ids.is_some_and(|ids| ids.split(' ').any(|its| its == id))
}

/// Waits for a line for which `wanted` returns true. `what` names the line if it does not appear.
pub async fn line(process: &Process, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + LINE_TIMEOUT;
    loop {
        if let Some(line) = lines(process).into_iter().find(|line| wanted(line)) {
            return line;
        }
        assert!(Instant::now() < deadline, "no line for {what}:\n{}", process.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

both!(a_send_is_found_by_its_request_id, async |place| {
    let process = start(place, "json").await;
    let client = client();
    let sent = send(&process, &client, "found").await;
    assert_eq!(sent.status, 201);
    let id = id_of(&sent);
    let answered = line(&process, "the answer", |line| {
        line["message"] == "answered" && span(line, "request").is_some_and(|request| request["request_id"] == *id)
    });
    let answered = answered.await;
    let request = span(&answered, "request").unwrap();
    assert_eq!(request["method"], "POST");
    assert_eq!(request["route"], "/api/messages");
    assert_eq!(request["credential"], "open");
    assert_eq!((&answered["status"], &answered["level"]), (&json!(201), &json!("DEBUG")));
    let unit = line(&process, "the unit of work", |line| {
        line["message"] == "a unit of work ended"
            && is_in_batch(line, &id)
            && span(line, "unit_of_work").is_some_and(|unit| unit["kind"] == "write")
    });
    let unit = unit.await;
    assert_eq!(unit["succeeded"], true);
    assert!(unit["duration_ms"].as_f64().is_some_and(|duration_ms| duration_ms > 0.0), "{unit}");
    let source = span(&unit, "unit_of_work").unwrap()["source"].as_str().unwrap();
    assert!(source.starts_with("src/domain/sending/send_queue.rs:"), "{source}");
    process.terminate().await;
});

both!(a_failed_batch_is_logged_once_with_every_request_id, async |place| {
    let process = start(place, "json").await;
    let client = client();
    let (trigger, _) = poison(place);
    place.sql(trigger).await;
    let mut shared = None;
    for _ in 0..CROWD_ATTEMPTS {
        let sends = (0..CROWD).map(|number| {
            let body = if number == CROWD / 2 { "poison" } else { "good" };
            send(&process, &client, body)
        });
        let answers = futures_util::future::join_all(sends).await;
        let (refused, sent): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 500);
        assert_eq!(refused.len(), 1);
        assert!(sent.iter().all(|answer| answer.status == 201));
        let refused = id_of(&refused[0]);
        let failed: Vec<Value> = lines(&process)
            .into_iter()
            .filter(|line| {
                line["message"] == "a batch of sends failed; sending each draft alone" && is_in_batch(line, &refused)
            })
            .collect();
        assert!(failed.len() <= 1, "{failed:?}");
        if let Some(failed) = failed.into_iter().next() {
            let others: Vec<String> = sent.iter().map(id_of).filter(|id| is_in_batch(&failed, id)).collect();
            assert_eq!(span(&failed, "send_batch").unwrap()["size"], others.len() + 1, "{failed}");
            shared = Some((refused, others));
            break;
        }
    }
    let (refused, others) = shared.expect("the refused send was never in a batch with another one");
    assert!(!others.is_empty());
    // After the failure of the batch, each of its sends runs alone, in a unit of work whose log line names no other request.
    let alone = |id: String, succeeded: bool| {
        let process = &process;
        async move {
            line(process, "the unit of work of one send", |line| {
                line["message"] == "a unit of work ended"
                    && line["succeeded"] == succeeded
                    && span(line, "send_batch").is_some_and(|batch| batch["request_ids"] == *id)
            })
            .await
        }
    };
    alone(refused.clone(), false).await;
    for id in others {
        alone(id, true).await;
    }
    let cause = line(&process, "the cause", |line| {
        line["message"] == "a request failed"
            && span(line, "request").is_some_and(|request| request["request_id"] == *refused)
    });
    let cause = cause.await;
    assert_eq!(cause["level"], "ERROR");
    assert!(cause["cause"].as_str().unwrap().contains("poisoned"), "{cause}");
    process.terminate().await;
});

both!(an_unknown_word_is_logged_with_its_row, async |place| {
    let process = start(place, "json").await;
    let conversation = place.numbers("SELECT min(id) FROM messaging.conversations").await[0][0];
    let duck = place.numbers("SELECT id FROM messaging.users WHERE user_name = 'duck'").await[0][0];
    let long = "x".repeat(100);
    let of_conversation = format!("/api/conversations/{conversation}");
    for (table, column, word, right, id, target) in [
        ("users", "role", "captain", "user", duck, "/api/users"),
        ("users", "direct_messages_from", long.as_str(), "everyone", duck, "/api/users/duck"),
        ("conversations", "kind", "castle", "direct", conversation, of_conversation.as_str()),
    ] {
        let set = |word: &str| format!("UPDATE messaging.{table} SET {column} = '{word}' WHERE id = {id}");
        place.sql(&set(word)).await;
        let request = client().get(format!("http://{}{target}", process.address)).header("x-act-as", "bugs");
        let answer = answer_of(request).await;
        answer.problem(500, "internal");
        assert!(!String::from_utf8_lossy(&answer.bytes).contains(word), "{target}");
        let request_id = id_of(&answer);
        let cause = line(&process, target, |line| {
            line["message"] == "a request failed"
                && span(line, "request").is_some_and(|request| request["request_id"] == *request_id)
        });
        let cause = cause.await["cause"].as_str().unwrap().to_owned();
        // A long word is shortened.
        let word = &word[..word.len().min(40)];
        assert!(
            cause.starts_with(&format!("{table}.{column} contains the word \"{word}\" in the row with ")),
            "{cause}"
        );
        assert!(cause.contains(&format!(" {id}")), "{cause}");
        place.sql(&set(right)).await;
    }
    process.terminate().await;
});

both!(a_read_has_the_request_as_its_parent, async |place| {
    let process = start(place, "json").await;
    let mut headers = HeaderMap::new();
    headers.insert("x-request-id", "my-read".parse().unwrap());
    headers.insert("x-act-as", "bugs".parse().unwrap());
    let read = client().get(format!("http://{}/api/messages/bugs", process.address)).headers(headers);
    assert_eq!(answer_of(read).await.status, 200);
    let timeline = "src/domain/messages/timeline.rs:";
    let unit = line(&process, "the unit of work", |line| {
        span(line, "unit_of_work")
            .is_some_and(|unit| unit["source"].as_str().is_some_and(|source| source.starts_with(timeline)))
    });
    let unit = unit.await;
    assert_eq!(unit["message"], "a unit of work ended");
    let request = span(&unit, "request").unwrap();
    assert_eq!(request["request_id"], "my-read");
    assert_eq!(request["route"], "/api/messages/{user_name}");
    assert!(request["user_id"].is_i64(), "{request}");
    process.terminate().await;
});

both!(a_line_as_text_has_the_request_id, async |place| {
    let process = start(place, "text").await;
    let client = client();
    let id = id_of(&send(&process, &client, "as text").await);
    let deadline = Instant::now() + LINE_TIMEOUT;
    let request = format!("request{{request_id={id} method=\"POST\" credential=\"open\" route=\"/api/messages\"");
    let batch = format!("request_ids={id}}}:unit_of_work");
    loop {
        let log = process.log();
        let has = |parts: &[&str]| log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        if has(&["answered", &request]) && has(&["a unit of work ended", &batch]) {
            break;
        }
        assert!(Instant::now() < deadline, "{id} is not in the lines:\n{log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process.terminate().await;
});

both!(a_frame_is_a_request_inside_that_of_its_socket, async |place| {
    let process = start(place, "json").await;
    let mut socket = Socket::open_at(process.address, "/api/ws", &[("x-request-id", "my-socket")]).await.unwrap();
    let frame = json!({"type": "send", "sender_user_name": "bugs", "recipient_user_name": "duck", "body": "framed"});
    socket.stream.send(Message::text(frame.to_string())).await.unwrap();
    let answered = line(&process, "the answer to the frame", |line| {
        line["message"] == "answered"
            && span(line, "request").is_some_and(|request| request["request_id"] == "my-socket")
            && line["spans"].as_array().is_some_and(|spans| spans.len() == 2)
    });
    let answered = answered.await;
    let frame = &answered["spans"][1];
    assert_eq!(frame["route"], "/api/messages");
    assert_eq!(frame["credential"], "open");
    let id = frame["request_id"].as_str().unwrap();
    line(&process, "the batch of the frame", |line| is_in_batch(line, id)).await;
    drop(socket);
    process.terminate().await;
});
