//! The list of emoji, custom emoji, and reactions with custom emoji.

use image::ImageFormat;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::files::{encoded, noise, picture, png, stored, wait_for_stored};
use crate::support::people::{delete, get, patch, put};
use crate::support::server::{Answer, Options};
use crate::support::{Server, answer_of};

const MESSAGE: &str = "/api/conversations/1/messages/1";

/// Adds a custom emoji as a user or, without one, as the administrator that open access is.
async fn add(server: &Server, person: Option<&str>, name: &str, bytes: &[u8]) -> Answer {
    let request = server.request(Method::PUT, &format!("/api/emoji/{name}"));
    let request = person.into_iter().fold(request, |request, person| request.header("x-act-as", person));
    answer_of(request.body(bytes.to_vec())).await
}

async fn added(server: &Server, name: &str, bytes: &[u8]) -> Value {
    let answer = add(server, None, name, bytes).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()
}

async fn rename(server: &Server, name: &str, new: &str) -> Answer {
    let request = server.request(Method::PATCH, &format!("/api/emoji/{name}"));
    answer_of(request.json(&json!({"name": new}))).await
}

async fn remove(server: &Server, name: &str) -> Answer {
    answer_of(server.request(Method::DELETE, &format!("/api/emoji/{name}"))).await
}

async fn make_admin(server: &Server, person: &str) {
    let target = format!("/api/admin/users/{person}/role");
    let answer = answer_of(server.request(Method::PUT, &target).json(&json!({"role": "admin"}))).await;
    assert_eq!(answer.status, 204);
}

fn reaction(message: &str, emoji: &str) -> String {
    format!("{message}/reactions/{}", utf8_percent_encode(emoji, NON_ALPHANUMERIC))
}

async fn react(server: &Server, person: &str, emoji: &str) -> Answer {
    put(server, person, &reaction(MESSAGE, emoji)).await
}

/// The emoji of a search, in order: characters, and names of custom emoji between colons.
async fn search(server: &Server, person: Option<&str>, q: &str) -> Vec<String> {
    let target = format!("/api/emoji?limit=200&q={}", utf8_percent_encode(q, NON_ALPHANUMERIC));
    let answer = match person {
        Some(person) => get(server, person, &target).await,
        None => server.get(&target).await,
    };
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    let shown = |emoji: &Value| match emoji["character"].as_str() {
        Some(character) => character.to_owned(),
        None => format!(":{}:", emoji["name"].as_str().unwrap()),
    };
    answer.json().as_array().unwrap().iter().map(shown).collect()
}

both!(the_whole_set_is_listed_in_pages, async |place| {
    let server = Server::start(place).await;
    let custom = added(&server, "party_parrot", &png(20, 20)).await;
    let mut all = Vec::new();
    let mut next = Some("/api/emoji?limit=200".to_owned());
    while let Some(target) = next {
        let page = get(&server, "bugs", &target).await;
        assert_eq!(page.status, 200);
        all.extend(page.json().as_array().unwrap().clone());
        next = page.next();
    }
    assert!(all.len() > 1_800);
    let mut names: Vec<&str> = all.iter().map(|emoji| emoji["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len());
    assert_eq!(all.last().unwrap(), &custom);
    let tada = all.iter().find(|emoji| emoji["name"] == "tada").unwrap();
    assert_eq!((&tada["id"], &tada["group"], &tada["character"]), (&Value::Null, &json!("activities"), &json!("🎉")));
    assert!(tada.get("url").is_none());
    assert!(tada["keywords"].as_array().unwrap().contains(&json!("celebrate")), "{tada}");
    for (query, field) in [("limit=0", "limit"), ("limit=201", "limit"), ("cursor=x", "cursor"), ("x=1", "x")] {
        server.get(&format!("/api/emoji?{query}")).await.invalid(&[field]);
    }
    server.get(&format!("/api/emoji?q={}", "a".repeat(65))).await.invalid(&["q"]);
    server.get("/api/emoji?q=%00").await.invalid(&["q"]);
});

both!(a_search_matches_shortcodes_and_keywords, async |place| {
    let server = Server::start(place).await;
    added(&server, "Heart-Beat", &png(20, 20)).await;
    let found = search(&server, Some("bugs"), "HEART").await;
    let at =
        |emoji: &str| found.iter().position(|found| found == emoji).unwrap_or_else(|| panic!("{emoji}: {found:?}"));
    assert_eq!(at("❤️"), 0);
    // Prefixes of shortcodes, those of custom emoji included, come before keywords.
    assert!(at("😍") < at(":Heart-Beat:") && at(":Heart-Beat:") < at("💔"));
    assert_eq!(search(&server, None, ":tada:").await[0], "🎉");
    assert!(search(&server, None, "celebr").await.contains(&"🎉".to_owned()));
    assert_eq!(search(&server, None, "beat").await.last().unwrap(), ":Heart-Beat:");
    assert!(search(&server, None, "no such emoji").await.is_empty());
    // A search with several pages.
    let first = get(&server, "bugs", "/api/emoji?q=heart&limit=2").await;
    let second = get(&server, "bugs", &first.next().unwrap()).await;
    let names =
        |answer: &Answer| answer.json().as_array().unwrap().iter().map(|one| one["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&first)[0], "heart");
    assert!(names(&second).iter().all(|name| !names(&first).contains(name)));
});

both!(the_emoji_that_the_caller_uses_most_come_first, async |place| {
    let server = Server::start(place).await;
    added(&server, "heartless", &png(20, 20)).await;
    for (message, emoji) in [(1, "💔"), (2, "💔"), (3, "👍🏽"), (1, ":heartless:")] {
        let target = reaction(&format!("/api/conversations/1/messages/{message}"), emoji);
        assert_eq!(put(&server, "bugs", &target).await.status, 201, "{emoji}");
    }
    assert_eq!(search(&server, Some("bugs"), "heart").await[..3], ["💔", ":heartless:", "❤️"]);
    assert_eq!(search(&server, Some("rdibari"), "heart").await[0], "❤️");
    assert_eq!(search(&server, Some("bugs"), "").await[..3], ["💔", "👍", ":heartless:"]);
    // A reaction that is taken back no longer counts.
    for message in [1, 2] {
        let target = reaction(&format!("/api/conversations/1/messages/{message}"), "💔");
        assert_eq!(delete(&server, "bugs", &target).await.status, 204);
    }
    assert_eq!(search(&server, Some("bugs"), "heart").await[..2], [":heartless:", "❤️"]);
});

both!(a_custom_emoji_is_added_served_renamed_and_deleted, async |place| {
    let server = Server::start(place).await;
    let answer = add(&server, None, "Party_Parrot", &png(64, 32)).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    let emoji = answer.json();
    let url = emoji["url"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), Some(url.as_str()));
    assert_eq!(url, format!("/api/emoji/custom/{}", emoji["id"]));
    let expected = json!({
        "id": emoji["id"], "name": "Party_Parrot", "group": "custom", "url": url, "keywords": ["party", "parrot"],
    });
    assert_eq!(emoji, expected);
    let file = get(&server, "duck", &url).await;
    assert_eq!((file.status.as_u16(), file.header("content-type")), (200, Some("image/png")));
    assert_eq!(file.header("cache-control"), Some("private, max-age=31536000, immutable"));
    assert_eq!(image::load_from_memory(&file.bytes).unwrap().to_rgb8(), picture(64, 32).to_rgb8());
    let known = server.request(Method::GET, &url).header("if-none-match", file.header("etag").unwrap());
    assert_eq!(answer_of(known).await.status, 304);
    for other in ["/api/emoji/custom/9999", "/api/emoji/custom/0", "/api/emoji/custom/x"] {
        server.get(other).await.problem(404, "emoji_not_found");
    }
    // A repeated request changes nothing. The picture of an emoji cannot be replaced.
    let again = add(&server, None, "Party_Parrot", &png(64, 32)).await;
    assert_eq!((again.status.as_u16(), again.json()), (200, emoji.clone()));
    for name in ["Party_Parrot", "party_parrot"] {
        add(&server, None, name, &png(10, 10)).await.problem(409, "emoji_name_taken");
    }
    let other = added(&server, "other", &encoded(&picture(9, 9), ImageFormat::Gif)).await;
    rename(&server, "other", "PARTY_parrot").await.problem(409, "emoji_name_taken");
    rename(&server, "other", "tada").await.problem(409, "emoji_name_taken");
    rename(&server, "other", "a b").await.invalid(&["name"]);
    rename(&server, "nowhere", "elsewhere").await.problem(404, "emoji_not_found");
    let renamed = rename(&server, "OTHER", "Another").await;
    assert_eq!((renamed.status.as_u16(), &renamed.json()["id"]), (200, &other["id"]));
    assert_eq!(renamed.json()["name"], "Another");
    assert_eq!(rename(&server, "another", "ANOTHER").await.json()["name"], "ANOTHER");
    assert_eq!(remove(&server, "another").await.status, 204);
    remove(&server, "another").await.problem(404, "emoji_not_found");
    assert!(search(&server, None, "another").await.is_empty());
    // No reaction refers to it, so nothing of it stays.
    server.get(other["url"].as_str().unwrap()).await.problem(404, "emoji_not_found");
    wait_for_stored(place, 1).await;
    assert_ne!(added(&server, "another", &png(5, 5)).await["id"], other["id"]);
});

both!(names_and_pictures_have_limits, async |place| {
    let server = Server::start(place).await;
    let good = png(16, 16);
    for name in ["a%20b", "%C3%A9", "+x", "a.b", &"a".repeat(65)] {
        let document = add(&server, None, name, &good).await.invalid(&["name"]);
        assert_eq!(document["errors"][0]["code"], "invalid_emoji_name");
    }
    for name in ["tada", "TADA", "-1"] {
        add(&server, None, name, &good).await.problem(409, "emoji_name_taken");
    }
    added(&server, &"a".repeat(64), &good).await;
    added(&server, "webp", &encoded(&picture(1_024, 1_024), ImageFormat::WebP)).await;
    let wide = encoded(&image::DynamicImage::new_rgb8(1_025, 3), ImageFormat::Png);
    add(&server, None, "wide", &wide).await.problem(422, "image_too_large");
    let jpeg = encoded(&picture(16, 16), ImageFormat::Jpeg);
    for other in [jpeg, noise(100), b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec()] {
        add(&server, None, "wrong", &other).await.problem(422, "unsupported_image_type");
    }
    add(&server, None, "damaged", &good[..40]).await.problem(422, "damaged_file");
    add(&server, None, "empty", b"").await.invalid(&["file"]);
    add(&server, None, "large", &noise(256 * 1_024 + 1)).await.problem(413, "file_too_large");
    let zipped = server.request(Method::PUT, "/api/emoji/zipped").header("content-encoding", "gzip").body(good);
    answer_of(zipped).await.problem(415, "unsupported_media_type");
    // Refused pictures leave nothing behind.
    assert_eq!(stored(place).len(), 2, "{:?}", stored(place));
    let names: Vec<String> = (0..998).map(|number| format!("('n{number}')")).collect();
    let insert = format!(
        "WITH n (name) AS (VALUES {})
         INSERT INTO messaging.custom_emoji (name, name_key, blob_id, content_type, created_at)
         SELECT n.name, n.name, e.blob_id, e.content_type, e.created_at
           FROM messaging.custom_emoji e CROSS JOIN n WHERE e.name = 'webp'",
        names.join(", ")
    );
    place.sql(&insert).await;
    add(&server, None, "one_more", &png(16, 16)).await.problem(409, "too_many_emoji");
    assert_eq!(remove(&server, "webp").await.status, 204);
    added(&server, "one_more", &png(16, 16)).await;
});

both!(administrators_add_emoji_and_members_if_the_operator_says_so, async |place| {
    let server = Server::start(place).await;
    add(&server, Some("bugs"), "mine", &png(8, 8)).await.problem(403, "admin_required");
    make_admin(&server, "bugs").await;
    assert_eq!(add(&server, Some("bugs"), "mine", &png(8, 8)).await.status, 201);
    let change = json!({"name": "yours"});
    patch(&server, "duck", "/api/emoji/mine", change.clone()).await.problem(403, "admin_required");
    delete(&server, "duck", "/api/emoji/nowhere").await.problem(403, "admin_required");
    server.stop().await;
    let server = Server::start_with(place, Options { members_add_emoji: true, ..Options::default() }).await;
    assert_eq!(add(&server, Some("duck"), "quack", &png(8, 8)).await.status, 201);
    patch(&server, "duck", "/api/emoji/mine", change.clone()).await.problem(403, "not_your_emoji");
    delete(&server, "duck", "/api/emoji/mine").await.problem(403, "not_your_emoji");
    delete(&server, "duck", "/api/emoji/nowhere").await.problem(404, "emoji_not_found");
    assert_eq!(patch(&server, "duck", "/api/emoji/quack", change).await.status, 200);
    delete(&server, "rdibari", "/api/emoji/yours").await.problem(403, "not_your_emoji");
    assert_eq!(delete(&server, "duck", "/api/emoji/yours").await.status, 204);
    let export = String::from_utf8(get(&server, "bugs", "/api/users/bugs/export").await.bytes).unwrap();
    assert!(export.lines().any(|line| line.starts_with(r#"{"type":"custom_emoji","data":{"id":1,"name":"mine""#)));
    assert_eq!(delete(&server, "bugs", "/api/emoji/mine").await.status, 204);
});

both!(reactions_show_the_present_name_of_a_custom_emoji_everywhere, async |place| {
    let server = Server::start(place).await;
    let emoji = added(&server, "squawk", &png(20, 20)).await;
    let cursor = server.get("/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    let shown = |name: &str, count: i64, me: bool| {
        let (id, url) = (&emoji["id"], &emoji["url"]);
        json!({"emoji": format!(":{name}:"), "custom_emoji_id": id, "url": url, "count": count, "me": me})
    };
    let answer = react(&server, "bugs", ":Squawk:").await;
    assert_eq!((answer.status.as_u16(), answer.json()), (201, shown("squawk", 1, true)));
    let by_id = react(&server, "bugs", &format!("custom:{}", emoji["id"])).await;
    assert_eq!((by_id.status.as_u16(), by_id.json()), (200, shown("squawk", 1, true)));
    let check = async |name: &str| {
        for (person, me) in [("bugs", true), ("rdibari", false)] {
            let expected = json!([shown(name, 1, me)]);
            assert_eq!(get(&server, person, MESSAGE).await.json()["reactions"], expected);
            let page = "/api/conversations/1/messages?after=0&limit=1";
            assert_eq!(get(&server, person, page).await.json()[0]["reactions"], expected);
            let timeline = format!("/api/messages/{person}?order=asc&limit=1&days=3650");
            assert_eq!(get(&server, person, &timeline).await.json()[0]["reactions"], expected);
            let mut named = shown(name, 1, me);
            named["user_names"] = json!(["bugs"]);
            assert_eq!(get(&server, person, &format!("{MESSAGE}/reactions")).await.json(), json!([named]));
        }
        // A caller that acts as no user reads from the same cache.
        let all = server.get("/api/conversations/1/messages").await.json();
        let first = all.as_array().unwrap().iter().find(|message| message["seq"] == 1).unwrap().clone();
        assert_eq!(first["reactions"], json!([shown(name, 1, false)]));
        let events = get(&server, "rdibari", &format!("/api/events?after={cursor}")).await.json();
        let event =
            events["events"].as_array().unwrap().iter().find(|event| event["type"] == "reaction.added").unwrap();
        let data = json!({
            "seq": 1, "emoji": format!(":{name}:"), "custom_emoji_id": emoji["id"], "url": emoji["url"],
            "user_name": "bugs", "count": 1,
        });
        assert_eq!(event["data"], data);
        let export = get(&server, "bugs", "/api/users/bugs/export").await;
        let export = String::from_utf8(export.bytes).unwrap();
        let lines: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let line = lines.iter().find(|line| line["type"] == "reaction").unwrap();
        assert_eq!(line["data"]["emoji"], format!(":{name}:"));
    };
    check("squawk").await;
    assert_eq!(rename(&server, "squawk", "Polly").await.status, 200);
    check("Polly").await;
    react(&server, "duck", ":squawk:").await.invalid(&["emoji"]);
    // A deleted emoji keeps its picture and its last name where it was used.
    assert_eq!(remove(&server, "polly").await.status, 204);
    check("Polly").await;
    assert_eq!(server.get(emoji["url"].as_str().unwrap()).await.status, 200);
    for text in [":Polly:".to_owned(), format!("custom:{}", emoji["id"]), "custom:9999".to_owned()] {
        let document = react(&server, "rdibari", &text).await.invalid(&["emoji"]);
        assert_eq!(document["errors"][0]["code"], "unknown_emoji");
    }
    assert!(search(&server, Some("bugs"), "polly").await.is_empty());
    // Another emoji may get the name. The old one is then named by its id only.
    let other = added(&server, "polly", &png(21, 21)).await;
    assert_ne!(other["id"], emoji["id"]);
    delete(&server, "bugs", &reaction(MESSAGE, ":polly:")).await.problem(404, "reaction_not_found");
    assert_eq!(remove(&server, "polly").await.status, 204);
    assert_eq!(delete(&server, "bugs", &reaction(MESSAGE, ":polly:")).await.status, 204);
    assert_eq!(get(&server, "bugs", MESSAGE).await.json()["reactions"], json!([]));
    // After its last reaction, nothing of it stays.
    posthaste::domain::files::sweep::delete_unused_emoji(&server.app).await.unwrap();
    assert_eq!(server.get(emoji["url"].as_str().unwrap()).await.status, 404);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.custom_emoji").await, [[0]]);
});

both!(a_reaction_and_a_deletion_at_the_same_time_leave_no_reaction_without_an_emoji, async |place| {
    let server = Server::start(place).await;
    for round in 0..10 {
        let name = format!("quick{round}");
        let emoji = added(&server, &name, &png(10 + round, 10)).await;
        let text = format!(":{name}:");
        let (reacted, removed) = tokio::join!(react(&server, "bugs", &text), remove(&server, &name));
        assert_eq!(removed.status, 204);
        let status = server.get(emoji["url"].as_str().unwrap()).await.status;
        let reactions = get(&server, "bugs", MESSAGE).await.json()["reactions"].clone();
        let is_shown = reactions.as_array().unwrap().iter().any(|shown| shown["custom_emoji_id"] == emoji["id"]);
        match reacted.status.as_u16() {
            201 => assert!(is_shown && status == 200),
            422 => assert!(!is_shown && status == 404),
            other => panic!("{other}"),
        }
    }
});
