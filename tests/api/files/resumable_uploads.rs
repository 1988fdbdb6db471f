//! Resumable uploads with tus 1.0.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use posthaste::base::time::{Clock, Timestamp};
use reqwest::{Method, RequestBuilder};

use crate::both;
use crate::support::files::{noise, png, send_with, stored, wait_for_stored};
use crate::support::people::get;
use crate::support::{Answer, Options, Server, answer_of};

fn tus(server: &Server, user: &str, method: Method, target: &str) -> RequestBuilder {
    server.request(method, target).header("x-act-as", user).header("tus-resumable", "1.0.0")
}

async fn create(server: &Server, user: &str, size_bytes: usize) -> Answer {
    let request = tus(server, user, Method::POST, "/api/uploads").header("upload-length", size_bytes);
    // "a big file.bin"
    answer_of(request.header("upload-metadata", "filetype dGV4dA==,filename YSBiaWcgZmlsZS5iaW4=,empty")).await
}

/// Creates an upload that must be accepted, and returns its path.
async fn created(server: &Server, user: &str, size_bytes: usize) -> String {
    let answer = create(server, user, size_bytes).await;
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
    answer.header("location").unwrap().to_owned()
}

async fn add(server: &Server, user: &str, path: &str, offset: usize, bytes: &[u8]) -> Answer {
    let request = tus(server, user, Method::PATCH, path)
        .header("upload-offset", offset)
        .header("content-type", "application/offset+octet-stream");
    answer_of(request.body(bytes.to_vec())).await
}

async fn offset(server: &Server, user: &str, path: &str) -> usize {
    let answer = answer_of(tus(server, user, Method::HEAD, path)).await;
    assert_eq!(answer.status, 200);
    answer.header("upload-offset").unwrap().parse().unwrap()
}

both!(an_upload_of_100_mb_that_is_cut_ten_times_arrives_byte_for_byte, async |place| {
    let server = Server::start(place).await;
    let bytes = noise(100_000_000);
    let path = created(&server, "bugs", bytes.len()).await;
    let mut sent = 0;
    for cut in 1..=10 {
        // Announces all that is missing, and sends only a part of it.
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nX-Act-As: bugs\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {sent}\r\n\
             Content-Type: application/offset+octet-stream\r\nContent-Length: {}\r\n\r\n",
            bytes.len() - sent
        );
        let part = &bytes[sent..(cut * 9_111_111).max(sent + 1)];
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(part).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        drop(stream.read(&mut [0; 1]));
        drop(stream);
        let mut now = offset(&server, "bugs", &path).await;
        for _ in 0..100 {
            if now > sent {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            now = offset(&server, "bugs", &path).await;
        }
        assert!(now > sent, "nothing of part {cut} counts");
        assert!(now <= sent + part.len());
        sent = now;
    }
    let last = add(&server, "bugs", &path, sent, &bytes[sent..]).await;
    assert_eq!(last.status, 200, "{}", String::from_utf8_lossy(&last.bytes));
    assert_eq!(last.header("upload-offset"), Some("100000000"));
    let attachment = last.json();
    assert_eq!(attachment["file_name"], "a big file.bin");
    let file = get(&server, "bugs", attachment["url"].as_str().unwrap()).await;
    assert!(file.bytes == bytes, "the file differs from what was sent");
    // The answer can be asked for again, and only the file is left.
    let again = add(&server, "bugs", &path, bytes.len(), b"").await;
    assert_eq!((again.status.as_u16(), again.json()), (200, attachment));
    wait_for_stored(place, 1).await;
});

both!(an_upload_goes_on_after_a_restart, async |place| {
    let server = Server::start(place).await;
    let bytes = png(300, 200);
    let path = created(&server, "bugs", bytes.len()).await;
    let half = bytes.len() / 2;
    let first = add(&server, "bugs", &path, 0, &bytes[..half]).await;
    assert_eq!((first.status.as_u16(), first.header("upload-offset")), (204, Some(half.to_string().as_str())));
    server.stop().await;
    let server = Server::start(place).await;
    assert_eq!(offset(&server, "bugs", &path).await, half);
    let attachment = add(&server, "bugs", &path, half, &bytes[half..]).await.json();
    assert_eq!((attachment["width"].as_i64(), attachment["content_type"].as_str()), (Some(300), Some("image/png")));
    let sent = send_with(&server, "bugs", "duck", &[attachment["id"].as_i64().unwrap()]).await;
    assert_eq!(sent["attachments"][0], attachment);
});

both!(wrong_requests_are_refused, async |place| {
    let options = Options { max_file_bytes: 1_000_000, max_user_bytes: 1_500_000, ..Options::default() };
    let server = Server::start_with(place, options).await;
    create(&server, "bugs", 1_000_001).await.problem(413, "file_too_large");
    create(&server, "bugs", 0).await.invalid(&["Upload-Length"]);
    let request = tus(&server, "bugs", Method::POST, "/api/uploads");
    answer_of(request).await.invalid(&["Upload-Length"]);
    let request = tus(&server, "bugs", Method::POST, "/api/uploads").header("upload-length", "5");
    answer_of(request.header("upload-metadata", "filename ###")).await.invalid(&["Upload-Metadata"]);
    let request = tus(&server, "bugs", Method::POST, "/api/uploads").header("upload-length", "5");
    // "../a"
    answer_of(request.header("upload-metadata", "filename Li4vYQ==")).await.invalid(&["file_name"]);
    let request = server.request(Method::POST, "/api/uploads").header("x-act-as", "bugs").header("upload-length", "5");
    let old = answer_of(request.header("tus-resumable", "0.2.2")).await;
    old.problem(412, "unsupported_tus_version");
    assert_eq!(old.header("tus-version"), Some("1.0.0"));
    let path = created(&server, "bugs", 10).await;
    add(&server, "bugs", &path, 3, b"abc").await.problem(409, "upload_offset_mismatch");
    add(&server, "bugs", &path, 0, &noise(11)).await.problem(413, "file_too_large");
    assert_eq!(offset(&server, "bugs", &path).await, 0);
    add(&server, "duck", &path, 0, b"abc").await.problem(404, "upload_not_found");
    assert_eq!(answer_of(tus(&server, "duck", Method::HEAD, &path)).await.status, 404);
    let request = tus(&server, "bugs", Method::PATCH, &path).header("upload-offset", "0").body("abc");
    let encoded = request.try_clone().unwrap().header("content-type", "application/offset+octet-stream");
    answer_of(encoded.header("content-encoding", "gzip")).await.problem(415, "unsupported_media_type");
    answer_of(request).await.problem(415, "unsupported_media_type");
    for _ in 1..10 {
        created(&server, "bugs", 10).await;
    }
    create(&server, "bugs", 10).await.problem(409, "too_many_open_uploads");
    assert_eq!(answer_of(tus(&server, "bugs", Method::DELETE, &path)).await.status, 204);
    add(&server, "bugs", &path, 0, b"abc").await.problem(404, "upload_not_found");
    let path = created(&server, "bugs", 40).await;
    // A picture that ends too early cannot become one.
    add(&server, "bugs", &path, 0, &png(50, 50)[..40]).await.problem(422, "damaged_file");
    wait_for_stored(place, 0).await;
    assert_eq!(stored(place), [""; 0]);
});

both!(a_repeated_creation_with_its_key_creates_one_upload, async |place| {
    let server = Server::start(place).await;
    let create = async |size_bytes: usize| {
        let request = tus(&server, "bugs", Method::POST, "/api/uploads").header("upload-length", size_bytes);
        answer_of(request.header("idempotency-key", "k")).await
    };
    let first = create(10).await;
    assert_eq!(first.status, 201);
    assert_eq!(create(10).await.bytes, first.bytes);
    create(11).await.problem(422, "idempotency_key_reused");
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.resumable_uploads").await, [[1]]);
});

both!(an_upload_that_is_not_completed_expires, async |place| {
    let hand = Arc::new(AtomicI64::new(Timestamp::parse("2026-11-22T08:30:00Z").unwrap().micros()));
    let options = Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() };
    let server = Server::start_with(place, options).await;
    let path = created(&server, "bugs", 1_000).await;
    assert_eq!(add(&server, "bugs", &path, 0, &noise(500)).await.status, 204);
    assert_eq!(stored(place).len(), 1);
    hand.fetch_add(24 * 3_600 * 1_000_000 + 1, Ordering::Relaxed);
    assert_eq!(answer_of(tus(&server, "bugs", Method::HEAD, &path)).await.status, 404);
    wait_for_stored(place, 0).await;
});

both!(a_request_that_comes_while_another_one_completes_the_upload_is_told_to_try_again, async |place| {
    let server = Server::start(place).await;
    let path = created(&server, "bugs", 10).await;
    assert_eq!(add(&server, "bugs", &path, 0, b"0123456789").await.status, 200);
    // As the second request sees the upload: the first one has used the parts, and has not recorded the attachment yet.
    place.sql("UPDATE messaging.resumable_uploads SET attachment_id = NULL").await;
    add(&server, "bugs", &path, 10, b"").await.problem(503, "unavailable");
    assert_eq!(offset(&server, "bugs", &path).await, 10);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.attachments").await, [[1]]);
});

both!(what_arrived_before_a_connection_broke_counts, async |place| {
    let server = Server::start(place).await;
    let bytes = noise(3_000_000);
    let path = created(&server, "bugs", bytes.len()).await;
    let head = |offset: usize| {
        format!(
            "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nX-Act-As: bugs\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {offset}\r\n\
             Content-Type: application/offset+octet-stream\r\nContent-Length: {}\r\n\r\n",
            bytes.len() - offset
        )
    };
    let wait = async |least: usize| {
        for _ in 0..200 {
            let now = offset(&server, "bugs", &path).await;
            if now >= least {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{} bytes count", offset(&server, "bugs", &path).await);
    };
    // The client is gone before the answer, once in the middle of the body and once right after its last byte.
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(head(0).as_bytes()).unwrap();
    stream.write_all(&bytes[..1_000_000]).unwrap();
    // The server has read what its buffers held.
    wait_for_stored(place, 1).await;
    drop(stream);
    let sent = wait(1).await;
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(head(sent).as_bytes()).unwrap();
    stream.write_all(&bytes[sent..]).unwrap();
    drop(stream);
    wait(bytes.len()).await;
    for _ in 0..200 {
        let answer = add(&server, "bugs", &path, bytes.len(), b"").await;
        if answer.status == 200 {
            assert!(get(&server, "bugs", answer.json()["url"].as_str().unwrap()).await.bytes == bytes);
            return;
        }
        answer.problem(503, "unavailable");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the upload has no attachment");
});
