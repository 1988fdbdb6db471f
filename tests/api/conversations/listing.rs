//! Paging the list of conversations, and other lists whose entries move, while they move.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::Clock;
use serde_json::Value;

use crate::both;
use crate::support::callers::moment;
use crate::support::people::{delete, get, group, put, say};
use crate::support::{Options, Server};

const LIST: &str = "/api/conversations?limit=2";

/// One page of a list and the target of the next one.
async fn page(server: &Server, person: &str, target: &str) -> (Vec<Value>, Option<String>) {
    let answer = get(server, person, target).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    (answer.json().as_array().unwrap().clone(), answer.next())
}

fn ids(page: &[Value]) -> Vec<i64> {
    page.iter().map(|one| one["id"].as_i64().unwrap()).collect()
}

/// Creates groups of duck and porky, the oldest first. The clock moves by a step after each.
async fn groups(server: &Server, hand: &AtomicI64, count: usize, step_micros: i64) -> Vec<i64> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(group(server, "duck", &["porky"], "all").await);
        hand.fetch_add(step_micros, Ordering::Relaxed);
    }
    ids
}

fn manual() -> (Arc<AtomicI64>, Options) {
    let hand = Arc::new(AtomicI64::new(moment("2026-01-01T00:00:00Z")));
    (Arc::clone(&hand), Options { demo: true, clock: Clock::Manual(hand), ..Options::default() })
}

both!(a_conversation_that_moves_up_while_the_list_is_read_is_on_one_page, async |place| {
    // Once with all messages within the time in which transactions may be in progress, and once without.
    for step_micros in [1_000, 60_000_000] {
        let (hand, options) = manual();
        let server = Server::start_with(place, options).await;
        let all = groups(&server, &hand, 9, step_micros).await;
        let listed: BTreeSet<i64> =
            ids(&page(&server, "duck", "/api/conversations?limit=200").await.0).into_iter().collect();
        let wanted = |newest: usize| all[all.len() - newest];
        let (first, next) = page(&server, "duck", LIST).await;
        assert_eq!(ids(&first), [wanted(1), wanted(2)]);
        hand.fetch_add(step_micros, Ordering::Relaxed);
        // One that was shown, one of the next page and one of a later page move up. A new one is not in this list.
        for moved in [wanted(2), wanted(3), wanted(6)] {
            say(&server, "porky", moved, "hey", None).await;
        }
        let new = group(&server, "duck", &["porky"], "all").await;
        let mut found = ids(&first);
        let mut target = next;
        let mut pages = 0;
        while let Some(next) = target {
            let (entries, after) = page(&server, "duck", &next).await;
            for entry in &entries {
                if entry["id"] == wanted(3) || entry["id"] == wanted(6) {
                    assert_eq!(entry["last_message"]["body"], "hey", "the content is the present one");
                }
            }
            found.extend(ids(&entries));
            target = after;
            pages += 1;
            if pages == 2 {
                hand.fetch_add(step_micros, Ordering::Relaxed);
                say(&server, "porky", wanted(6), "hey again", None).await;
                say(&server, "porky", wanted(8), "hey", None).await;
            }
        }
        assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), listed, "new: {new}");
        assert_eq!(found.len(), listed.len(), "no conversation comes twice: {found:?}");
        assert_eq!(found[..9], (1..=9).map(wanted).collect::<Vec<_>>(), "the order is the one of the first page");
        // The list from its beginning has the new order.
        assert_eq!(ids(&page(&server, "duck", LIST).await.0), [wanted(6), wanted(8)]);
        get(&server, "duck", "/api/conversations?cursor=Y29udmVyc2F0aW9uczox").await.invalid(&["cursor"]);
        for id in [all, vec![new]].concat() {
            assert_eq!(delete(&server, "duck", &format!("/api/conversations/{id}")).await.status, 204);
        }
        server.stop().await;
    }
});

both!(a_message_that_is_committed_late_hides_no_conversation, async |place| {
    let (hand, options) = manual();
    let server = Server::start_with(place, options).await;
    let all = groups(&server, &hand, 5, 60_000_000).await;
    let (first, next) = page(&server, "duck", LIST).await;
    assert_eq!(ids(&first), [all[4], all[3]]);
    // The message gets its time before the first page is read, and is committed after it.
    hand.fetch_sub(1_000_000, Ordering::Relaxed);
    say(&server, "porky", all[1], "late", None).await;
    hand.fetch_add(1_000_000, Ordering::Relaxed);
    let (second, next) = page(&server, "duck", &next.unwrap()).await;
    assert_eq!(ids(&second), [all[2], all[1]]);
    assert_eq!(second[1]["last_message"]["body"], "late");
    let (third, _) = page(&server, "duck", &next.unwrap()).await;
    assert_eq!(ids(&third)[0], all[0]);
});

both!(a_reaction_moves_no_emoji_between_two_pages, async |place| {
    let server = Server::start(place).await;
    let message = server.send("duck", "bugs", "x").await;
    let path = format!("/api/conversations/{}/messages/{}", message["conversation_id"], message["seq"]);
    let names = |page: &[Value]| page.iter().map(|one| one["name"].clone()).collect::<Vec<Value>>();
    let (whole, _) = page(&server, "duck", "/api/emoji?q=heart&limit=200").await;
    let (first, next) = page(&server, "duck", "/api/emoji?q=heart&limit=5").await;
    let last = names(&whole).pop().unwrap();
    let emoji = format!("{path}/reactions/:{}:", last.as_str().unwrap());
    assert_eq!(put(&server, "duck", &emoji).await.status, 201);
    let mut found = names(&first);
    let mut target = next;
    while let Some(next) = target {
        let (entries, after) = page(&server, "duck", &next).await;
        found.extend(names(&entries));
        target = after;
    }
    assert_eq!(found, names(&whole));
    assert_eq!(names(&page(&server, "duck", "/api/emoji?q=heart&limit=5").await.0)[0], last);
});
