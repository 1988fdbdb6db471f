//! When the bytes of files are deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::{Clock, Timestamp};
use reqwest::Method;
use serde_json::json;

use crate::both;
use crate::support::files::{noise, png, send_with, stored, uploaded, wait_for_stored};
use crate::support::people::{delete, get, post};
use crate::support::{Options, Server};

both!(bytes_live_as_long_as_a_message_holds_them, async |place| {
    let server = Server::start(place).await;
    let picture = uploaded(&server, "bugs", "a.png", &png(50, 50)).await;
    // The same bytes again, uploaded by another user.
    let same = uploaded(&server, "duck", "b.png", &png(50, 50)).await;
    assert_eq!(stored(place).len(), 2, "the picture and its thumbnail: {:?}", stored(place));
    let first = send_with(&server, "bugs", "duck", &[picture]).await;
    let second = send_with(&server, "duck", "bugs", &[same]).await;
    let path = |message: &serde_json::Value| {
        format!("/api/conversations/{}/messages/{}", message["conversation_id"], message["seq"])
    };
    assert_eq!(delete(&server, "bugs", &path(&first)).await.status, 204);
    for _ in 0..100 {
        if get(&server, "bugs", &format!("/api/attachments/{picture}")).await.status == 404 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(get(&server, "bugs", &format!("/api/attachments/{picture}")).await.status, 404);
    assert_eq!(get(&server, "bugs", &format!("/api/attachments/{same}")).await.status, 200);
    assert_eq!(stored(place).len(), 2);
    assert_eq!(delete(&server, "duck", &path(&second)).await.status, 204);
    wait_for_stored(place, 0).await;
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.blobs").await, [[0]]);
    assert_eq!(place.numbers("SELECT DISTINCT size_bytes FROM messaging.file_usage").await, [[0]]);
    // The same bytes can be uploaded again.
    let again = uploaded(&server, "bugs", "a.png", &png(50, 50)).await;
    assert_eq!(get(&server, "bugs", &format!("/api/attachments/{again}")).await.status, 200);
});

both!(an_upload_that_is_not_sent_expires, async |place| {
    let hand = Arc::new(AtomicI64::new(Timestamp::parse("2026-11-22T08:30:00Z").unwrap().micros()));
    let server =
        Server::start_with(place, Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() }).await;
    let kept = uploaded(&server, "bugs", "a.bin", &noise(100)).await;
    uploaded(&server, "bugs", "b.bin", &noise(200)).await;
    send_with(&server, "bugs", "duck", &[kept]).await;
    assert_eq!(stored(place).len(), 2);
    hand.fetch_add(24 * 3_600 * 1_000_000 + 1, Ordering::Relaxed);
    wait_for_stored(place, 1).await;
    assert_eq!(get(&server, "duck", &format!("/api/attachments/{kept}")).await.bytes, noise(100));
});

both!(an_erasure_deletes_the_files_of_deleted_messages, async |place| {
    let server = Server::start(place).await;
    let sent = uploaded(&server, "bugs", "a.bin", &noise(100)).await;
    uploaded(&server, "bugs", "unsent.bin", &noise(200)).await;
    let others = uploaded(&server, "duck", "c.bin", &noise(300)).await;
    send_with(&server, "bugs", "duck", &[sent]).await;
    send_with(&server, "duck", "bugs", &[others]).await;
    let erased = server.request(Method::DELETE, "/api/users/bugs?messages=delete").send().await.unwrap();
    assert_eq!(erased.status(), 204);
    wait_for_stored(place, 1).await;
    assert_eq!(get(&server, "duck", &format!("/api/attachments/{others}")).await.bytes, noise(300));
    assert_eq!(get(&server, "duck", &format!("/api/attachments/{sent}")).await.status, 404);
});

both!(bytes_of_an_upload_that_was_cut_off_are_deleted, async |place| {
    let hand = Arc::new(AtomicI64::new(Timestamp::parse("2026-11-22T08:30:00Z").unwrap().micros()));
    let server =
        Server::start_with(place, Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() }).await;
    uploaded(&server, "bugs", "a.bin", &noise(100)).await;
    // A crash between the bytes and the row of the attachment leaves a blob that is only claimed.
    place.sql("DELETE FROM messaging.attachments").await;
    place.sql("UPDATE messaging.blobs SET state = 'claimed', reference_count = 0").await;
    hand.fetch_add(3_600 * 1_000_000, Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(stored(place).len(), 1, "the upload could still be running");
    hand.fetch_add(2 * 3_600 * 1_000_000, Ordering::Relaxed);
    wait_for_stored(place, 0).await;
});

both!(a_scheduled_message_holds_its_attachments_beside_other_messages, async |place| {
    let hand = Arc::new(AtomicI64::new(Timestamp::parse("2026-11-22T08:30:00Z").unwrap().micros()));
    let day = 24 * 3_600 * 1_000_000;
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() };
    let server = Server::start_with(place, options).await;
    let id = uploaded(&server, "bugs", "a.bin", &noise(100)).await;
    let sent = send_with(&server, "bugs", "duck", &[id]).await;
    let schedule = async |send_at: &str| {
        let body = json!({"recipient_user_name": "duck", "body": "later", "attachment_ids": [id], "send_at": send_at});
        let answer = post(&server, "bugs", "/api/messages", body).await;
        assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.bytes));
        answer.header("location").unwrap().to_owned()
    };
    schedule("2026-12-20T00:00:00Z").await;
    let nearer = schedule("2026-11-24T00:00:00Z").await;
    assert_eq!(delete(&server, "bugs", &nearer).await.status, 204);
    let path = format!("/api/conversations/{}/messages/{}", sent["conversation_id"], sent["seq"]);
    assert_eq!(delete(&server, "bugs", &path).await.status, 204);
    hand.fetch_add(5 * day, Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(stored(place).len(), 1, "the later message still needs the file");
    hand.fetch_add(25 * day, Ordering::Relaxed);
    for _ in 0..100 {
        let newest = get(&server, "duck", "/api/messages/duck?with=bugs&order=desc&days=60").await.json();
        if newest[0]["body"] == "later" {
            assert_eq!(newest[0]["attachments"][0]["id"], id);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the message was not sent: {}", get(&server, "bugs", "/api/scheduled").await.json());
});

both!(a_file_that_cannot_be_deleted_does_not_stop_the_others, async |place| {
    let hand = Arc::new(AtomicI64::new(Timestamp::parse("2026-11-22T08:30:00Z").unwrap().micros()));
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() };
    let server = Server::start_with(place, options).await;
    uploaded(&server, "bugs", "a.bin", &noise(100)).await;
    let stuck = stored(place)[0].clone();
    // A folder with a file in it cannot be removed like a file.
    let path = place.folder.path().join("files").join(&stuck[..2]).join(&stuck);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("inside"), "x").unwrap();
    uploaded(&server, "bugs", "b.bin", &noise(200)).await;
    assert_eq!(stored(place).len(), 2);
    hand.fetch_add(24 * 3_600 * 1_000_000 + 1, Ordering::Relaxed);
    wait_for_stored(place, 1).await;
    assert_eq!(stored(place), ["inside"]);
});
