//! One of two servers is killed while it sends scheduled messages. The other one continues, and nothing is sent twice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use posthaste::base::ids::Rng;
use posthaste::base::time::Timestamp;
use serde_json::json;

use super::stored;
use crate::both;
use crate::messages::messages::assert_dense;
use crate::support::callers::now_micros;
use crate::support::process::Process;
use crate::support::wire::Wire;
use crate::support::{Place, many, random, seeded};

/// Number of messages that each sender schedules for the same time.
const DUE: usize = 100;
const SENDERS: [&str; 4] = ["rdibari", "bugs", "duck", "porky"];
/// Seconds after which the messages are due. By then all of them are accepted.
const AHEAD_S: i64 = 5;
const PATIENCE: Duration = Duration::from_secs(40);

both!(scheduled_messages_are_sent_once_when_a_server_dies, async |place| {
    let (_, rng) = seeded();
    let mut servers = vec![Process::start(place).await, Process::start(place).await];
    let mut amid = 0;
    for round in 0..many(1, 6) {
        let bodies = schedule(&servers, round).await;
        amid += usize::from(kill_one(place, &mut servers, &rng, bodies.len()).await);
        let deadline = Instant::now() + PATIENCE;
        while waiting(place).await > 0 {
            assert!(Instant::now() < deadline, "{} messages were not sent", waiting(place).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Waits until the remaining server has looked for due messages once more.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let sent: HashMap<String, usize> =
            stored(place).await.into_iter().map(|(body, places)| (body, places.len())).collect();
        for body in bodies {
            assert_eq!(sent.get(&body), Some(&1), "{body}");
        }
        assert_dense(place).await;
        servers.push(Process::start(place).await);
    }
    assert!(amid > 0, "no kill happened while messages were being sent");
    println!("{amid} kills during {} due messages", DUE * SENDERS.len());
    for server in servers {
        server.terminate().await;
    }
});

/// Schedules messages for one moment on both servers. Returns their bodies.
async fn schedule(servers: &[Process], round: usize) -> Vec<String> {
    let send_at = Timestamp::from_micros(now_micros() + AHEAD_S * 1_000_000);
    let each = SENDERS.iter().enumerate().map(async |(number, sender)| {
        let mut wire = Wire::connect(servers[number % servers.len()].address).await.unwrap();
        let mut bodies = Vec::new();
        for number in 0..DUE {
            let body = format!("due {round} {sender} {number}");
            let recipient = SENDERS[number % SENDERS.len()];
            let new = json!({"sender_user_name": sender, "recipient_user_name": recipient, "body": body,
                             "send_at": send_at.to_string()});
            let new = new.to_string();
            let request = format!(
                "POST /api/messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{new}",
                new.len()
            );
            let answer = wire.exchange(request.as_bytes()).await.unwrap();
            assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.bytes));
            bodies.push(body);
        }
        bodies
    });
    futures_util::future::join_all(each).await.concat()
}

/// Kills one of the servers after some of the messages have been sent. Returns whether some were still waiting.
async fn kill_one(place: &Place, servers: &mut Vec<Process>, rng: &Rng, all: usize) -> bool {
    let left = all - (1 + random(rng, all as u64 / 2) as usize);
    let deadline = Instant::now() + PATIENCE;
    while waiting(place).await > left as i64 {
        assert!(Instant::now() < deadline, "no scheduled message is sent");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    servers.remove(random(rng, 2) as usize).kill();
    waiting(place).await > 0
}

async fn waiting(place: &Place) -> i64 {
    place.numbers("SELECT count(*) FROM messaging.scheduled_sends").await[0][0]
}
