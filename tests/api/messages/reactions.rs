//! Reactions to messages.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::people::{assert_hidden, delete, get, group, path_of, put, say, seen};
use crate::support::server::Answer;
use crate::support::{Server, answer_of};

const MESSAGE: &str = "/api/conversations/1/messages/1";

fn target(message: &str, emoji: &str) -> String {
    format!("{message}/reactions/{}", utf8_percent_encode(emoji, NON_ALPHANUMERIC))
}

async fn react(server: &Server, person: &str, message: &str, emoji: &str) -> Answer {
    put(server, person, &target(message, emoji)).await
}

async fn take_back(server: &Server, person: &str, message: &str, emoji: &str) -> Answer {
    delete(server, person, &target(message, emoji)).await
}

async fn reactions(server: &Server, person: &str, message: &str) -> Value {
    seen(server, person, message).await["reactions"].clone()
}

both!(reactions_show_everywhere_with_the_readers_own_marked, async |place| {
    let server = Server::start(place).await;
    assert_eq!(reactions(&server, "bugs", MESSAGE).await, json!([]));
    let first = react(&server, "bugs", MESSAGE, "👍").await;
    assert_eq!((first.status.as_u16(), first.json()), (201, json!({"emoji": "👍", "count": 1, "me": true})));
    let again = react(&server, "bugs", MESSAGE, "👍").await;
    assert_eq!((again.status.as_u16(), again.json()), (200, first.json()));
    react(&server, "bugs", MESSAGE, "🎉").await;
    let second = react(&server, "rdibari", MESSAGE, "👍").await;
    assert_eq!((second.status.as_u16(), second.json()), (201, json!({"emoji": "👍", "count": 2, "me": true})));
    let shown = |thumb: bool, party: bool| json!([{"emoji": "👍", "count": 2, "me": thumb}, {"emoji": "🎉", "count": 1, "me": party}]);
    assert_eq!(reactions(&server, "bugs", MESSAGE).await, shown(true, true));
    assert_eq!(reactions(&server, "rdibari", MESSAGE).await, shown(true, false));
    // A caller that acts as no user has no reactions of their own.
    for page in ["/api/messages/bugs", "/api/conversations/1/messages"] {
        assert_eq!(server.get(page).await.json()[0]["reactions"], shown(false, false), "{page}");
    }
    // The answer to an edit and the last message of a conversation show reactions, too.
    let edit = server.request(Method::PATCH, MESSAGE).header("x-act-as", "rdibari").json(&json!({"body": "hey"}));
    assert_eq!(answer_of(edit).await.json()["reactions"], shown(true, false));
    react(&server, "bugs", "/api/conversations/1/messages/3", "👀").await;
    for (person, me) in [("bugs", true), ("rdibari", false)] {
        let last = get(&server, person, "/api/conversations/1").await.json()["last_message"].clone();
        assert_eq!(last["reactions"], json!([{"emoji": "👀", "count": 1, "me": me}]));
    }
    let named = get(&server, "rdibari", &format!("{MESSAGE}/reactions")).await.json();
    assert_eq!(
        named,
        json!([
            {"emoji": "👍", "count": 2, "me": true, "user_names": ["rdibari", "bugs"]},
            {"emoji": "🎉", "count": 1, "me": false, "user_names": ["bugs"]},
        ])
    );
    assert_eq!(take_back(&server, "bugs", MESSAGE, "👍").await.status, 204);
    take_back(&server, "bugs", MESSAGE, "👍").await.problem(404, "reaction_not_found");
    take_back(&server, "rdibari", MESSAGE, "🎉").await.problem(404, "reaction_not_found");
    assert_eq!(
        reactions(&server, "bugs", MESSAGE).await,
        json!([{"emoji": "👍", "count": 1, "me": false}, {"emoji": "🎉", "count": 1, "me": true}])
    );
    // An emoji that is removed and added again comes last.
    take_back(&server, "rdibari", MESSAGE, "👍").await;
    react(&server, "rdibari", MESSAGE, "👍").await;
    assert_eq!(
        reactions(&server, "rdibari", MESSAGE).await,
        json!([{"emoji": "🎉", "count": 1, "me": false}, {"emoji": "👍", "count": 1, "me": true}])
    );
    let events =
        "SELECT count(*) FROM messaging.events WHERE conversation_id = 1 AND seq = 1 AND detail = '👍' AND type =";
    assert_eq!(place.numbers(&format!("{events} 'reaction.added'")).await, [[3]]);
    assert_eq!(place.numbers(&format!("{events} 'reaction.removed'")).await, [[2]]);
});

both!(an_emoji_is_the_same_in_every_spelling, async |place| {
    let server = Server::start(place).await;
    let forms: &[(&str, &[&str])] = &[
        ("❤️", &["❤", "❤\u{FE0E}", ":heart:"]),
        ("👍", &[":+1:", ":thumbsup:", "👍\u{FE0F}"]),
        ("👍🏿", &["👍🏿"]),
        ("🇩🇪", &[":de:"]),
        ("🏴󠁧󠁢󠁥󠁮󠁧󠁿", &[":england:"]),
        ("👩🏿‍❤️‍👨🏼", &["👩🏿\u{200D}❤\u{200D}👨🏼"]),
        ("1️⃣", &["1\u{20E3}", ":one:"]),
        ("🏳️‍🌈", &["🏳\u{200D}🌈", ":rainbow_flag:"]),
    ];
    for (emoji, others) in forms {
        let first = react(&server, "bugs", MESSAGE, emoji).await;
        assert_eq!((first.status.as_u16(), &first.json()["emoji"]), (201, &json!(emoji)));
        for other in *others {
            let again = react(&server, "bugs", MESSAGE, other).await;
            assert_eq!((again.status.as_u16(), &again.json()["emoji"]), (200, &json!(emoji)), "{other}");
        }
    }
    assert_eq!(reactions(&server, "bugs", MESSAGE).await.as_array().unwrap().len(), forms.len());
    assert_eq!(take_back(&server, "bugs", MESSAGE, ":heart:").await.status, 204);
    for text in ["heart", ":no_such_emoji:", "a", "1", "#", "👍👍", "👍 ", " ", "🇩", ":", "\u{FE0F}", "<b>", "'; --"]
    {
        for method in [Method::PUT, Method::DELETE] {
            let request = server.request(method, &target(MESSAGE, text)).header("x-act-as", "bugs");
            let document = answer_of(request).await.invalid(&["emoji"]);
            assert_eq!(document["errors"][0]["code"], "unknown_emoji", "{text:?}");
        }
    }
    put(&server, "bugs", &format!("{MESSAGE}/reactions/%00")).await.problem(404, "not_found");
    let nobody = server.request(Method::PUT, &target(MESSAGE, "👍"));
    answer_of(nobody).await.problem(403, "act_as_required");
});

both!(a_message_has_at_most_twenty_different_emoji, async |place| {
    let server = Server::start(place).await;
    let emoji: Vec<String> = ('🍇'..='🍛').map(String::from).collect();
    assert_eq!(emoji.len(), 21);
    for one in &emoji[..20] {
        assert_eq!(react(&server, "bugs", MESSAGE, one).await.status, 201, "{one}");
    }
    react(&server, "rdibari", MESSAGE, &emoji[20]).await.problem(409, "too_many_reactions");
    // A reaction with an emoji that the message already has does not count as a further emoji.
    assert_eq!(react(&server, "rdibari", MESSAGE, &emoji[0]).await.status, 201);
    take_back(&server, "bugs", MESSAGE, &emoji[1]).await;
    assert_eq!(react(&server, "rdibari", MESSAGE, &emoji[20]).await.status, 201);
    let named = get(&server, "bugs", &format!("{MESSAGE}/reactions")).await.json();
    let order: Vec<&str> = named.as_array().unwrap().iter().map(|one| one["emoji"].as_str().unwrap()).collect();
    let wanted: Vec<&str> = std::iter::once(&emoji[0]).chain(&emoji[2..]).map(String::as_str).collect();
    assert_eq!(order, wanted);
});

both!(a_tombstone_has_no_reactions, async |place| {
    let server = Server::start(place).await;
    react(&server, "bugs", MESSAGE, "👍").await;
    assert_eq!(delete(&server, "rdibari", MESSAGE).await.status, 204);
    assert_eq!(reactions(&server, "bugs", MESSAGE).await, json!([]));
    assert_eq!(get(&server, "bugs", &format!("{MESSAGE}/reactions")).await.json(), json!([]));
    react(&server, "bugs", MESSAGE, "👍").await.problem(409, "message_deleted");
    take_back(&server, "bugs", MESSAGE, "👍").await.problem(404, "reaction_not_found");
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.reactions").await, [[0]]);
});

both!(users_who_may_not_see_a_message_cannot_react_to_it, async |place| {
    let server = Server::start(place).await;
    react(&server, "bugs", MESSAGE, "👍").await;
    let nowhere = "/api/conversations/99/messages/1";
    for (method, path) in [
        (Method::PUT, "/reactions/%F0%9F%91%8D"),
        (Method::DELETE, "/reactions/%F0%9F%91%8D"),
        (Method::GET, "/reactions"),
    ] {
        let (there, nowhere) = (format!("{MESSAGE}{path}"), format!("{nowhere}{path}"));
        assert_hidden(&server, "duck", method, &there, &nowhere, None, "message_not_found").await;
    }
    // A user who joined later, or was removed, cannot react either.
    let id = group(&server, "bugs", &["rdibari"], "since_joined").await;
    let before = path_of(&say(&server, "bugs", id, "before", None).await);
    put_member(&server, "bugs", id, "duck").await;
    let after = path_of(&say(&server, "bugs", id, "after", None).await);
    react(&server, "duck", &before, "👍").await.problem(404, "message_not_found");
    assert_eq!(react(&server, "duck", &after, "👍").await.status, 201);
    // System messages accept reactions.
    assert_eq!(react(&server, "rdibari", &format!("/api/conversations/{id}/messages/1"), "👋").await.status, 201);
    assert_eq!(delete(&server, "bugs", &format!("/api/conversations/{id}/members/duck")).await.status, 204);
    react(&server, "duck", &after, "🎉").await.problem(404, "message_not_found");
    assert_eq!(reactions(&server, "rdibari", &after).await, json!([{"emoji": "👍", "count": 1, "me": false}]));
});

async fn put_member(server: &Server, owner: &str, group: i64, member: &str) {
    let target = format!("/api/conversations/{group}/members/{member}");
    let request = server.request(Method::PUT, &target).header("x-act-as", owner).json(&json!({}));
    assert_eq!(answer_of(request).await.status, 201);
}

both!(reactions_together_are_all_counted, async |place| {
    let server = Server::start(place).await;
    let people: Vec<String> = (0..60).map(|number| format!("fan{number}")).collect();
    for person in &people {
        server.add_user(person, "A", "Fan").await;
    }
    let members: Vec<&str> = people.iter().map(String::as_str).collect();
    let id = group(&server, "bugs", &members, "all").await;
    let message = path_of(&say(&server, "bugs", id, "what's up, doc?", None).await);
    let answers =
        futures_util::future::join_all(people.iter().map(|person| react(&server, person, &message, "🥕"))).await;
    assert!(answers.iter().all(|answer| answer.status == 201));
    let mut counts: Vec<i64> = answers.iter().map(|answer| answer.json()["count"].as_i64().unwrap()).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=60).collect::<Vec<i64>>());
    let named = get(&server, "fan59", &format!("{message}/reactions")).await.json();
    assert_eq!((&named[0]["count"], &named[0]["me"]), (&json!(60), &json!(true)));
    // An answer names only the first fifty users of a reaction.
    assert_eq!(named[0]["user_names"], json!(people[..50]));
    let removals =
        futures_util::future::join_all(people.iter().map(|person| take_back(&server, person, &message, "🥕"))).await;
    assert!(removals.iter().all(|answer| answer.status == 204));
    assert_eq!(reactions(&server, "bugs", &message).await, json!([]));
});

both!(an_erasure_removes_the_users_reactions, async |place| {
    let server = Server::start(place).await;
    let id = group(&server, "duck", &["bugs", "porky"], "all").await;
    let message = path_of(&say(&server, "duck", id, "rabbit season", None).await);
    for person in ["bugs", "porky"] {
        react(&server, person, &message, "👍").await;
    }
    for emoji in ["🥕", "🎉"] {
        react(&server, "bugs", &message, emoji).await;
    }
    react(&server, "bugs", MESSAGE, "👍").await;
    // The erasure also removes reactions in conversations that the user has left.
    assert_eq!(delete(&server, "bugs", &format!("/api/conversations/{id}/members/me")).await.status, 204);
    seen(&server, "porky", &message).await;
    let exported = get(&server, "bugs", "/api/users/me/export").await;
    let exported = String::from_utf8(exported.bytes).unwrap();
    let mine: Vec<Value> = exported
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["type"] == "reaction")
        .map(|line| json!([line["data"]["conversation_id"], line["data"]["emoji"], line["data"]["at"].is_string()]))
        .collect();
    assert_eq!(
        mine,
        [json!([1, "👍", true]), json!([id, "🎉", true]), json!([id, "👍", true]), json!([id, "🥕", true])]
    );
    assert_eq!(answer_of(server.request(Method::DELETE, "/api/users/bugs")).await.status, 204);
    assert_eq!(reactions(&server, "porky", &message).await, json!([{"emoji": "👍", "count": 1, "me": true}]));
    assert_eq!(reactions(&server, "rdibari", MESSAGE).await, json!([]));
    assert_eq!(place.numbers("SELECT user_id FROM messaging.reactions").await, [[4]]);
    let removed = "SELECT count(*) FROM messaging.events WHERE type = 'reaction.removed' AND actor_id = 2";
    assert_eq!(place.numbers(removed).await, [[4]]);
});
