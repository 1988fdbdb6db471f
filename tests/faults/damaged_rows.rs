//! Damaged rows: the server never returns a message that does not match its digest, and everything else still works.

use serde_json::{Value, json};

use crate::both;
use crate::operations::operations::{posthaste, text};
use crate::previews;
use crate::support::people::{call, delete, get, group, patch, post, post_once, put, say};
use crate::support::server::Answer;
use crate::support::{Place, Server};

const MESSAGES_WITHOUT_DIGEST: &str =
    "SELECT (SELECT count(*) FROM messaging.messages WHERE digest IS NULL) + (SELECT count(*) FROM messaging.message_edits
      WHERE digest IS NULL)";

/// Changes a row directly in the database, and makes the server drop its rendered copy of the message.
async fn damage(place: &Place, set: &str, conversation: i64, seq: i64) {
    place
        .sql(&format!(
            "UPDATE messaging.messages SET {set} WHERE conversation_id = {conversation} AND seq = {seq};
             UPDATE messaging.conversations SET content_version = content_version + 1 WHERE id = {conversation}"
        ))
        .await;
}

async fn edit(server: &Server, person: &str, conversation: i64, seq: &Value, body: &str) -> Answer {
    patch(server, person, &format!("/api/conversations/{conversation}/messages/{seq}"), json!({"body": body})).await
}

async fn damaged_reads(server: &Server) -> u64 {
    let metrics = String::from_utf8(server.get("/metrics").await.bytes).unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix("posthaste_store_damaged_messages_total "));
    line.unwrap().parse().unwrap()
}

fn doctor_deep(place: &Place) -> (bool, String) {
    let looked = posthaste(place, &["doctor", "--deep"]);
    (looked.status.success(), text(&looked))
}

both!(a_changed_text_is_never_served, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &["duck"], "all").await;
    let first = say(&server, "bugs", room, "the carrot is a lie", None).await["seq"].as_i64().unwrap();
    let reply = say(&server, "duck", room, "it is a duck's reply", Some(first)).await["seq"].as_i64().unwrap();
    for seq in [first, reply] {
        assert_eq!(put(&server, "bugs", &format!("/api/conversations/{room}/messages/{seq}/pin")).await.status, 204);
    }
    let places = [
        format!("/api/conversations/{room}/messages/{reply}"),
        format!("/api/conversations/{room}/messages"),
        format!("/api/conversations/{room}/messages/{first}/replies"),
        format!("/api/conversations/{room}/pins"),
        "/api/search/messages?q=reply".to_owned(),
    ];
    for target in &places {
        assert_eq!(get(&server, "bugs", target).await.status, 200, "{target}");
    }
    let direct = server.send("bugs", "duck", "only once").await["conversation_id"].as_i64().unwrap();
    let timeline = "/api/messages/bugs";
    assert_eq!(server.get(timeline).await.status, 200);

    damage(place, "body = 'it is a duck''s reply!'", room, reply).await;
    damage(place, "body = 'only twice'", direct, 1).await;
    let before = damaged_reads(&server).await;
    for target in places.iter().map(String::as_str).chain([timeline]) {
        let problem = get(&server, "bugs", target).await.problem(500, "damaged");
        assert!(problem["detail"].as_str().unwrap().contains("posthaste doctor --deep"), "{problem}");
    }
    assert_eq!(damaged_reads(&server).await, before + places.len() as u64 + 1);
    // An export that meets the damaged message ends early, without its last line.
    let mut export = server.request(reqwest::Method::GET, "/api/users/duck/export").send().await.unwrap();
    let mut exported = Vec::new();
    let cut = loop {
        match export.chunk().await {
            Ok(Some(chunk)) => exported.extend(chunk),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    let exported = String::from_utf8(exported).unwrap();
    assert!(cut && !exported.contains("reply!") && !exported.contains("twice"), "{exported}");
    // Its neighbours can still be read.
    assert_eq!(
        get(&server, "bugs", &format!("/api/conversations/{room}/messages/{first}")).await.json()["body"],
        "the carrot is a lie"
    );
    // A damaged message cannot be forwarded, and an edit does not store its damaged text as an earlier version.
    post(
        &server,
        "bugs",
        &format!("/api/conversations/{room}/messages/{reply}/forward"),
        json!({"conversation_id": room}),
    )
    .await
    .problem(500, "damaged");
    edit(&server, "duck", room, &json!(reply), "changed").await.problem(500, "damaged");

    damage(place, "body = 'it is a duck''s reply'", room, reply).await;
    damage(place, "body = 'only once'", direct, 1).await;
    for target in places.iter().map(String::as_str).chain([timeline]) {
        assert_eq!(get(&server, "bugs", target).await.status, 200, "{target}");
    }
});

both!(the_doctor_compares_texts_with_deep, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &["duck"], "all").await;
    let seq = say(&server, "bugs", room, "first", None).await["seq"].clone();
    for body in ["second", "third"] {
        assert_eq!(edit(&server, "bugs", room, &seq, body).await.status, 200);
    }
    let (well, said) = doctor_deep(place);
    assert!(well && said.contains("6 messages and 2 earlier texts match"), "{said}");
    assert!(!said.contains("note  0") && !said.contains("no digest"), "{said}");
    damage(place, "body = 'fourth'", room, seq.as_i64().unwrap()).await;
    let usual = posthaste(place, &["doctor"]);
    assert!(usual.status.success(), "{}", text(&usual));
    assert!(text(&usual).contains("message texts not compared (use --deep)"), "{}", text(&usual));
    let (well, said) = doctor_deep(place);
    assert!(!well && said.contains("1 messages or earlier texts are damaged"), "{said}");
    assert!(said.contains(&format!("message {seq} of conversation {room} is damaged")), "{said}");
    assert!(!said.contains("fourth") && !said.contains("third"), "{said}");
    damage(place, "body = 'third'", room, seq.as_i64().unwrap()).await;
    assert!(doctor_deep(place).0);

    let history = format!("/api/conversations/{room}/messages/{seq}/history");
    assert_eq!(get(&server, "bugs", &history).await.json()[0]["body"], "first");
    place.sql("UPDATE messaging.message_edits SET body = 'zeroth' WHERE edition = 1").await;
    get(&server, "bugs", &history).await.problem(500, "damaged");
    let (well, said) = doctor_deep(place);
    assert!(!well && said.contains("its earlier body 1 does not match"), "{said}");
    place.sql("UPDATE messaging.message_edits SET body = 'first' WHERE edition = 1").await;
    // `doctor` finds a missing message, and a message whose conversation does not exist.
    place.sql(&format!("DELETE FROM messaging.messages WHERE conversation_id = {room} AND seq = 1")).await;
    let (well, said) = doctor_deep(place);
    assert!(!well && said.contains("1 conversations lack messages"), "{said}");
    place.sql(&format!("DELETE FROM messaging.conversations WHERE id = {room}")).await;
    let (well, said) = doctor_deep(place);
    assert!(!well && said.contains("1 messages are in no conversation"), "{said}");
});

both!(a_change_of_each_covered_column_is_found, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &["duck"], "all").await;
    let second = say(&server, "bugs", room, "a text", Some(1)).await["seq"].as_i64().unwrap();
    let read = async |seq: i64| get(&server, "bugs", &format!("/api/conversations/{room}/messages/{seq}")).await;
    let later =
        "timestamp_sent = (SELECT timestamp_sent FROM messaging.messages WHERE conversation_id = 1 AND seq = 1)";
    let columns = [
        ("id = id + 1000", "id = id - 1000", second),
        ("sender_id = sender_id + 1", "sender_id = sender_id - 1", second),
        ("recipient_id = 1", "recipient_id = NULL", second),
        ("kind = 'system'", "kind = 'text'", second),
        ("reply_to = NULL", "reply_to = 1", second),
        ("reply_to = 2", "reply_to = 1", second),
        ("body = 'a texts'", "body = 'a text'", second),
        ("body = ''", "body = 'a text'", second),
        ("deleted_at = created_at", "deleted_at = NULL", second),
        ("edited_at = created_at", "edited_at = NULL", second),
        ("action = 'member_left'", "action = 'group_created'", 1),
        ("action = NULL", "action = 'group_created'", 1),
        ("subject_id = 1", "subject_id = NULL", 1),
        ("link_preview = 'declined'", "link_preview = NULL", second),
    ];
    for (wrong, right, seq) in columns {
        damage(place, wrong, room, seq).await;
        read(seq).await.problem(500, "damaged");
        damage(place, right, room, seq).await;
        assert_eq!(read(seq).await.status, 200, "{right}");
    }
    // Changes of times come last, because they are not undone; all other changes are undone exactly.
    for times in
        [later, "created_at = timestamp_sent, timestamp_sent = (SELECT min(timestamp_sent) FROM messaging.messages)"]
    {
        damage(place, times, room, second).await;
        read(second).await.problem(500, "damaged");
    }
});

both!(every_kind_of_write_leaves_a_matching_digest, async |place| {
    let server = previews::start(place).await;
    let room = group(&server, "bugs", &["duck", "porky"], "all").await;
    let plain = say(&server, "bugs", room, "plain, with @duck", None).await["seq"].clone();
    say(&server, "duck", room, "a reply 👍 \u{0}".trim_end_matches('\0'), Some(1)).await;
    let keyed = json!({"conversation_id": room, "body": "with a key"});
    assert_eq!(post_once(&server, "porky", "/api/messages", "key", keyed).await.status, 201);
    for body in ["edited", "edited again"] {
        assert_eq!(edit(&server, "bugs", room, &plain, body).await.status, 200);
    }
    let gone = say(&server, "duck", room, "soon gone", Some(1)).await["seq"].clone();
    assert_eq!(delete(&server, "duck", &format!("/api/conversations/{room}/messages/{gone}")).await.status, 204);
    let forward = format!("/api/conversations/{room}/messages/{plain}/forward");
    assert_eq!(post(&server, "duck", &forward, json!({"conversation_id": room})).await.status, 201);
    let title = json!({"title": "Another title"});
    assert_eq!(patch(&server, "bugs", &format!("/api/conversations/{room}"), title).await.status, 200);
    let member = format!("/api/conversations/{room}/members/porky");
    assert_eq!(call(&server, "bugs", reqwest::Method::PUT, &member, Some(json!({"role": "admin"}))).await.status, 200);
    assert_eq!(delete(&server, "bugs", &member).await.status, 204);
    let message = format!("/api/conversations/{room}/messages/{plain}");
    assert_eq!(put(&server, "bugs", &format!("{message}/pin")).await.status, 204);
    assert_eq!(put(&server, "duck", &format!("{message}/reactions/%F0%9F%91%8D")).await.status, 201);
    let hooks = format!("/api/conversations/{room}/incoming-webhooks");
    let hook = post(&server, "bugs", &hooks, json!({"name": "builds"})).await.json();
    let url = hook["url"].as_str().unwrap();
    let brought = server.post(&url[url.find("/api/").unwrap()..], &json!({"text": "built"})).await;
    assert_eq!(brought.status, 200);
    previews::change_previews(&server).await;
    server.send("duck", "duck", "a note").await;
    for number in 0..20 {
        server.send("rdibari", "porky", &format!("№ {number}")).await;
    }
    assert_eq!(
        server.request(reqwest::Method::DELETE, "/api/users/rdibari?messages=delete").send().await.unwrap().status(),
        204
    );
    assert_eq!(place.numbers(MESSAGES_WITHOUT_DIGEST).await, [[0]]);
    let (well, said) = doctor_deep(place);
    assert!(well && !said.contains("no digest"), "{said}");
    assert!(said.contains("and 4 earlier texts match"), "{said}");
    let tombstones = place.numbers("SELECT count(*) FROM messaging.messages WHERE deleted_at IS NOT NULL").await[0][0];
    assert!(tombstones >= 21, "{tombstones}");
    // The digests are also correct after a backup and a restore into each database.
    let file = place.folder.path().join("backup");
    let backed_up = posthaste(place, &["backup", file.to_str().unwrap()]);
    assert!(backed_up.status.success(), "{}", text(&backed_up));
    let looked = posthaste(place, &["doctor", "--deep", "--backup", file.to_str().unwrap()]);
    assert!(looked.status.success() && text(&looked).contains("match their digests"), "{}", text(&looked));
    use crate::support::place::Kind;
    let other = Place::new(if place.kind == Kind::Sqlite { Kind::Postgres } else { Kind::Sqlite }).await;
    let restored = posthaste(&other, &["restore", "--yes", file.to_str().unwrap()]);
    assert!(restored.status.success(), "{}", text(&restored));
    let (well, said) = doctor_deep(&other);
    assert!(well && !said.contains("no digest"), "{said}");
    other.remove().await;
});

both!(old_rows_are_read_without_a_digest, async |place| {
    let server = Server::start(place).await;
    let seq = server.send("rdibari", "bugs", "of before").await["seq"].clone();
    assert_eq!(edit(&server, "rdibari", 1, &seq, "of before, edited").await.status, 200);
    server.stop().await;
    place.back_to(14).await;
    let server = Server::start(place).await;
    let messages = server.all("/api/conversations/1/messages").await;
    assert_eq!(messages.last().unwrap()["body"], "of before, edited");
    let without = place.numbers(MESSAGES_WITHOUT_DIGEST).await[0][0];
    assert_eq!(without, 6, "five messages and an earlier text");
    let (well, said) = doctor_deep(place);
    assert!(well && said.contains("6 messages and earlier texts have no digest"), "{said}");
    // An edit writes a digest.
    assert_eq!(edit(&server, "rdibari", 1, &seq, "of now").await.status, 200);
    server.send("rdibari", "bugs", "of now too").await;
    assert_eq!(place.numbers(MESSAGES_WITHOUT_DIGEST).await, [[5]]);
    let (well, said) = doctor_deep(place);
    assert!(well && said.contains("2 messages and 1 earlier texts match"), "{said}");
});

both!(a_damaged_message_affects_nothing_else, async |place| {
    let server = Server::start(place).await;
    let room = group(&server, "bugs", &["duck"], "all").await;
    let cursor = get(&server, "duck", "/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    let bad = say(&server, "bugs", room, "soon damaged", None).await["seq"].as_i64().unwrap();
    let good = say(&server, "bugs", room, "behind it", None).await["seq"].clone();
    damage(place, "body = 'now damaged'", room, bad).await;
    // Events about the damaged message are left out. Later events arrive.
    let events = get(&server, "duck", &format!("/api/events?after={cursor}")).await.json();
    let bodies: Vec<&Value> = events["events"].as_array().unwrap().iter().map(|event| &event["data"]["body"]).collect();
    assert_eq!(bodies, ["behind it"], "{events}");
    assert_eq!(events["events"][0]["data"]["seq"], good);
    assert!(damaged_reads(&server).await >= 1);
    // Sends still work, and the sender can delete the damaged message.
    say(&server, "duck", room, "an answer to it", Some(bad)).await;
    assert_eq!(delete(&server, "bugs", &format!("/api/conversations/{room}/messages/{bad}")).await.status, 204);
    let history = get(&server, "duck", &format!("/api/conversations/{room}/messages")).await;
    assert_eq!(history.status, 200, "{}", String::from_utf8_lossy(&history.bytes));
    assert!(!String::from_utf8_lossy(&history.bytes).contains("now damaged"));
    // An erasure also deletes a damaged message.
    let other = say(&server, "duck", room, "of a duck", None).await["seq"].as_i64().unwrap();
    assert_eq!(
        put(&server, "bugs", &format!("/api/conversations/{room}/messages/{other}/reactions/%F0%9F%91%8D"))
            .await
            .status,
        201
    );
    damage(place, "body = 'of a dock'", room, other).await;
    let erased = server.request(reqwest::Method::DELETE, "/api/users/duck?messages=delete").send().await.unwrap();
    assert_eq!(erased.status(), 204);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.messages WHERE body = 'of a dock'").await, [[0]]);
    assert_eq!(get(&server, "bugs", &format!("/api/conversations/{room}/messages")).await.status, 200);
});
