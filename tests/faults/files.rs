//! Faults while files are uploaded: a full disk, and servers that are killed.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use sha2::{Digest, Sha256};

use super::call;
use super::disk::Disk;
use crate::both;
use crate::support::files::{age_blobs, noise, stored, wait_for_stored};
use crate::support::place::Kind;
use crate::support::process::{Process, Wrapping};
use crate::support::server::{Answer, answer_of};
use crate::support::{Place, Server};

/// The GIFs of the demo would be among the stored files.
const WITHOUT_GIFS: [&str; 2] = ["--gif-provider", "off"];
/// The error of a full disk.
const ENOSPC: i32 = 28;

async fn upload(server: &Process, bytes: &[u8]) -> Answer {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
    let request = client.post(format!("http://{}/api/attachments", server.address)).header("x-act-as", "bugs");
    answer_of(request.body(bytes.to_vec())).await
}

async fn read(server: &Process, id: i64) -> Answer {
    call(server.address, "bugs", Method::GET, &format!("/api/attachments/{id}"), None).await
}

both!(a_full_disk_stores_nothing_of_an_upload, async |place| {
    let disk = Disk::new(place);
    let server = disk.start(place, &WITHOUT_GIFS).await;
    let before = upload(&server, &noise(50_000)).await.json()["id"].as_i64().unwrap();
    let large = noise(900_000);
    let mut rules = vec![
        // At the first byte, after some bytes, and at the sync of a file system that allocates late.
        format!("write .part {ENOSPC} 0 -1 0"),
        format!("write .part {ENOSPC} 2 -1 0"),
        format!("open .part {ENOSPC} 0 -1 0"),
        format!("sync .part {ENOSPC} 0 -1 0"),
    ];
    if place.kind == Kind::Sqlite {
        // The file fits, and the database does not.
        rules.push(format!("write posthaste.db-wal {ENOSPC} 0 -1 0"));
    }
    for rule in rules {
        disk.fail(&rule);
        let answer = upload(&server, &large).await;
        answer.problem(507, "storage_full");
        assert_eq!(stored(place).len(), 1, "{rule}: {:?}", stored(place));
        assert_eq!(read(&server, before).await.bytes, noise(50_000), "{rule}");
        let timeline = call(server.address, "bugs", Method::GET, "/api/messages/bugs", None).await;
        assert_eq!(timeline.status, 200, "{rule}");
        disk.mend();
    }
    // SQLite tries its writes again after a moment.
    for _ in 0..100 {
        let answer = upload(&server, &large).await;
        if answer.status == 201 {
            assert_eq!(read(&server, answer.json()["id"].as_i64().unwrap()).await.bytes, large);
            assert_eq!(stored(place).len(), 2);
            server.terminate().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("uploads fail after the disk has space again");
});

/// Sets the times of all files below a folder back.
fn age(folder: &Path, by: Duration) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path, by);
        } else {
            let file = std::fs::File::options().append(true).open(&path).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            file.set_modified(modified - by).unwrap();
        }
    }
}

both!(a_server_that_is_killed_during_an_upload_leaves_no_bytes, async |place| {
    let arguments = WITHOUT_GIFS.map(str::to_owned).into();
    let server = Process::start_wrapped(place, Wrapping { arguments, ..Wrapping::default() }).await;
    let head = "POST /api/attachments HTTP/1.1\r\nHost: localhost\r\nX-Act-As: bugs\r\nContent-Length: 2000000\r\n\r\n";
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&noise(1_000_000)).unwrap();
    wait_for_stored(place, 1).await;
    server.kill();
    assert_eq!(stored(place).len(), 1, "the unfinished upload");
    age(&place.folder.path().join("uploads"), Duration::from_secs(61));
    let server = Server::start(place).await;
    // The task that counts files writes a small file for a moment.
    wait_for_stored(place, 0).await;
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.blobs").await, [[0]]);
    // A file that was too new at the start is deleted later.
    std::fs::write(place.folder.path().join("uploads/0123456789abcdef-0.part"), b"x").unwrap();
    let blobs = &server.app.files.as_ref().unwrap().blobs;
    blobs.delete_unfinished().await.unwrap();
    assert_eq!(stored(place).len(), 1);
    age(&place.folder.path().join("uploads"), Duration::from_secs(61));
    blobs.delete_unfinished().await.unwrap();
    assert_eq!(stored(place), [""; 0]);
});

both!(a_server_that_is_killed_between_the_bytes_and_the_row_leaves_no_bytes, async |place| {
    let disk = Disk::new(place);
    let server = disk.start(place, &WITHOUT_GIFS).await;
    let bytes = noise(100_000);
    let folder = format!("/files/{:02x}", Sha256::digest(&bytes)[0]);
    // The bytes have their name. The sync of the folder that holds the name waits.
    disk.fail(&format!("sync {folder} 0 0 -1 30000"));
    let url = format!("http://{}/api/attachments", server.address);
    let body = bytes.clone();
    let sending = tokio::spawn(async move {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.post(url).header("x-act-as", "bugs").body(body).send().await.map(|answer| answer.status())
    });
    let named =
        |place: &Place| std::fs::read_dir(place.folder.path().join(&folder[1..])).is_ok_and(|names| names.count() == 1);
    for _ in 0..200 {
        if named(place) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(named(place), "{:?}", stored(place));
    server.kill();
    assert!(sending.await.unwrap().is_err(), "the upload was answered before its bytes were on disk");
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.attachments").await, [[0]]);
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.blobs WHERE state = 'claimed'").await, [[1]]);

    let server = Server::start(place).await;
    assert_eq!(stored(place).len(), 1, "the upload could still be running on another node");
    age_blobs(place).await;
    wait_for_stored(place, 0).await;
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.blobs").await, [[0]]);
    server.stop().await;
});
