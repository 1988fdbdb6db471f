//! Searching messages: the same hits on both databases, only messages that the caller may see, and no hits of deleted texts.

mod cases;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use posthaste::base::time::Clock;
use posthaste::domain::messages::search::keep_sorted;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::both;
use crate::operations::operations::{posthaste, text};
use crate::support::callers::{Caller, holds, moment, secured, session};
use crate::support::place::Kind;
use crate::support::server::Answer;
use crate::support::{Options, Place, Server, answer_of, run};

use cases::{CASES, CORPUS, REFUSED};

fn target(parameters: &[(&str, &str)]) -> String {
    let encoded: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    format!("/api/search/messages?{}", encoded.join("&"))
}

async fn ask(server: &Server, parameters: &[(&str, &str)]) -> Answer {
    server.get(&target(parameters)).await
}

async fn ask_as(server: &Server, person: &str, parameters: &[(&str, &str)]) -> Answer {
    answer_of(server.request(Method::GET, &target(parameters)).header("x-act-as", person)).await
}

#[track_caller]
fn bodies(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    let hits = answer.json();
    hits.as_array().unwrap().iter().map(|hit| hit["message"]["body"].as_str().unwrap().to_owned()).collect()
}

/// The marked parts of a hit.
fn marked(hit: &Value) -> Vec<String> {
    let snippet: Vec<char> = hit["snippet"].as_str().unwrap().chars().collect();
    let ranges = hit["ranges"].as_array().unwrap();
    let ends: Vec<usize> =
        ranges.iter().flat_map(|range| [&range[0], &range[1]]).map(|end| end.as_u64().unwrap() as usize).collect();
    assert!(ends.is_sorted() && ends.chunks(2).all(|range| range[0] < range[1]), "{hit}");
    ends.chunks(2).map(|range| snippet[range[0]..range[1]].iter().collect()).collect()
}

/// A server with four users, named like those of the demo, and without messages.
async fn with_people(place: &Place, options: Options) -> Server {
    let server = Server::start_with(place, Options { demo: false, ..options }).await;
    for name in ["rdibari", "bugs", "duck", "porky"] {
        server.add_user(name, "", "").await;
    }
    server
}

/// Inserts a group with these members. Each pair is a user id and the last seq before the user joined. `history` decides
/// whether members see messages from before they joined.
async fn put_group(place: &Place, id: i64, history: &str, members: &[(i64, i64)]) {
    let mut sql = format!(
        "INSERT INTO messaging.conversations (id, kind, created_at, created_by, last_seq, last_sent_at, last_message_id, history)
         SELECT {id}, 'group', u.created_at, u.id, 0, u.created_at, 0, '{history}' FROM messaging.users u WHERE u.id = 1;"
    );
    for (member, joined_seq) in members {
        sql += &format!(
            "INSERT INTO messaging.members (conversation_id, user_id, joined_at, joined_seq)
             SELECT {id}, u.id, u.created_at, {joined_seq} FROM messaging.users u WHERE u.id = {member};"
        );
    }
    place.sql(&sql).await;
}

/// Sends a message into a group.
async fn say_in_group(server: &Server, group: i64, sender: &str, body: &str) {
    let message = json!({"sender_user_name": sender, "conversation_id": group, "body": body});
    let answer = server.post("/api/messages", &message).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
}

both!(both_databases_find_the_same, async |place| {
    let server = with_people(place, Options::default()).await;
    for body in CORPUS {
        server.send("bugs", "duck", body).await;
    }
    let check = async |server: &Server| {
        for (q, expected) in CASES {
            let expected: Vec<&str> = expected.iter().rev().map(|index| CORPUS[*index]).collect();
            for answer in [ask(server, &[("q", q)]).await, ask_as(server, "duck", &[("q", q)]).await] {
                assert_eq!(bodies(&answer), expected, "{q}");
                for hit in answer.json().as_array().unwrap() {
                    assert!(!marked(hit).is_empty(), "{q}: {hit}");
                }
            }
            assert_eq!(bodies(&ask_as(server, "porky", &[("q", q)]).await), Vec::<String>::new(), "{q}");
        }
    };
    check(&server).await;
    for (q, code) in REFUSED {
        let document = ask(&server, &[("q", q)]).await.invalid(&["q"]);
        assert_eq!(document["errors"][0]["code"], *code, "{q}");
    }
    assert_eq!(bodies(&ask(&server, &[("q", &"fox ".repeat(20))]).await).len(), 2);
    ask(&server, &[("q", &"x".repeat(501))]).await.invalid(&["q"]);
    assert_eq!(bodies(&ask(&server, &[("q", &"x".repeat(500))]).await).len(), 0);
    assert_eq!(bodies(&ask(&server, &[("q", &"東".repeat(500))]).await).len(), 0);
    // After a restore the index exists, even if the backup was made on the other kind of database.
    let file = place.folder.path().join("backup");
    let file = file.to_str().unwrap();
    assert!(posthaste(place, &["backup", file]).status.success());
    server.send("bugs", "duck", "a fox after the backup").await;
    let restored = posthaste(place, &["restore", "--yes", file]);
    assert!(restored.status.success(), "{}", text(&restored));
    check(&server).await;
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let other = Place::new(kind).await;
        let restored = posthaste(&other, &["restore", "--yes", file]);
        assert!(restored.status.success(), "{}", text(&restored));
        let server = Server::start_with(&other, Options { demo: false, ..Options::default() }).await;
        check(&server).await;
        server.send("bugs", "duck", "one more fox").await;
        assert_eq!(bodies(&ask(&server, &[("q", "more fox")]).await), ["one more fox"]);
        server.stop().await;
        other.remove().await;
    }
});

both!(no_query_text_causes_a_server_error, async |place| {
    let server = Server::start(place).await;
    let parts = [
        "\"",
        "*",
        "(",
        ")",
        ":",
        "-",
        "^",
        "NEAR",
        "AND",
        "OR",
        "NOT",
        "{",
        "}",
        "'",
        "\\",
        "%",
        "|",
        "&",
        "!",
        "<->",
        "hey",
        "東",
        "c:1",
        "\u{301}",
        "\u{200d}",
        "ß",
        ":*",
        "+",
        ",",
        ".",
        "=",
        "\u{fdfa}",
        "\u{10ffff}",
    ];
    let mut seed: usize = 1;
    for _ in 0..400 {
        let mut q = String::new();
        for _ in 0..8 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            q += parts[(seed >> 33) % parts.len()];
            q += [" ", ""][(seed >> 20) % 2];
        }
        let answer = ask(&server, &[("q", &q)]).await;
        assert!(answer.status == 200 || answer.status == 422, "{q}: {}", answer.status);
    }
    ask(&server, &[("q", "hey\0")]).await.invalid(&["q"]);
    server.get("/api/search/messages").await.invalid(&["q"]);
    server.get("/api/search/messages?q=hey&x=1").await.invalid(&["x"]);
});

both!(a_hit_has_a_snippet_with_marked_ranges, async |place| {
    let server = Server::start(place).await;
    let long = format!("{} and a Nêedle, {}needle", "é ".repeat(200), "x ".repeat(100));
    let sent = server.send("bugs", "duck", &long).await;
    let hits = ask(&server, &[("q", "needle")]).await.json();
    assert_eq!(hits[0]["message"], sent);
    let snippet = hits[0]["snippet"].as_str().unwrap();
    assert_eq!(snippet.chars().count(), 162);
    assert!(snippet.starts_with('…') && snippet.ends_with('…'));
    assert_eq!(hits[0]["ranges"], json!([[41, 47]]));
    assert_eq!(marked(&hits[0]), ["Nêedle"]);
    server.send("bugs", "duck", "👍🏽 foo, BAR foo-bar 東京都").await;
    let hits = ask(&server, &[("q", "\"foo bar\" 東京都 京")]).await.json();
    assert_eq!(marked(&hits[0]), ["foo, BAR", "foo-bar", "東京都"]);
    assert_eq!(hits[0]["ranges"][0], json!([3, 11]));
    // The word is longer than an index entry and than the snippet.
    let word = "w".repeat(300);
    server.send("bugs", "duck", &word).await;
    let hits = ask(&server, &[("q", &word)]).await.json();
    assert_eq!(hits[0]["ranges"], json!([[0, 160]]));
    // A message with as many positions of one word as possible.
    let many = "东 a ".repeat(2_000);
    server.send("bugs", "duck", &many).await;
    assert_eq!(ask(&server, &[("q", "\"东 a 东\"")]).await.json().as_array().unwrap().len(), 1);
    server.send("bugs", "duck", &"\u{fdfa}".repeat(8_000)).await;
    server.send("bugs", "duck", &"漢字".repeat(4_000)).await;
    assert_eq!(bodies(&ask(&server, &[("q", "字漢字")]).await).len(), 1);
});

both!(filters_and_pages_work, async |place| {
    let hand = Arc::new(AtomicI64::new(moment("2026-11-01T08:30:00Z")));
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() };
    let server = with_people(place, options).await;
    let day = 86_400_000_000;
    for number in 0..30 {
        let (sender, recipient) = [("bugs", "duck"), ("duck", "bugs"), ("bugs", "porky")][number % 3];
        server.send(sender, recipient, &format!("daily carrot {number} http://x{number}.org")).await;
        hand.fetch_add(day, Ordering::Relaxed);
    }
    server.send("bugs", "duck", "carrot without").await;
    let count = async |parameters: &[(&str, &str)]| {
        let all: Vec<(&str, &str)> =
            [("q", "carrot"), ("limit", "200")].into_iter().chain(parameters.iter().copied()).collect();
        bodies(&ask(&server, &all).await).len()
    };
    assert_eq!(count(&[]).await, 31);
    assert_eq!(count(&[("from", "bugs")]).await, 21);
    assert_eq!(count(&[("from", "DUCK")]).await, 10);
    assert_eq!(count(&[("from", "porky")]).await, 0);
    assert_eq!(count(&[("conversation_id", "2")]).await, 10);
    assert_eq!(count(&[("conversation_id", "1"), ("from", "duck")]).await, 10);
    assert_eq!(count(&[("has", "link")]).await, 30);
    assert_eq!(count(&[("has", "attachment")]).await, 0);
    assert_eq!(count(&[("after", "2026-11-11")]).await, 21);
    assert_eq!(count(&[("before", "2026-11-11")]).await, 10);
    assert_eq!(count(&[("after", "2026-11-11T08:30:00Z"), ("before", "2026-11-12T08:30:00Z")]).await, 1);
    assert_eq!(count(&[("after", "2026-11-11T08:30:00.000001Z"), ("before", "2026-11-12T08:30:00Z")]).await, 0);
    assert_eq!(count(&[("after", "2030-01-01")]).await, 0);
    assert_eq!(count(&[("before", "2020-01-01")]).await, 0);
    assert_eq!(count(&[("after", "2026-11-20"), ("before", "2026-11-10")]).await, 0);
    assert_eq!(count(&[("after", "0000-01-01"), ("before", "9999-12-31")]).await, 31);
    assert_eq!(bodies(&ask_as(&server, "duck", &[("q", "carrot"), ("from", "me")]).await).len(), 10);

    ask(&server, &[("q", "x"), ("from", "nobody")]).await.invalid(&["from"]);
    ask(&server, &[("q", "x"), ("has", "cats"), ("after", "soon"), ("limit", "0")]).await.invalid(&["after", "limit"]);
    ask(&server, &[("q", "*"), ("has", "cats")]).await.invalid(&["q", "has"]);
    ask(&server, &[("q", "x"), ("conversation_id", "0")]).await.invalid(&["conversation_id"]);
    ask(&server, &[("q", "x"), ("cursor", "x")]).await.invalid(&["cursor"]);
    ask(&server, &[("q", "x"), ("conversation_id", "99")]).await.problem(404, "conversation_not_found");
    ask_as(&server, "rdibari", &[("q", "x"), ("conversation_id", "1")]).await.problem(404, "conversation_not_found");

    let first = target(&[
        ("q", "\"daily carrot\" http*"),
        ("from", "bugs"),
        ("has", "link"),
        ("after", "2026-11-02"),
        ("limit", "3"),
    ]);
    let pages = server.all(&first).await;
    let ids: Vec<i64> = pages.iter().map(|hit| hit["message"]["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), 19);
    assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{ids:?}");
    assert_eq!(server.get(&first).await.json().as_array().unwrap().len(), 3);
});

both!(edits_and_deletions_are_searched_immediately, async |place| {
    let server = Server::start(place).await;
    let sent = server.send("bugs", "duck", "a purple elephant").await;
    let message = format!("/api/conversations/{}/messages/{}", sent["conversation_id"], sent["seq"]);
    let found = async |q: &str| bodies(&ask_as(&server, "duck", &[("q", q)]).await).len();
    assert_eq!((found("purple").await, found("green").await), (1, 0));
    let edit = json!({"body": "a green elephant"});
    let edited = answer_of(server.request(Method::PATCH, &message).header("x-act-as", "bugs").json(&edit)).await;
    assert_eq!(edited.status, 200);
    assert_eq!((found("purple").await, found("green").await, found("elephant").await), (0, 1, 1));
    let deleted = answer_of(server.request(Method::DELETE, &message).header("x-act-as", "bugs")).await;
    assert_eq!(deleted.status, 204);
    assert_eq!((found("purple").await, found("green").await, found("elephant").await), (0, 0, 0));
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.search_entries").await, [[4]], "the entries of the demo");
});

both!(nobody_finds_messages_they_may_not_see, async |place| {
    let open = with_people(place, Options::default()).await;
    // User ids: 1 rdibari, 2 bugs, 3 duck, 4 porky.
    put_group(place, 100, "all", &[(1, 0), (2, 0), (3, 0)]).await;
    put_group(place, 101, "since_joined", &[(1, 0), (2, 2), (4, 3)]).await;
    for body in ["secret one", "secret two"] {
        say_in_group(&open, 100, "rdibari", body).await;
    }
    open.send("rdibari", "bugs", "secret three").await;
    for body in ["secret four", "secret five", "secret six"] {
        say_in_group(&open, 101, "rdibari", body).await;
    }
    open.send("porky", "porky", "secret seven").await;
    open.send("duck", "rdibari", "secret eight").await;

    let server = Server::start_with(place, Options { demo: false, ..secured() }).await;
    let mut seen = Vec::new();
    for person in ["rdibari", "bugs", "duck", "porky"] {
        let token = session(&open, person).await;
        let caller = Caller::new(&server, &token);
        let mut words = Vec::new();
        let mut page = Some(target(&[("q", "secret"), ("limit", "2")]));
        while let Some(next) = page {
            let answer = caller.get(&next).await;
            words.extend(bodies(&answer).iter().map(|body| body["secret ".len()..].to_owned()));
            page = answer.next();
        }
        seen.push(words.join(" "));
        for (group, members) in [("100", ["rdibari", "bugs", "duck"]), ("101", ["rdibari", "bugs", "porky"])] {
            let within = caller.get(&target(&[("q", "secret"), ("conversation_id", group)])).await;
            if members.contains(&person) {
                assert_eq!(within.status, 200);
            } else {
                within.problem(404, "conversation_not_found");
            }
        }
    }
    assert_eq!(seen, ["eight six five four three two one", "six three two one", "eight two one", "seven",]);
    let of_porky = session(&open, "porky").await;
    let within = Caller::new(&server, &of_porky).get(&target(&[("q", "secret"), ("conversation_id", "101")])).await;
    assert_eq!(bodies(&within), Vec::<String>::new());
    let key = server.api_key(&["read"]).await;
    assert_eq!(bodies(&Caller::new(&server, &key).get(&target(&[("q", "secret")])).await).len(), 8);
    say_in_group(&open, 101, "rdibari", "secret nine").await;
    assert_eq!(
        bodies(&Caller::new(&server, &of_porky).get(&target(&[("q", "secret")])).await),
        ["secret nine", "secret seven"]
    );

    // A removed member no longer finds messages of the group. Nobody finds messages of a deleted group.
    place.sql("DELETE FROM messaging.members WHERE conversation_id = 100 AND user_id = 2").await;
    place.sql("UPDATE messaging.conversations SET deleted_at = created_at WHERE id = 101").await;
    let of_bugs = session(&open, "bugs").await;
    assert_eq!(bodies(&Caller::new(&server, &of_bugs).get(&target(&[("q", "secret")])).await), ["secret three"]);
    assert_eq!(bodies(&Caller::new(&server, &key).get(&target(&[("q", "secret")])).await).len(), 5);
});

both!(only_present_members_find_messages_of_a_group, async |place| {
    let server = with_people(place, Options::default()).await;
    let as_person = async |person: &str, method: Method, target: &str, body: Value| {
        answer_of(server.request(method, target).header("x-act-as", person).json(&body)).await
    };
    let group = json!({"kind": "group", "title": "carrots", "member_user_names": ["bugs", "duck"]});
    let made = as_person("rdibari", Method::POST, "/api/conversations", group).await.json();
    let id = made["id"].as_i64().unwrap();
    say_in_group(&server, id, "bugs", "the first carrots").await;
    let found = async |person: &str| bodies(&ask_as(&server, person, &[("q", "carrots")]).await);
    assert_eq!(found("duck").await, ["the first carrots"], "no system messages are found");
    assert_eq!(found("porky").await, Vec::<String>::new());
    // A new member finds earlier messages, unless the group hides them.
    let target = format!("/api/conversations/{id}");
    let added = as_person("rdibari", Method::PUT, &format!("{target}/members/porky"), json!({})).await;
    assert_eq!(added.status, 201);
    assert_eq!(found("porky").await, ["the first carrots"]);
    let hidden = as_person("rdibari", Method::PATCH, &target, json!({"history": "since_joined"})).await;
    assert_eq!(hidden.status, 200);
    assert_eq!(found("porky").await, Vec::<String>::new());
    assert_eq!(found("duck").await, ["the first carrots"]);
    say_in_group(&server, id, "bugs", "more carrots").await;
    assert_eq!(found("porky").await, ["more carrots"]);
    assert_eq!(found("duck").await.len(), 2);
    // A removed member no longer finds messages of the group.
    let removed = as_person("rdibari", Method::DELETE, &format!("{target}/members/duck"), json!({})).await;
    assert_eq!(removed.status, 204);
    assert_eq!(found("duck").await, Vec::<String>::new());
    let ended = as_person("rdibari", Method::DELETE, &target, json!({})).await;
    assert_eq!(ended.status, 204);
    assert_eq!(found("bugs").await, Vec::<String>::new());
    assert_eq!(bodies(&ask(&server, &[("q", "carrots")]).await), Vec::<String>::new());
    // Deleting the messages of the group later also deletes their index entries.
    let removing = posthaste::domain::conversations::conversations::remove_ended(&server.app);
    removing.await.unwrap();
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.search_entries").await, [[0]]);
});

both!(a_user_in_more_groups_than_one_query_names_finds_everything, async |place| {
    let server = with_people(place, Options::default()).await;
    for group in 1_000..1_600 {
        put_group(place, group, "all", &[(2, 0)]).await;
    }
    for group in [1_000, 1_255, 1_256, 1_300, 1_599] {
        say_in_group(&server, group, "bugs", &format!("far {group}")).await;
        server.send("bugs", "duck", &format!("far away {group}")).await;
    }
    let all = bodies(&ask_as(&server, "bugs", &[("q", "far")]).await);
    assert_eq!(all.len(), 10);
    assert_eq!((&*all[0], &*all[9]), ("far away 1599", "far 1000"));
    assert_eq!(bodies(&ask_as(&server, "bugs", &[("q", "far"), ("limit", "3")]).await), all[..3]);
    assert_eq!(bodies(&ask_as(&server, "duck", &[("q", "far")]).await).len(), 5);
});

both!(old_messages_are_found_after_the_upgrade, async |place| {
    let server = Server::start(place).await;
    server.send("bugs", "duck", "from of old").await;
    server.stop().await;
    // Goes back to the schema before the version that created the index. Later versions are undone too, because versions are
    // applied in order.
    place.back_to(5).await;
    let server = Server::start(place).await;
    assert_eq!(bodies(&ask(&server, &[("q", "of old")]).await), ["from of old"]);
    assert_eq!(bodies(&ask(&server, &[("q", "samees")]).await), ["samees"]);
    server.send("bugs", "duck", "from of late").await;
    assert_eq!(bodies(&ask(&server, &[("q", "from of")]).await), ["from of late", "from of old"]);
});

both!(no_words_of_an_erased_users_messages_are_left, async |place| {
    let server = Server::start(place).await;
    let words = ["Grüßgöttle", "grußgottle", "葡萄酒庫", "xylophonist"];
    // Sends so many different words that inner pages of the index hold their prefixes.
    for number in 0..300 {
        let names: Vec<String> = (0..30).map(|index| format!("xylophonist{}", number * 30 + index)).collect();
        let body = format!("Grüßgöttle 葡萄酒庫{number} {}", names.join(" "));
        server.send("bugs", ["duck", "porky"][number % 2], &body).await;
        server.send("duck", "rdibari", &format!("something else zebra {number}")).await;
    }
    let kept = place.everything().await.into_bytes();
    for word in words {
        assert!(holds(&kept, word), "the search for remains does not find {word}");
    }
    for _ in 0..2 {
        let gone = answer_of(server.request(Method::DELETE, "/api/users/bugs?messages=delete")).await;
        assert!(gone.status == 204 || gone.status == 404);
    }
    let kept = place.everything().await.into_bytes();
    for word in ["Grüßgöttle", "grußgottle", "葡萄", "酒庫", "xylophon"] {
        assert!(!holds(&kept, word), "{word}");
    }
    assert_eq!(bodies(&ask(&server, &[("q", "something else"), ("limit", "200")]).await).len(), 200);
    assert_eq!(bodies(&ask(&server, &[("q", "xylo*")]).await).len(), 0);
    server.stop().await;
    assert!(!holds(&place.everything().await.into_bytes(), "xylophon"));
});

both!(a_message_can_be_found_as_soon_as_it_is_acknowledged, async |place| {
    let server = Server::start(place).await;
    let senders = (0..8).map(async |sender| {
        for number in 0..12 {
            let body = format!("storm s{sender} n{number}");
            server.send("bugs", ["duck", "porky", "rdibari"][sender % 3], &body).await;
            let q = format!("\"s{sender} n{number}\"");
            assert_eq!(bodies(&ask_as(&server, "bugs", &[("q", &q)]).await), [body]);
        }
    });
    futures_util::future::join_all(senders).await;
    assert_eq!(server.all(&target(&[("q", "storm"), ("limit", "7")])).await.len(), 96);
});

/// Only PostgreSQL keeps new index entries in a pending list.
#[test]
fn pending_entries_are_found_and_soon_sorted_into_the_index() {
    run(Kind::Postgres, async |place| {
        let options = Options { without_tasks: &["search-sorting"], ..Options::default() };
        let server = with_people(place, options).await;
        let sort_in = "SELECT gin_clean_pending_list('messaging.search_entries_terms')";
        server.send("bugs", "duck", "carrots wait").await;
        assert_eq!(bodies(&ask(&server, &[("q", "carrots")]).await), ["carrots wait"]);
        assert_ne!(place.numbers(sort_in).await, [[0]], "the entry was not pending");
        let sorting = tokio::spawn(keep_sorted(Arc::clone(&server.app)));
        // Reading the length of the pending list also empties it, so each attempt sends a new message. While users search, the
        // task empties the list sooner.
        for (searching, soon_ms) in [(false, 2_000), (true, 600)] {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                server.send("bugs", "duck", "more carrots").await;
                if searching {
                    assert_ne!(bodies(&ask(&server, &[("q", "more")]).await).len(), 0);
                }
                tokio::time::sleep(Duration::from_millis(soon_ms)).await;
                if place.numbers(sort_in).await == [[0]] {
                    break;
                }
                assert!(Instant::now() < deadline, "the pending list is not emptied");
            }
        }
        sorting.abort();
    });
}

/// Version 10 enabled the pending list.
#[test]
fn the_upgrade_enables_the_pending_list_of_an_old_index() {
    run(Kind::Postgres, async |place| {
        Server::start(place).await.stop().await;
        place.back_to(9).await;
        place.sql("ALTER INDEX messaging.search_entries_terms SET (fastupdate = off)").await;
        Server::start(place).await.stop().await;
        let on = "SELECT count(*) FROM pg_class WHERE relname = 'search_entries_terms' AND 'fastupdate=on' = ANY(reloptions)";
        assert_eq!(place.numbers(on).await, [[1]]);
    });
}

/// Version 14 changed all entries to smaller windows.
#[test]
fn the_upgrade_gives_old_entries_the_smaller_windows() {
    run(Kind::Postgres, async |place| {
        let server = Server::start(place).await;
        for number in 1..=30 {
            server.send("bugs", "duck", &format!("carrots {number}")).await;
        }
        let newest = bodies(&ask(&server, &[("q", "carrots"), ("limit", "7")]).await);
        assert_eq!(newest[0], "carrots 30");
        server.stop().await;
        let marked =
            "SELECT count(*) FROM messaging.search_entries WHERE terms @@ ('''u:' || (id >> 9) || '''')::tsquery";
        let all = place.numbers(marked).await;
        assert!(all[0][0] > 30, "{all:?}");
        place.sql("UPDATE messaging.search_entries SET terms = ts_delete(terms, 'u:' || (id >> 9))").await;
        assert_eq!(place.numbers(marked).await, [[0]]);
        place.back_to(13).await;
        let server = Server::start(place).await;
        assert_eq!(place.numbers(marked).await, all);
        assert_eq!(bodies(&ask(&server, &[("q", "carrots"), ("limit", "7")]).await), newest);
    });
}
