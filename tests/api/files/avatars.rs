//! The pictures of users and groups.

use image::ImageFormat;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::files::{encoded, noise, picture, png, send_with, upload, uploaded, wait_for_stored};
use crate::support::people::{assert_hidden, call, delete, get, group, patch};
use crate::support::{Answer, Options, Server, answer_of};

async fn put_bytes(server: &Server, person: &str, target: &str, bytes: Vec<u8>) -> Answer {
    answer_of(server.request(Method::PUT, target).header("x-act-as", person).body(bytes)).await
}

async fn put_attachment(server: &Server, person: &str, target: &str, id: i64) -> Answer {
    call(server, person, Method::PUT, target, Some(json!({"attachment_id": id}))).await
}

#[track_caller]
fn url_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.json()["avatar_url"].as_str().unwrap_or_else(|| panic!("{}", answer.json())).to_owned()
}

both!(a_picture_of_a_user_is_shown_everywhere, async |place| {
    let server = Server::start(place).await;
    let ours = group(&server, "bugs", &["duck"], "all").await;
    server.send("bugs", "duck", "hey").await;
    let cursor = server.get("/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    let set = put_bytes(&server, "bugs", "/api/users/me/avatar", png(500, 250)).await;
    let url = url_of(&set);
    assert_eq!(set.json()["user_name"], "bugs");
    assert!(url.starts_with("/api/attachments/") && url.ends_with("/thumbnail"), "{url}");
    // Every user sees it, not only friends and members of the same conversations.
    for person in ["bugs", "duck", "porky"] {
        let shown = get(&server, person, &url).await;
        assert_eq!(shown.status, 200, "{person}");
        assert_eq!(shown.header("cache-control"), Some("private, max-age=31536000, immutable"));
        let shown = image::load_from_memory(&shown.bytes).unwrap();
        assert_eq!((shown.width(), shown.height()), (360, 180));
        assert_eq!(get(&server, person, "/api/users/bugs").await.json()["avatar_url"], url);
    }
    let listed = get(&server, "porky", "/api/users?q=bugs").await.json();
    assert_eq!(listed[0]["avatar_url"], url);
    let members = get(&server, "duck", &format!("/api/conversations/{ours}/members")).await.json();
    let member = members.as_array().unwrap().iter().find(|member| member["user"]["user_name"] == "bugs").unwrap();
    assert_eq!(member["user"]["avatar_url"], url);
    let conversations = get(&server, "duck", "/api/conversations").await.json();
    let direct = conversations.as_array().unwrap().iter().find(|it| it["peer"]["user_name"] == "bugs").unwrap();
    assert_eq!(direct["peer"]["avatar_url"], url);
    let events = get(&server, "duck", &format!("/api/events?after={cursor}&wait=5")).await.json();
    let updated: Vec<&Value> =
        events["events"].as_array().unwrap().iter().filter(|event| event["type"] == "user.updated").collect();
    assert_eq!(updated.len(), 1, "{events}");
    assert_eq!(updated[0]["data"]["avatar_url"], url);
    let export = get(&server, "bugs", "/api/users/me/export").await;
    assert!(String::from_utf8_lossy(&export.bytes).contains(&url));
    // The same picture again changes nothing, another one has another path, and the old one is deleted.
    assert_eq!(url_of(&put_bytes(&server, "bugs", "/api/users/bugs/avatar", png(500, 250)).await), url);
    let other = url_of(&put_bytes(&server, "bugs", "/api/users/BUGS/avatar", png(40, 40)).await);
    assert_ne!(other, url);
    get(&server, "duck", &url).await.problem(404, "attachment_not_found");
    assert_eq!(get(&server, "duck", &other).await.status, 200);
    for _ in 0..2 {
        assert_eq!(delete(&server, "bugs", "/api/users/me/avatar").await.status, 204);
    }
    assert_eq!(get(&server, "bugs", "/api/users/me").await.json()["avatar_url"], Value::Null);
    get(&server, "duck", &other).await.problem(404, "attachment_not_found");
});

both!(every_known_format_of_images_can_be_a_picture, async |place| {
    let server = Server::start(place).await;
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP] {
        let bytes = encoded(&picture(30, 20), format);
        let url = url_of(&put_bytes(&server, "bugs", "/api/users/me/avatar", bytes).await);
        assert_eq!(get(&server, "duck", &url).await.status, 200, "{format:?}");
    }
    // A form is accepted too.
    let part = reqwest::multipart::Part::bytes(png(10, 10)).file_name("me.png");
    let form = reqwest::multipart::Form::new().part("file", part);
    let request = server.request(Method::PUT, "/api/users/me/avatar").header("x-act-as", "bugs").multipart(form);
    url_of(&answer_of(request).await);
});

both!(what_is_not_an_image_is_no_picture, async |place| {
    let server = Server::start(place).await;
    let ours = group(&server, "bugs", &[], "all").await;
    for target in ["/api/users/me/avatar".to_owned(), format!("/api/conversations/{ours}/avatar")] {
        let put = async |bytes: Vec<u8>| put_bytes(&server, "bugs", &target, bytes).await;
        put(noise(100)).await.problem(422, "not_an_image");
        put(b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>".to_vec()).await.problem(422, "not_an_image");
        put(png(300, 300)[..500].to_vec()).await.problem(422, "damaged_file");
        put(noise(8 * 1_024 * 1_024 + 1)).await.problem(413, "file_too_large");
        put(Vec::new()).await.invalid(&["file"]);
        let sound = uploaded(&server, "bugs", "a.bin", &noise(50)).await;
        put_attachment(&server, "bugs", &target, sound).await.problem(422, "not_an_image");
        let hidden = uploaded(&server, "duck", "a.png", &png(10, 10)).await;
        for id in [hidden, hidden + 1_000, 0, -1, i64::MAX] {
            put_attachment(&server, "bugs", &target, id).await.invalid(&["attachment_id"]);
        }
        for body in [json!({}), json!({"attachment_id": "1"}), json!({"attachment_id": null})] {
            call(&server, "bugs", Method::PUT, &target, Some(body)).await.invalid(&["attachment_id"]);
        }
        let unknown = json!({"attachment_id": hidden, "url": "x"});
        call(&server, "bugs", Method::PUT, &target, Some(unknown)).await.invalid(&["url"]);
        put_bytes(&server, "bugs", &format!("{target}?a=b"), png(10, 10)).await.invalid(&["a"]);
    }
    assert_eq!(get(&server, "bugs", "/api/users/me").await.json()["avatar_url"], Value::Null);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.attachments").await, [[4]]);
});

both!(an_attachment_becomes_a_picture_and_lives_as_long, async |place| {
    let server = Server::start(place).await;
    let id = uploaded(&server, "bugs", "a.png", &png(50, 50)).await;
    let sent = send_with(&server, "bugs", "duck", &[id]).await;
    // A user can take every picture that they can see.
    let url = url_of(&put_attachment(&server, "duck", "/api/users/me/avatar", id).await);
    assert_eq!(url, format!("/api/attachments/{id}/thumbnail"));
    assert_eq!(get(&server, "porky", &url).await.status, 200);
    let message = format!("/api/conversations/{}/messages/{}", sent["conversation_id"], sent["seq"]);
    assert_eq!(delete(&server, "bugs", &message).await.status, 204);
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(get(&server, "porky", &url).await.status, 200);
    assert_eq!(delete(&server, "duck", "/api/users/me/avatar").await.status, 204);
    wait_for_stored(place, 0).await;
    assert_eq!(place.numbers("SELECT DISTINCT size_bytes FROM messaging.file_usage").await, [[0]]);
});

both!(only_the_user_sets_a_picture_and_administrators_remove_it, async |place| {
    let server = Server::start(place).await;
    url_of(&put_bytes(&server, "bugs", "/api/users/me/avatar", png(50, 50)).await);
    let role = server.request(Method::PUT, "/api/admin/users/porky/role").json(&json!({"role": "admin"}));
    assert_eq!(answer_of(role).await.status, 204);
    for person in ["duck", "porky"] {
        let refused = put_bytes(&server, person, "/api/users/bugs/avatar", png(50, 50)).await;
        refused.problem(403, "not_your_account");
    }
    delete(&server, "duck", "/api/users/bugs/avatar").await.problem(403, "not_your_account");
    put_bytes(&server, "duck", "/api/users/nobody/avatar", png(5, 5)).await.problem(404, "user_not_found");
    delete(&server, "porky", "/api/users/nobody/avatar").await.problem(404, "user_not_found");
    let nobody = answer_of(server.request(Method::PUT, "/api/users/me/avatar").body(png(5, 5))).await;
    nobody.problem(403, "act_as_required");
    assert_eq!(delete(&server, "porky", "/api/users/bugs/avatar").await.status, 204);
    assert_eq!(get(&server, "duck", "/api/users/bugs").await.json()["avatar_url"], Value::Null);
});

both!(a_group_has_a_picture_for_its_members, async |place| {
    let server = Server::start(place).await;
    let ours = group(&server, "bugs", &["duck"], "since_joined").await;
    let path = format!("/api/conversations/{ours}");
    let target = format!("{path}/avatar");
    put_bytes(&server, "duck", &target, png(30, 30)).await.problem(403, "insufficient_role");
    delete(&server, "duck", &target).await.problem(403, "insufficient_role");
    put_bytes(&server, "porky", &target, png(30, 30)).await.problem(404, "conversation_not_found");
    let direct = server.send("bugs", "duck", "hey").await["conversation_id"].to_string();
    let of_direct = format!("/api/conversations/{direct}/avatar");
    put_bytes(&server, "bugs", &of_direct, png(30, 30)).await.problem(409, "not_a_group");
    delete(&server, "bugs", &of_direct).await.problem(409, "not_a_group");
    let cursor = server.get("/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    let url = url_of(&put_bytes(&server, "bugs", &target, png(30, 30)).await);
    assert_eq!(url_of(&put_bytes(&server, "bugs", &target, png(30, 30)).await), url);
    assert_eq!(get(&server, "duck", &path).await.json()["avatar_url"], url);
    assert_eq!(get(&server, "duck", &url).await.status, 200);
    let invented = "/api/attachments/999999/thumbnail";
    assert_hidden(&server, "porky", Method::GET, &url, invented, None, "attachment_not_found").await;
    let messages = get(&server, "duck", &format!("{path}/messages")).await.json();
    let last: Vec<&str> = messages.as_array().unwrap().iter().filter_map(|message| message["body"].as_str()).collect();
    assert_eq!(last.iter().filter(|body| **body == "bugs changed the picture").count(), 1, "{last:?}");
    let events = get(&server, "duck", &format!("/api/events?after={cursor}&wait=5")).await.json();
    let kinds: Vec<&str> =
        events["events"].as_array().unwrap().iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds, ["conversation.updated", "message.created"], "{events}");
    // Members who join later see it, and those who leave do not.
    let joined = format!("{path}/members/porky");
    assert_eq!(call(&server, "bugs", Method::PUT, &joined, Some(json!({}))).await.status, 201);
    assert_eq!(get(&server, "porky", &url).await.status, 200);
    assert_eq!(delete(&server, "porky", &format!("{path}/members/me")).await.status, 204);
    get(&server, "porky", &url).await.problem(404, "attachment_not_found");
    // An address of another server replaces the picture, whose bytes are deleted.
    let elsewhere = json!({"avatar_url": "https://example.org/a.png"});
    assert_eq!(patch(&server, "bugs", &path, elsewhere.clone()).await.json()["avatar_url"], elsewhere["avatar_url"]);
    wait_for_stored(place, 0).await;
    get(&server, "duck", &url).await.problem(404, "attachment_not_found");
    let id = uploaded(&server, "bugs", "a.png", &png(30, 30)).await;
    let url = url_of(&put_attachment(&server, "bugs", &target, id).await);
    assert_eq!(url, format!("/api/attachments/{id}/thumbnail"));
    for _ in 0..2 {
        assert_eq!(delete(&server, "bugs", &target).await.status, 204);
    }
    assert_eq!(get(&server, "duck", &path).await.json()["avatar_url"], Value::Null);
    wait_for_stored(place, 0).await;
});

both!(pictures_end_with_their_user_and_their_group, async |place| {
    let server = Server::start(place).await;
    let ours = group(&server, "bugs", &["duck"], "all").await;
    let url = url_of(&put_bytes(&server, "duck", "/api/users/me/avatar", png(50, 50)).await);
    let target = format!("/api/conversations/{ours}/avatar");
    let of_group = url_of(&put_bytes(&server, "bugs", &target, png(60, 60)).await);
    let erased = server.request(Method::DELETE, "/api/users/duck").send().await.unwrap();
    assert_eq!(erased.status(), 204);
    wait_for_stored(place, 2).await;
    get(&server, "bugs", &url).await.problem(404, "attachment_not_found");
    assert_eq!(get(&server, "bugs", &of_group).await.status, 200);
    assert_eq!(delete(&server, "bugs", &format!("/api/conversations/{ours}")).await.status, 204);
    wait_for_stored(place, 0).await;
});

both!(pictures_count_for_the_limits_of_their_user, async |place| {
    let server = Server::start_with(place, Options { max_user_bytes: 300, ..Options::default() }).await;
    put_bytes(&server, "bugs", "/api/users/me/avatar", encoded(&picture(200, 200), ImageFormat::Png))
        .await
        .problem(413, "file_quota_exceeded");
    url_of(&put_bytes(&server, "bugs", "/api/users/me/avatar", png(3, 3)).await);
    upload(&server, "bugs", "a.bin", &noise(300)).await.problem(413, "file_quota_exceeded");
});
