//! `GET /api/conversations`: the list of a user with filters, and the list of all conversations for a program.

use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::Server;
use crate::support::callers::{Caller, secured};
use crate::support::people::{call, delete, get, patch, post};
use crate::support::server::Answer;

/// Two direct conversations of the demo, then groups of bugs and duck. Returns the ids of the groups.
async fn groups(server: &Server, count: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    for number in 0..count {
        let new = json!({"kind": "group", "title": format!("group {number}"), "member_user_names": ["duck"]});
        ids.push(post(server, "bugs", "/api/conversations", new).await.json()["id"].as_i64().unwrap());
    }
    ids
}

fn ids(answer: &Answer) -> Vec<i64> {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json().as_array().unwrap().iter().map(|conversation| conversation["id"].as_i64().unwrap()).collect()
}

/// The ids on all pages, from a first path on.
async fn pages(first: &str, ask: impl AsyncFn(&str) -> Answer) -> Vec<i64> {
    let mut found = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(target) = next {
        let answer = ask(&target).await;
        let page = ids(&answer);
        assert!(page.len() <= 2, "{target}");
        found.extend(page);
        next = answer.next();
    }
    found
}

both!(a_key_lists_all_conversations_by_id, async |place| {
    let open = Server::start(place).await;
    let groups = groups(&open, 3).await;
    // A conversation without messages, one that is hidden by a user, and a group that has ended.
    let empty = post(&open, "porky", "/api/conversations", json!({"kind": "direct", "user_name": "bugs"})).await;
    let empty = empty.json()["id"].as_i64().unwrap();
    assert_eq!(delete(&open, "rdibari", "/api/conversations/1").await.status, 204);
    let ended = self::groups(&open, 1).await[0];
    assert_eq!(delete(&open, "bugs", &format!("/api/conversations/{ended}")).await.status, 204);
    let all = [&[1, 2][..], &groups, &[empty]].concat();

    let key = open.api_key(&["read"]).await;
    let server = Server::start_with(place, secured()).await;
    let caller = Caller::new(&server, &key);
    assert_eq!(ids(&caller.get("/api/conversations").await), all);
    assert_eq!(pages("/api/conversations?limit=2", async |target| caller.get(target).await).await, all);
    let direct = pages("/api/conversations?limit=2&kind=direct", async |target| caller.get(target).await).await;
    assert_eq!(direct, [1, 2, empty]);
    assert_eq!(ids(&caller.get("/api/conversations?kind=group").await), groups);
    let listed = caller.get("/api/conversations").await.json();
    assert_eq!(listed[0]["last_message"]["body"], "samees");
    assert_eq!((&listed[0]["me"], &listed[0]["peer"]), (&Value::Null, &Value::Null));
    assert_eq!(listed[2]["title"], "group 0");

    // New conversations do not move the pages.
    let first = caller.get("/api/conversations?limit=2").await;
    self::groups(&open, 1).await;
    open.send("bugs", "duck", "new").await;
    assert_eq!(ids(&caller.get(&first.next().unwrap()).await), all[2..4]);

    caller.get("/api/conversations?unread=true").await.invalid(&["unread"]);
    caller.get("/api/conversations?archived=false&unread=false").await.invalid(&["unread", "archived"]);
    caller.get("/api/conversations?kind=channel").await.invalid(&["kind"]);
    caller.get("/api/conversations?cursor=x").await.invalid(&["cursor"]);
    // Each list refuses the cursors of the other one.
    let of_user = caller.acting_as("bugs").get("/api/conversations?limit=1").await.next().unwrap();
    caller.get(&of_user).await.invalid(&["cursor"]);
    caller.acting_as("bugs").get(&first.next().unwrap()).await.invalid(&["cursor"]);
});

both!(the_list_of_a_user_has_filters, async |place| {
    let server = Server::start(place).await;
    let groups = groups(&server, 5).await;
    let path = |id: i64| format!("/api/conversations/{id}");
    // System messages do not count as unread, so each group gets another message.
    let mut last_seq = 0;
    for id in &groups {
        let said = post(&server, "bugs", "/api/messages", json!({"conversation_id": id, "body": "hey"})).await;
        last_seq = said.json()["seq"].as_i64().unwrap();
    }
    // duck has read the first group, and has marked the second one as unread after reading it. The third one is archived.
    for id in &groups[..2] {
        let read = post(&server, "duck", &format!("{}/receipts", path(*id)), json!({"read_seq": last_seq})).await;
        assert_eq!(read.status, 200);
    }
    post(&server, "duck", &format!("{}/receipts", path(groups[1])), json!({"unread_from": last_seq})).await;
    assert_eq!(patch(&server, "duck", &path(groups[2]), json!({"me": {"archived": true}})).await.status, 200);

    let list = async |query: &str| ids(&get(&server, "duck", &format!("/api/conversations?{query}")).await);
    let (direct, archived) = (2, groups[2]);
    // Nobody has read the messages of the demo, not even their senders.
    let unread = [groups[4], groups[3], groups[2], groups[1], direct];
    assert_eq!(list("kind=group").await, [groups[4], groups[3], groups[2], groups[1], groups[0]]);
    assert_eq!(list("kind=direct").await, [direct]);
    assert_eq!(list("unread=true").await, unread);
    assert_eq!(list("unread=false").await, [groups[0]]);
    assert_eq!(list("archived=true").await, [archived]);
    assert_eq!(list("archived=true&unread=false").await, [0; 0]);
    assert_eq!(list("archived=false&unread=true&kind=group").await, [groups[4], groups[3], groups[1]]);
    // The filter agrees with the count in each entry.
    for (query, expected) in [("unread=true", true), ("unread=false", false)] {
        let listed = get(&server, "duck", &format!("/api/conversations?{query}")).await.json();
        for conversation in listed.as_array().unwrap() {
            assert_eq!(conversation["me"]["unread_count"].as_i64().unwrap() > 0, expected, "{conversation}");
        }
    }
    // The link to the next page keeps the filters.
    let paged = pages("/api/conversations?limit=2&unread=true&archived=false", async |target| {
        get(&server, "duck", target).await
    });
    assert_eq!(paged.await, [groups[4], groups[3], groups[1], direct]);
    for (query, field) in
        [("unread=1", "unread"), ("archived=yes", "archived"), ("kind=", "kind"), ("open=true", "open")]
    {
        get(&server, "duck", &format!("/api/conversations?{query}")).await.invalid(&[field]);
    }
    let other = call(&server, "porky", Method::GET, "/api/conversations?kind=group", None).await;
    assert_eq!(ids(&other), [0; 0]);
});
