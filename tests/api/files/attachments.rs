//! Uploading, sending and reading files.

use image::ImageFormat;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::support::files::{encoded, noise, picture, png, send_with, upload, uploaded};
use crate::support::people::{assert_hidden, delete, get, group, patch, post, put};
use crate::support::{Server, answer_of};

both!(an_uploaded_picture_is_described_and_served, async |place| {
    let server = Server::start(place).await;
    let bytes = png(800, 400);
    let answer = upload(&server, "bugs", "holiday.png", &bytes).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    let attachment = answer.json();
    let id = attachment["id"].as_i64().unwrap();
    let url = format!("/api/attachments/{id}");
    assert_eq!(answer.header("location"), Some(url.as_str()));
    for (field, value) in [
        ("url", json!(url)),
        ("thumbnail_url", json!(format!("{url}/thumbnail"))),
        ("content_type", json!("image/png")),
        ("file_name", json!("holiday.png")),
        ("width", json!(800)),
        ("height", json!(400)),
        ("duration_ms", Value::Null),
        ("waveform", Value::Null),
        ("measured", json!(true)),
    ] {
        assert_eq!(attachment[field], value, "{field}");
    }
    assert!(attachment["blurhash"].as_str().is_some_and(|hash| hash.len() > 6), "{attachment}");
    let file = get(&server, "bugs", &url).await;
    assert_eq!(file.status, 200);
    assert_eq!(file.bytes.len() as i64, attachment["size_bytes"].as_i64().unwrap());
    let shown = image::load_from_memory(&file.bytes).unwrap();
    assert_eq!(shown.to_rgb8(), picture(800, 400).to_rgb8());
    for (name, value) in [
        ("content-type", "image/png"),
        ("content-disposition", "inline; filename=\"holiday.png\"; filename*=UTF-8''holiday.png"),
        ("cache-control", "private, max-age=31536000, immutable"),
        ("x-content-type-options", "nosniff"),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(file.header(name), Some(value), "{name}");
    }
    assert!(file.header("content-security-policy").unwrap().contains("sandbox"));
    let thumbnail = get(&server, "bugs", &format!("{url}/thumbnail")).await;
    assert_eq!(thumbnail.status, 200);
    let shown = image::load_from_memory(&thumbnail.bytes).unwrap();
    assert_eq!((shown.width(), shown.height()), (360, 180));
});

both!(the_name_may_come_in_a_form, async |place| {
    let server = Server::start(place).await;
    let bytes = noise(300_000);
    let part = reqwest::multipart::Part::bytes(bytes.clone()).file_name("写真 \"1\".bin");
    let form = reqwest::multipart::Form::new().part("file", part);
    let request = server.request(Method::POST, "/api/attachments").header("x-act-as", "bugs").multipart(form);
    let attachment = answer_of(request).await;
    assert_eq!(attachment.status, 201, "{}", String::from_utf8_lossy(&attachment.bytes));
    let attachment = attachment.json();
    assert_eq!(attachment["content_type"], "application/octet-stream");
    assert_eq!(attachment["thumbnail_url"], Value::Null);
    assert_eq!(get(&server, "bugs", attachment["url"].as_str().unwrap()).await.bytes, bytes);
});

both!(a_message_shows_its_attachments_everywhere, async |place| {
    let server = Server::start(place).await;
    let first = upload(&server, "bugs", "a.png", &png(20, 10)).await.json();
    let second = upload(&server, "bugs", "b.bin", &noise(50)).await.json();
    let ids = [second["id"].as_i64().unwrap(), first["id"].as_i64().unwrap()];
    let cursor = server.get("/api/events").await.json()["cursor"].as_str().unwrap().to_owned();
    let sent = send_with(&server, "bugs", "duck", &ids).await;
    assert_eq!(sent["attachments"], json!([second, first]));
    let path = format!("/api/conversations/{}/messages", sent["conversation_id"]);
    let page = get(&server, "duck", &path).await.json();
    assert_eq!(page[0]["attachments"], sent["attachments"]);
    assert_eq!(get(&server, "duck", &format!("{path}/1")).await.json()["attachments"], sent["attachments"]);
    let timeline = get(&server, "duck", "/api/messages/duck?with=bugs").await.json();
    assert_eq!(timeline[0]["attachments"], sent["attachments"]);
    let events = get(&server, "duck", &format!("/api/events?after={cursor}&wait=5")).await.json();
    let event = events["events"].as_array().unwrap().iter().find(|event| event["type"] == "message.created").unwrap();
    assert_eq!(event["data"]["attachments"], sent["attachments"]);
    let found = get(&server, "duck", "/api/search/messages?q=see&has=attachment").await.json();
    assert_eq!(found.as_array().unwrap().len(), 1);
});

both!(a_body_may_be_empty_beside_an_attachment, async |place| {
    let server = Server::start(place).await;
    let id = uploaded(&server, "bugs", "a.bin", &noise(10)).await;
    let send = async |body: Value| server.post("/api/messages", &body).await;
    let base = json!({"sender_user_name": "bugs", "recipient_user_name": "duck"});
    let with = |more: Value| {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    send(with(json!({"body": ""}))).await.invalid(&["body"]);
    send(with(json!({}))).await.invalid(&["body"]);
    let sent = send(with(json!({"attachment_ids": [id]}))).await;
    assert_eq!(sent.status, 201, "{}", String::from_utf8_lossy(&sent.bytes));
    let sent = sent.json();
    assert_eq!(sent["body"], "");
    let path = format!("/api/conversations/{}/messages/1", sent["conversation_id"]);
    let edit = async |text: &str| patch(&server, "bugs", &path, json!({"body": text})).await;
    assert_eq!(edit("a text").await.json()["attachments"], sent["attachments"]);
    assert_eq!(edit("").await.json()["body"], "");
});

both!(a_file_is_visible_to_its_uploader_and_with_a_message_that_holds_it, async |place| {
    let server = Server::start(place).await;
    let id = uploaded(&server, "bugs", "a.png", &png(40, 40)).await;
    let paths = [format!("/api/attachments/{id}"), format!("/api/attachments/{id}/thumbnail")];
    let seen_by = async |user: &str| {
        for path in &paths {
            let status = get(&server, user, path).await.status.as_u16();
            if status == 404 {
                let (nowhere, code) = ("/api/attachments/999999", "attachment_not_found");
                assert_hidden(&server, user, Method::GET, path, nowhere, None, code).await;
                return false;
            }
            assert_eq!(status, 200, "{user} {path}");
        }
        true
    };
    assert!(seen_by("bugs").await);
    assert!(!seen_by("duck").await);
    // Nobody else can send it.
    let body = json!({"sender_user_name": "duck", "recipient_user_name": "porky", "body": "x", "attachment_ids": [id]});
    server.post("/api/messages", &body).await.invalid(&["attachment_ids"]);
    let sent = send_with(&server, "bugs", "duck", &[id]).await;
    assert!(seen_by("duck").await);
    assert!(!seen_by("porky").await);
    // A user can send every file that they can see.
    let again = server.post("/api/messages", &body).await;
    assert_eq!(again.status, 201);
    assert!(seen_by("porky").await);
    // A member who joined later and does not see the earlier messages does not see their files.
    let other = uploaded(&server, "bugs", "b.bin", &noise(99)).await;
    let ours = group(&server, "bugs", &["duck"], "since_joined").await;
    let body = json!({"conversation_id": ours, "body": "x", "attachment_ids": [other]});
    assert_eq!(post(&server, "bugs", "/api/messages", body).await.status, 201);
    assert_eq!(put(&server, "bugs", &format!("/api/conversations/{ours}/members/porky")).await.status, 201);
    let path = format!("/api/attachments/{other}");
    assert_eq!(get(&server, "duck", &path).await.status, 200);
    assert_eq!(get(&server, "porky", &path).await.status, 404);
    // Leaving the group ends the permission.
    assert_eq!(delete(&server, "duck", &format!("/api/conversations/{ours}/members/me")).await.status, 204);
    assert_eq!(get(&server, "duck", &path).await.status, 404);
    // The message that held it for duck is deleted; porky still has one, and the uploader always.
    let path = format!("/api/conversations/{}/messages/{}", sent["conversation_id"], sent["seq"]);
    assert_eq!(delete(&server, "bugs", &path).await.status, 204);
    assert!(seen_by("porky").await && seen_by("bugs").await);
    assert!(seen_by("duck").await, "duck sent it to porky");
});

both!(a_forward_takes_the_attachments_along, async |place| {
    let server = Server::start(place).await;
    let id = uploaded(&server, "bugs", "a.bin", &noise(500)).await;
    let sent = send_with(&server, "bugs", "duck", &[id]).await;
    let ours = group(&server, "duck", &["porky"], "all").await;
    let path = format!("/api/conversations/{}/messages/1/forward", sent["conversation_id"]);
    let forward = post(&server, "duck", &path, json!({"conversation_id": ours})).await;
    assert_eq!(forward.status, 201, "{}", String::from_utf8_lossy(&forward.bytes));
    assert_eq!(forward.json()["attachments"], sent["attachments"]);
    assert_eq!(get(&server, "porky", &format!("/api/attachments/{id}")).await.bytes, noise(500));
});

both!(parts_of_a_file_can_be_read, async |place| {
    let server = Server::start(place).await;
    let bytes = noise(1_000_000);
    let id = uploaded(&server, "bugs", "a.bin", &bytes).await;
    let target = format!("/api/attachments/{id}");
    let tag = get(&server, "bugs", &target).await.header("etag").unwrap().to_owned();
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = server.request(Method::GET, &target).header("x-act-as", "bugs");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer_of(request).await
    };
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=999999-", 999_999, 999_999),
        ("bytes=-5", 999_995, 999_999),
        ("bytes=262143-262145", 262_143, 262_145),
        ("bytes=5-99999999", 5, 999_999),
    ] {
        let part = ask(&[("range", range)]).await;
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.header("content-range"), Some(format!("bytes {first}-{last}/1000000").as_str()));
        assert_eq!(part.bytes, bytes[first..=last], "{range}");
        assert_eq!(part.header("etag"), Some(tag.as_str()));
    }
    let beyond = ask(&[("range", "bytes=1000000-")]).await;
    beyond.problem(416, "range_not_satisfiable");
    assert_eq!(beyond.header("content-range"), Some("bytes */1000000"));
    assert_eq!(ask(&[("range", "bytes=0-1,5-6")]).await.bytes, bytes);
    assert_eq!(ask(&[("if-none-match", &tag)]).await.status, 304);
    assert_eq!(ask(&[("range", "bytes=0-9"), ("if-range", &tag)]).await.status, 206);
    assert_eq!(ask(&[("range", "bytes=0-9"), ("if-range", "\"other\"")]).await.status, 200);
    let compressed = ask(&[("accept-encoding", "gzip, br")]).await;
    assert_eq!((compressed.header("content-encoding"), compressed.bytes.len()), (None, 1_000_000));
    let head = answer_of(server.request(Method::HEAD, &target).header("x-act-as", "bugs")).await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, Some("1000000")));
});

both!(what_a_browser_could_run_is_a_download, async |place| {
    let server = Server::start(place).await;
    for (name, bytes) in [
        ("a.svg", &b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>"[..]),
        ("a.html", b"<!doctype html><html><script>alert(1)</script></html>"),
        ("a.png", b"<html><script>alert(1)</script></html>"),
        ("a.js", b"alert(1)"),
        ("a.xml", b"<?xml version=\"1.0\"?><x/>"),
    ] {
        let attachment = upload(&server, "bugs", name, bytes).await;
        assert_eq!(attachment.status, 201, "{name}");
        let attachment = attachment.json();
        assert_eq!(attachment["thumbnail_url"], Value::Null, "{name}");
        let file = get(&server, "bugs", attachment["url"].as_str().unwrap()).await;
        assert!(file.header("content-disposition").unwrap().starts_with("attachment"), "{name}");
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(file.bytes, bytes);
    }
});

both!(metadata_of_a_picture_is_removed, async |place| {
    let server = Server::start(place).await;
    let jpeg = encoded(&picture(64, 32), ImageFormat::Jpeg);
    let secret = b"GPS 48.8584 N 2.2945 E";
    let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0".to_vec();
    exif.extend_from_slice(secret);
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend_from_slice(&[0xff, 0xe1]);
    bytes.extend_from_slice(&((exif.len() + 2) as u16).to_be_bytes());
    bytes.extend_from_slice(&exif);
    bytes.extend_from_slice(&jpeg[2..]);
    bytes.extend_from_slice(secret);
    let id = uploaded(&server, "bugs", "a.jpg", &bytes).await;
    let file = get(&server, "bugs", &format!("/api/attachments/{id}")).await;
    assert_eq!(file.header("content-type"), Some("image/jpeg"));
    assert!(!file.bytes.windows(secret.len()).any(|part| part == secret));
    assert_eq!(
        image::load_from_memory(&file.bytes).unwrap().to_rgb8(),
        image::load_from_memory(&jpeg).unwrap().to_rgb8()
    );
});

both!(a_repeated_upload_with_its_key_makes_one_attachment, async |place| {
    let server = Server::start(place).await;
    let upload = async |key: &str, bytes: &[u8]| {
        let request = server.request(Method::POST, "/api/attachments").header("x-act-as", "bugs");
        answer_of(request.header("idempotency-key", key).body(bytes.to_vec())).await
    };
    let first = upload("k", &noise(1_000)).await;
    assert_eq!(first.status, 201);
    let again = upload("k", &noise(1_000)).await;
    assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    upload("k", &noise(1_001)).await.problem(422, "idempotency_key_reused");
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.attachments").await, [[1]]);
});

both!(a_scheduled_message_keeps_its_attachments, async |place| {
    let server = Server::start(place).await;
    let id = uploaded(&server, "bugs", "a.bin", &noise(70)).await;
    let send_at = server.app.clock.now().plus_micros(1_500_000);
    let mut body = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "later",
                      "attachment_ids": [id], "send_at": send_at});
    let scheduled = server.post("/api/messages", &body).await;
    assert_eq!(scheduled.status, 202, "{}", String::from_utf8_lossy(&scheduled.bytes));
    assert_eq!(scheduled.json()["attachment_ids"], json!([id]));
    body["attachment_ids"] = json!([id + 100]);
    server.post("/api/messages", &body).await.invalid(&["attachment_ids"]);
    for _ in 0..100 {
        let timeline = get(&server, "duck", "/api/messages/duck?with=bugs").await.json();
        if let Some(message) = timeline.as_array().and_then(|messages| messages.first()) {
            assert_eq!(message["attachments"][0]["id"], id);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the message was not sent");
});
