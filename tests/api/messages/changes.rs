//! Many simultaneous reactions and receipts share commits, and each request gets its own result.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::json;

use crate::both;
use crate::operations::durability::shutdown::Hold;
use crate::support::people::{delete, group, patch, post, put, say};
use crate::support::place::Kind;
use crate::support::{Place, Server};

const PEOPLE: [&str; 3] = ["bugs", "duck", "porky"];
const THUMB: &str = "reactions/%F0%9F%91%8D";

/// Asserts that each counter agrees with the rows that it counts.
async fn assert_agreement(place: &Place) {
    let disagreeing = "SELECT count(*) FROM messaging.messages m
                        WHERE m.reaction_counts IS NOT NULL
                          AND m.reaction_counts <> (SELECT '👍 ' || count(*) FROM messaging.reactions r
                                                     WHERE r.conversation_id = m.conversation_id AND r.seq = m.seq)";
    assert_eq!(place.numbers(disagreeing).await, [[0]]);
    let log = "SELECT count(*) - max(position), max(position) - (SELECT last_position FROM messaging.event_log)
                 FROM messaging.events";
    assert_eq!(place.numbers(log).await, [[0, 0]]);
}

both!(changes_that_wait_share_a_commit_and_fail_one_by_one, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &["duck", "porky"], "all").await;
    let stranger = group(&server, "rdibari", &[], "all").await;
    let mut seqs = Vec::new();
    for number in 0..8 {
        seqs.push(say(&server, "bugs", room, &format!("message {number}"), None).await["seq"].as_i64().unwrap());
    }
    let gone = seqs[7];
    delete(&server, "bugs", &format!("/api/conversations/{room}/messages/{gone}")).await;
    let path = |seq: i64| format!("/api/conversations/{room}/messages/{seq}/{THUMB}");
    let hold = Hold::take(place).await;
    let (room_receipts, stranger_receipts) =
        (format!("/api/conversations/{room}/receipts"), format!("/api/conversations/{stranger}/receipts"));
    let reacting = PEOPLE.iter().flat_map(|person| seqs[..7].iter().map(move |seq| (*person, *seq)));
    let reactions = join_all(reacting.map(|(person, seq)| {
        let (server, path) = (&server, path(seq));
        async move { put(server, person, &path).await.status }
    }));
    let read = |person, seq: i64| post(&server, person, &room_receipts, json!({"read_seq": seq}));
    let receipts = join_all(["duck", "porky"].map(|person| read(person, gone)));
    let wrong = async {
        let (deleted, missing) = (path(gone), path(999));
        let outside = format!("/api/conversations/{stranger}/messages/1/{THUMB}");
        tokio::join!(
            put(&server, "duck", &deleted),
            put(&server, "duck", &missing),
            put(&server, "duck", &outside),
            read("duck", 999),
            post(&server, "duck", &stranger_receipts, json!({"read_seq": 1})),
        )
    };
    let release = async {
        // Holds the lock until all changes wait in the queue.
        tokio::time::sleep(Duration::from_millis(700)).await;
        hold.release().await;
    };
    let (reactions, receipts, wrong, ()) = tokio::join!(reactions, receipts, wrong, release);
    assert_eq!(reactions, [StatusCode::CREATED; 21]);
    for receipt in receipts {
        assert_eq!((receipt.status.as_u16(), &receipt.json()["unread_count"]), (200, &json!(0)));
    }
    wrong.0.problem(409, "message_deleted");
    wrong.1.problem(404, "message_not_found");
    wrong.2.problem(404, "message_not_found");
    wrong.3.invalid(&["read_seq"]);
    wrong.4.problem(404, "conversation_not_found");
    assert_agreement(place).await;
    if place.kind == Kind::Postgres {
        let transactions = place.numbers("SELECT count(DISTINCT xmin::text) FROM messaging.reactions").await[0][0];
        assert!(transactions <= 6, "{transactions} transactions for 21 reactions");
    }
});

both!(changes_sends_and_edits_of_the_same_conversations_do_not_block_each_other, async |place| {
    let server = Server::start(place).await;
    let mut rooms = Vec::new();
    for _ in 0..3 {
        let room = group(&server, "bugs", &["duck", "porky"], "all").await;
        let seq = say(&server, "bugs", room, "first", None).await["seq"].as_i64().unwrap();
        rooms.push((room, seq));
    }
    let work = (0..90).map(|number: usize| {
        let (server, rooms) = (&server, &rooms);
        let person = PEOPLE[number % 3];
        // The requests use the conversations in different orders.
        let (room, seq) = rooms[if number.is_multiple_of(2) { number / 3 % 3 } else { 2 - number / 3 % 3 }];
        let message = format!("/api/conversations/{room}/messages/{seq}");
        async move {
            let answer = match number / 9 % 5 {
                0 => put(server, person, &format!("{message}/{THUMB}")).await,
                1 => delete(server, person, &format!("{message}/{THUMB}")).await,
                2 => {
                    post(server, person, &format!("/api/conversations/{room}/receipts"), json!({"read_seq": seq})).await
                }
                3 => patch(server, "bugs", &message, json!({"body": format!("edit {number}")})).await,
                _ => post(server, person, "/api/messages", json!({"conversation_id": room, "body": "more"})).await,
            };
            // Removing a reaction that is not there yet is a 404.
            assert!(answer.status.is_success() || answer.status == 404, "{number}: {}", answer.status);
        }
    });
    join_all(work).await;
    assert_agreement(place).await;
});
