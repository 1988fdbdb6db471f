//! `/api/conversations/{id}/messages`: pages of one conversation.

use serde_json::{Value, json};

use crate::both;
use crate::support::{Server, answer_of};

fn seqs(page: &Value) -> Vec<i64> {
    page.as_array().unwrap().iter().map(|message| message["seq"].as_i64().unwrap()).collect()
}

both!(each_parameter_selects_its_part_of_the_history, async |place| {
    let server = Server::start(place).await;
    // The demo's conversation of rdibari and bugs has three messages. 37 more make forty.
    for number in 4..=40 {
        server.send("bugs", "rdibari", &format!("message {number}")).await;
    }
    let base = "/api/conversations/1/messages";
    let whole: Vec<i64> = (1..=40).collect();
    for (query, first, last) in [
        ("limit=200", 1, 40),
        ("limit=10", 31, 40),
        ("limit=10&before=31", 21, 30),
        ("limit=10&before=5", 1, 4),
        ("limit=10&before=99", 31, 40),
        ("limit=10&after=0", 1, 10),
        ("limit=10&after=35", 36, 40),
        ("limit=10&after=40", 0, 0),
        ("limit=10&around=20", 15, 24),
        ("limit=5&around=20", 18, 22),
        ("limit=1&around=20", 20, 20),
        ("limit=10&around=2", 1, 6),
        ("limit=10&around=40", 35, 40),
        ("limit=10&around=400", 35, 40),
        ("limit=10&date=2000-01-01", 1, 10),
        ("limit=10&date=2999-01-01", 0, 0),
    ] {
        let answer = server.get(&format!("{base}?{query}")).await;
        assert_eq!(answer.status, 200, "{query}");
        let wanted: Vec<i64> = whole.iter().copied().filter(|seq| (first..=last).contains(seq)).collect();
        assert_eq!(seqs(&answer.json()), wanted, "{query}");
    }
    // Message 7 has the same JSON in this page, in `GET …/messages/7` and in the timeline.
    let page = server.get(&format!("{base}?around=7&limit=1")).await.json();
    assert_eq!(page[0], server.get(&format!("{base}/7")).await.json());
    assert!(server.all("/api/messages/bugs").await.contains(&page[0]));
    // If `date` is the time of a message, the page begins with that message.
    let at = page[0]["timestamp_sent"].as_str().unwrap();
    assert_eq!(seqs(&server.get(&format!("{base}?date={at}&limit=3")).await.json())[0], 7);
});

both!(links_lead_through_the_whole_conversation, async |place| {
    let server = Server::start(place).await;
    for number in 4..=25 {
        server.send("bugs", "rdibari", &format!("message {number}")).await;
    }
    for (start, older) in [("limit=7", true), ("limit=7&after=0", false), ("limit=7&around=25", true)] {
        let mut target = Some(format!("/api/conversations/1/messages?{start}"));
        let mut found = Vec::new();
        while let Some(next) = target {
            let answer = server.get(&next).await;
            let page = seqs(&answer.json());
            assert!(page.is_sorted(), "each page is oldest first");
            if older {
                found.splice(0..0, page);
            } else {
                found.extend(page);
            }
            target = answer.next();
            // New messages arrive meanwhile.
            server.send("rdibari", "bugs", "meanwhile").await;
        }
        assert!(found.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{start}: {found:?}");
        assert_eq!(found[0], 1, "{start}");
        assert!(found.last().is_some_and(|last| *last >= 25), "{start}: {found:?}");
    }
});

both!(invalid_parameters_are_refused_and_non_members_get_404, async |place| {
    let server = Server::start(place).await;
    let base = "/api/conversations/1/messages";
    for (query, field) in [
        ("before=1&after=1", "after"),
        ("before=0", "before"),
        ("after=-1", "after"),
        ("around=0", "around"),
        ("around=x", "around"),
        ("date=yesterday", "date"),
        ("date=2026-13-01", "date"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=x", "cursor"),
    ] {
        server.get(&format!("{base}?{query}")).await.invalid(&[field]);
    }
    let three = server.get(&format!("{base}?before=3&after=1&date=2026-01-01")).await;
    three.invalid(&["after", "date"]);
    let as_duck = |target: String| server.request(reqwest::Method::GET, &target).header("x-act-as", "duck");
    let mut hidden = answer_of(as_duck(base.into())).await.problem(404, "conversation_not_found");
    let mut absent =
        answer_of(as_duck("/api/conversations/99/messages".into())).await.problem(404, "conversation_not_found");
    for document in [&mut hidden, &mut absent] {
        document["request_id"] = json!(null);
    }
    assert_eq!(hidden, absent);
    for id in ["0", "x", "01", "-1", "9999999999999999999"] {
        server.get(&format!("/api/conversations/{id}/messages")).await.problem(404, "conversation_not_found");
    }
    assert_eq!(answer_of(as_duck("/api/conversations/2/messages".into())).await.status, 200);
});
