//! Uploads that are refused. Nothing of them stays on disk.

use std::io::Write;

use reqwest::Method;
use serde_json::json;

use crate::both;
use crate::support::files::{noise, png, stored, upload, uploaded, wait_for_stored};
use crate::support::{Options, Server, answer_of, raw};

both!(sizes_and_numbers_have_limits, async |place| {
    let options = Options { max_file_bytes: 100_000, max_user_bytes: 150_000, ..Options::default() };
    let server = Server::start_with(place, options).await;
    upload(&server, "bugs", "a", &noise(100_001)).await.problem(413, "file_too_large");
    // A body without an announced length.
    let chunks = futures_util::stream::iter((0..30).map(|_| Ok::<_, std::io::Error>(noise(10_000))));
    let request = server.request(Method::POST, "/api/attachments").header("x-act-as", "bugs");
    answer_of(request.body(reqwest::Body::wrap_stream(chunks))).await.problem(413, "file_too_large");
    upload(&server, "bugs", "a", b"").await.invalid(&["file"]);
    assert_eq!(stored(place), [""; 0]);
    let id = uploaded(&server, "bugs", "a", &noise(100_000)).await;
    upload(&server, "bugs", "a", &noise(50_001)).await.problem(413, "file_quota_exceeded");
    assert_eq!(upload(&server, "bugs", "a", &noise(50_000)).await.status, 201);
    assert_eq!(upload(&server, "duck", "a", &noise(50_001)).await.status, 201);
    let body = |ids: Vec<i64>| json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "x", "attachment_ids": ids});
    for ids in [vec![id; 2], (1..12).collect(), vec![0], vec![-1], vec![id + 1_000], vec![1 << 53]] {
        server.post("/api/messages", &body(ids)).await.invalid(&["attachment_ids"]);
    }
});

both!(names_are_checked, async |place| {
    let server = Server::start(place).await;
    for name in ["..%2Fa", "a%2Fb", "a%5Cb", "a%0D%0Ab", "a%00", "%E2%80%AEgpj.exe", "", "..", &"a".repeat(256)] {
        let request = server
            .request(Method::POST, "/api/attachments")
            .header("x-act-as", "bugs")
            .header("content-disposition", format!("attachment; filename*=UTF-8''{name}"));
        answer_of(request.body("text")).await.invalid(&["file_name"]);
    }
    assert_eq!(stored(place), [""; 0]);
    // Without a name.
    let request = server.request(Method::POST, "/api/attachments").header("x-act-as", "bugs").body("text");
    assert_eq!(answer_of(request).await.json()["file_name"], serde_json::Value::Null);
});

both!(forms_with_more_or_less_than_one_file_are_refused, async |place| {
    let server = Server::start(place).await;
    let post = async |content_type: &str, body: &str| {
        let request = server.request(Method::POST, "/api/attachments").header("x-act-as", "bugs");
        answer_of(request.header("content-type", content_type).body(body.to_owned())).await
    };
    let file = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nabc\r\n--x";
    let form = "multipart/form-data; boundary=x";
    assert_eq!(post(form, &format!("{file}--\r\n")).await.status, 201);
    assert_eq!(post("multipart/form-data; boundary=\"x\"", &format!("{file}--")).await.status, 201);
    post(form, &format!("{file}\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n\r\n--x--"))
        .await
        .invalid(&["file"]);
    let field = "--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc\r\n--x--";
    post(form, field).await.invalid(&["file"]);
    for body in ["", "abc", "--x", "--x--", "--x\r\n\r\nabc\r\n--x--", file, &file[..60], "--y\r\n\r\n\r\n--x--"] {
        post(form, body).await.problem(400, "malformed_form");
    }
    post("multipart/form-data", file).await.problem(400, "malformed_form");
    post("multipart/form-data; boundary=", file).await.problem(400, "malformed_form");
    post(form, &format!("--x\r\n{}", "a: b\r\n".repeat(10_000))).await.problem(400, "malformed_form");
    let part = "--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\na\r\n";
    post(form, &part.repeat(100_000)).await.invalid(&["file"]);
    assert_eq!(stored(place).len(), 1, "the two accepted forms hold the same bytes: {:?}", stored(place));
});

both!(a_cut_upload_leaves_nothing, async |place| {
    let server = Server::start(place).await;
    let head = "POST /api/attachments HTTP/1.1\r\nHost: localhost\r\nX-Act-As: bugs\r\n";
    for framing in ["Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nffff\r\n"] {
        let mut request = format!("{head}{framing}").into_bytes();
        request.extend_from_slice(&noise(50_000));
        let stream = std::net::TcpStream::connect(server.address).unwrap();
        (&stream).write_all(&request).unwrap();
        wait_for_stored(place, 1).await;
        drop(stream);
        wait_for_stored(place, 0).await;
    }
    let answer =
        raw(server.address, format!("{head}Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\na").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
});

both!(an_upload_whose_user_is_erased_meanwhile_leaves_nothing, async |place| {
    let server = Server::start(place).await;
    let head = "POST /api/attachments HTTP/1.1\r\nHost: localhost\r\nX-Act-As: bugs\r\nConnection: close\r\nContent-Length: 10\r\n\r\n01234";
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    wait_for_stored(place, 1).await;
    assert_eq!(server.request(Method::DELETE, "/api/users/bugs").send().await.unwrap().status(), 204);
    stream.write_all(b"56789").unwrap();
    let answer =
        tokio::task::spawn_blocking(move || std::io::read_to_string(stream).unwrap_or_default()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.attachments").await, [[0]]);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.file_usage WHERE user_id > 0").await, [[0]]);
});

both!(pictures_that_cannot_be_decoded_are_refused, async |place| {
    let server = Server::start(place).await;
    let whole = png(300, 300);
    upload(&server, "bugs", "a.png", &whole[..whole.len() / 2]).await.problem(422, "damaged_file");
    // A head that announces 50,000 × 50,000 pixels.
    let mut huge = whole.clone();
    huge[16..20].copy_from_slice(&50_000_u32.to_be_bytes());
    huge[20..24].copy_from_slice(&50_000_u32.to_be_bytes());
    let checksum = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&checksum.to_be_bytes());
    upload(&server, "bugs", "a.png", &huge).await.problem(422, "image_too_large");
    assert_eq!(stored(place), [""; 0]);
});

/// The checksum of PNG.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 })
    })
}
