//! Files in backups, restores and the checks of `posthaste doctor`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use posthaste::base::time::Clock;
use posthaste::blobs::{Blobs, Location};
use posthaste::domain::files::{copies, inventory, sweep};
use posthaste::store::db::copy::PartialBackup;
use posthaste::store::driver::environment::Environment;
use reqwest::Method;
use serde_json::Value;

use crate::both;
use crate::operations::operations::{posthaste, text};
use crate::support::files::{noise, png, send_with, stored, upload, uploaded, wait_for_stored};
use crate::support::people::{delete, get};
use crate::support::place::Kind;
use crate::support::{Options, Place, Server, answer_of};

/// A server with a picture (two blobs) and a file in one message.
async fn with_files(place: &Place) -> (Server, [i64; 2], Value) {
    let server = Server::start(place).await;
    let picture = uploaded(&server, "bugs", "a.png", &png(50, 50)).await;
    let file = uploaded(&server, "bugs", "b.bin", &noise(300_000)).await;
    let message = send_with(&server, "bugs", "duck", &[picture, file]).await;
    (server, [picture, file], message)
}

fn path_of(message: &Value) -> String {
    format!("/api/conversations/{}/messages/{}", message["conversation_id"], message["seq"])
}

/// Runs a command that must succeed, and returns its output.
#[track_caller]
fn succeeds(place: &Place, arguments: &[&str]) -> String {
    let output = posthaste(place, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// Runs a command that must fail, and returns its output.
#[track_caller]
fn fails(place: &Place, arguments: &[&str]) -> String {
    let output = posthaste(place, arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// The files below a folder, without folders.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(&path).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn largest(folder: &Path) -> PathBuf {
    files_in(folder).into_iter().max_by_key(|file| file.metadata().unwrap().len()).unwrap()
}

/// Changes one bit of a file.
fn damage(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[100] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

both!(a_backup_has_the_files_and_a_restore_puts_them_back, async |place| {
    let (server, [picture, file], message) = with_files(place).await;
    let backups = tempfile::tempdir().unwrap();
    let backup = backups.path().join("backup");
    let name = backup.to_str().unwrap();
    let said = succeeds(place, &["backup", name]);
    assert!(said.contains("Copied 3 files"), "{said}");
    let names: Vec<_> =
        files_in(backups.path()).iter().map(|path| path.strip_prefix(backups.path()).unwrap().to_owned()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(
        names.iter().filter(|name| name.starts_with("backup.files")).all(|name| name.iter().count() == 3),
        "{names:?}"
    );
    assert!(fails(place, &["backup", name]).contains("exists already"));
    let said = succeeds(place, &["doctor", "--deep", "--backup", name]);
    assert!(said.contains("3 files") && said.contains("SHA-256 compared"), "{said}");

    // Everything is deleted, and another file is stored. The server keeps running.
    assert_eq!(delete(&server, "bugs", &path_of(&message)).await.status, 204);
    wait_for_stored(place, 0).await;
    let later = uploaded(&server, "duck", "later", &noise(70)).await;
    let said = succeeds(place, &["restore", "--yes", name]);
    assert!(said.contains("Copied 3 files"), "{said}");
    assert_eq!(stored(place).len(), 4, "a restore deletes nothing: {:?}", stored(place));
    assert_eq!(get(&server, "duck", &format!("/api/attachments/{file}")).await.bytes, noise(300_000));
    assert_eq!(get(&server, "duck", &format!("/api/attachments/{picture}/thumbnail")).await.status, 200);
    get(&server, "duck", &format!("/api/attachments/{later}")).await.problem(404, "attachment_not_found");
    let timeline = get(&server, "duck", "/api/messages/duck?with=bugs").await.json();
    let held = timeline.as_array().unwrap().iter().find(|found| found["id"] == message["id"]).unwrap();
    assert_eq!(held["attachments"], message["attachments"]);
    let well = succeeds(place, &["doctor", "--deep"]);
    assert!(well.contains("3 files"), "{well}");
    // The restored rows are used like any others.
    assert_eq!(delete(&server, "bugs", &path_of(&message)).await.status, 204);
    wait_for_stored(place, 1).await;
});

both!(files_go_into_the_other_database, async |place| {
    let (server, [_, file], message) = with_files(place).await;
    let backup = place.folder.path().join("backup");
    succeeds(place, &["backup", backup.to_str().unwrap()]);
    server.stop().await;
    let other = Place::new(if place.kind == Kind::Sqlite { Kind::Postgres } else { Kind::Sqlite }).await;
    succeeds(&other, &["restore", "--yes", backup.to_str().unwrap()]);
    let server = Server::start(&other).await;
    assert_eq!(get(&server, "duck", &format!("/api/attachments/{file}")).await.bytes, noise(300_000));
    assert_eq!(stored(&other).len(), 3);
    assert_eq!(delete(&server, "bugs", &path_of(&message)).await.status, 204);
    wait_for_stored(&other, 0).await;
    server.stop().await;
    other.remove().await;
});

both!(a_backup_with_damaged_files_replaces_nothing, async |place| {
    let (server, [_, file], message) = with_files(place).await;
    let backup = place.folder.path().join("backup");
    let name = backup.to_str().unwrap();
    succeeds(place, &["backup", name]);
    let folder = copies::folder_of(&backup);
    let large = largest(&folder);
    let whole = std::fs::read(&large).unwrap();
    assert_eq!(delete(&server, "bugs", &path_of(&message)).await.status, 204);
    wait_for_stored(place, 0).await;

    damage(&large);
    let said = fails(place, &["restore", "--yes", name]);
    assert!(said.contains("0 files of the backup are missing and 1 are damaged"), "{said}");
    assert!(said.contains("nothing was restored") && said.contains("--without-files"), "{said}");
    assert!(fails(place, &["doctor", "--deep", "--backup", name]).contains("1 are damaged"));
    std::fs::remove_file(&large).unwrap();
    assert!(fails(place, &["restore", "--yes", name]).contains("1 files of the backup are missing and 0 are damaged"));
    assert!(fails(place, &["doctor", "--backup", name]).contains("1 of 3 files are missing"));
    let moved = backup.with_extension("moved");
    std::fs::rename(&folder, &moved).unwrap();
    assert!(fails(place, &["restore", "--yes", name]).contains("backup.files is missing"));
    assert!(succeeds(place, &["doctor", "--backup", name]).contains("3 files of this backup"));
    get(&server, "bugs", &format!("/api/attachments/{file}")).await.problem(404, "attachment_not_found");
    assert_eq!(stored(place), [""; 0]);

    // The database alone: the messages show the files, whose bytes are lost.
    let said = succeeds(place, &["restore", "--yes", name, "--without-files"]);
    assert!(said.contains("3 files are not in"), "{said}");
    let timeline = get(&server, "duck", "/api/messages/duck?with=bugs").await.json();
    assert!(timeline.as_array().unwrap().iter().any(|found| found["attachments"] == message["attachments"]));
    get(&server, "duck", &format!("/api/attachments/{file}")).await.problem(410, "file_lost");
    get(&server, "porky", &format!("/api/attachments/{file}")).await.problem(404, "attachment_not_found");
    let said = succeeds(place, &["doctor"]);
    assert!(said.contains("3 files were not there"), "{said}");
    // An upload of the same bytes brings them back.
    assert_eq!(upload(&server, "porky", "again", &whole).await.status, 201);
    assert_eq!(get(&server, "duck", &format!("/api/attachments/{file}")).await.bytes, whole);
});

both!(a_backup_can_leave_files_out, async |place| {
    let (server, [_, file], _) = with_files(place).await;
    let backup = place.folder.path().join("backup");
    let name = backup.to_str().unwrap();
    let said = succeeds(place, &["backup", name, "--without-files"]);
    assert!(said.contains("3 files (") && said.contains("are not in the backup"), "{said}");
    assert!(!copies::folder_of(&backup).exists());
    assert!(fails(place, &["restore", "--yes", name]).contains("--without-files"));
    succeeds(place, &["restore", "--yes", name, "--without-files"]);
    // The bytes are still in the folder of the server.
    assert_eq!(get(&server, "duck", &format!("/api/attachments/{file}")).await.bytes, noise(300_000));
    assert!(fails(place, &["backup", "-"]).contains("standard output"));
});

both!(a_backup_of_lost_files_is_an_error, async |place| {
    let (server, [_, file], _) = with_files(place).await;
    let files = place.folder.path().join("files");
    let backups = tempfile::tempdir().unwrap();
    let backup = backups.path().join("backup");
    let name = backup.to_str().unwrap();
    let large = largest(&files);
    damage(&large);
    let said = fails(place, &["doctor", "--deep"]);
    assert!(said.contains("0 of 3 files are missing and 1 are damaged"), "{said}");
    assert!(succeeds(place, &["doctor"]).contains("content not compared (use --deep)"));
    assert!(fails(place, &["backup", name]).contains("0 files are missing and 1 are damaged"));
    std::fs::remove_file(&large).unwrap();
    assert!(fails(place, &["doctor"]).contains("1 of 3 files are missing"));
    assert!(fails(place, &["backup", name]).contains("1 files are missing"));
    assert_eq!(std::fs::read_dir(backups.path()).unwrap().count(), 0, "{:?}", files_in(backups.path()));
    get(&server, "duck", &format!("/api/attachments/{file}")).await.problem(410, "file_lost");

    let said = succeeds(place, &["backup", name, "--skip-lost-files"]);
    assert!(said.contains("Copied 2 files") && said.contains("1 missing and 0 damaged"), "{said}");
    succeeds(place, &["restore", "--yes", name]);
    get(&server, "duck", &format!("/api/attachments/{file}")).await.problem(410, "file_lost");
});

both!(a_file_that_is_deleted_during_a_backup_is_not_an_error, async |place| {
    let (server, [picture, file], message) = with_files(place).await;
    let kept = uploaded(&server, "duck", "kept", &noise(500)).await;
    send_with(&server, "duck", "bugs", &[kept]).await;
    let backup = place.folder.path().join("backup");
    let environment = || Environment { allow_unsafe_storage: true, ..Environment::new(Clock::System) };
    let partial = PartialBackup::copy(&place.location(), &backup, environment(), &mut |_| ()).await.unwrap();
    assert_eq!(delete(&server, "bugs", &path_of(&message)).await.status, 204);
    wait_for_stored(place, 1).await;
    let source = Blobs::open_to_read(&Location::Folder(place.folder.path().join("files"))).await.unwrap();
    let copied = copies::back_up(&partial, &server.app.db, &source, false, &mut |_| ()).await.unwrap();
    assert_eq!((copied.files, copied.deleted_meanwhile), (1, 3));
    partial.publish(&mut |_| ()).unwrap();

    succeeds(place, &["restore", "--yes", backup.to_str().unwrap()]);
    assert_eq!(get(&server, "bugs", &format!("/api/attachments/{kept}")).await.bytes, noise(500));
    for lost in [picture, file] {
        get(&server, "duck", &format!("/api/attachments/{lost}")).await.problem(410, "file_lost");
    }
    // Deleting the message of a lost file works.
    assert_eq!(delete(&server, "bugs", &path_of(&message)).await.status, 204);
    for _ in 0..100 {
        if place.numbers("SELECT count(*) FROM messaging.blobs").await == [[1]] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the rows of lost files stay");
});

both!(stored_bytes_without_a_row_are_deleted_after_a_day, async |place| {
    let hour_micros = 3_600 * 1_000_000;
    let hand = Arc::new(AtomicI64::new(Clock::System.now().micros() + 23 * hour_micros));
    let server =
        Server::start_with(place, Options { clock: Clock::Manual(Arc::clone(&hand)), ..Options::default() }).await;
    let file = uploaded(&server, "bugs", "b.bin", &noise(300_000)).await;
    send_with(&server, "bugs", "duck", &[file]).await;
    let folder = place.folder.path().join("files/ab");
    std::fs::create_dir_all(&folder).unwrap();
    let plant = |name: &str| {
        let path = folder.join(name);
        std::fs::write(&path, b"orphan").unwrap();
        path
    };
    let taken = place.numbers("SELECT min(id) FROM messaging.blobs").await[0][0];
    let orphan = plant(&format!("{}.1000", "ab".repeat(32)));
    let same_id = plant(&format!("{}.{taken}", "ab".repeat(32)));
    let foreign = plant("notes.txt");
    let app = &server.app;
    let files = app.files.as_ref().unwrap();
    let found = inventory::find_orphans(&app.db, &files.blobs, app.clock.now(), 1).await.unwrap();
    assert_eq!((found.listed, found.count, found.size_bytes, found.first.len()), (3, 2, 12, 1));
    assert!(sweep::delete_orphans(app, files).await.unwrap());
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(orphan.exists() && same_id.exists(), "younger than a day");
    hand.fetch_add(2 * hour_micros, Ordering::Relaxed);
    assert!(sweep::delete_orphans(app, files).await.unwrap());
    wait_for_stored(place, 2).await;
    assert!(foreign.exists() && !orphan.exists() && !same_id.exists());
    assert_eq!(get(&server, "duck", &format!("/api/attachments/{file}")).await.bytes, noise(300_000));
    // No upload gets the id of an orphan.
    let next = uploaded(&server, "bugs", "next", &noise(20)).await;
    assert_eq!(get(&server, "bugs", &format!("/api/attachments/{next}")).await.bytes, noise(20));
    assert!(place.numbers("SELECT max(id) FROM messaging.blobs").await[0][0] > 1_000);
});

both!(the_files_of_an_erased_user_leave_no_trace, async |place| {
    let server = Server::start(place).await;
    let bytes = [b"secret-content".repeat(20), noise(64)].concat();
    let sent = uploaded(&server, "bugs", "secret-name.bin", &bytes).await;
    uploaded(&server, "bugs", "secret-name-2.bin", &noise(200)).await;
    send_with(&server, "bugs", "duck", &[sent]).await;
    assert!(place.everything().await.contains("secret-name"), "the search itself works");
    let erased = server.request(Method::DELETE, "/api/users/bugs?messages=delete").send().await.unwrap();
    assert_eq!(erased.status(), 204);
    wait_for_stored(place, 0).await;
    for _ in 0..50 {
        if !place.everything().await.contains("secret-name") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!place.everything().await.contains("secret-name"));
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.attachments").await, [[0]]);
});

both!(an_export_lists_the_uploads, async |place| {
    let (server, ids, message) = with_files(place).await;
    uploaded(&server, "duck", "theirs.bin", &noise(40)).await;
    let export = answer_of(server.request(Method::GET, "/api/users/bugs/export")).await;
    let lines: Vec<Value> =
        export.bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let attachments: Vec<&Value> =
        lines.iter().filter(|line| line["type"] == "attachment").map(|line| &line["data"]).collect();
    assert_eq!(attachments.iter().map(|found| found["id"].as_i64().unwrap()).collect::<Vec<_>>(), ids);
    for (found, held) in attachments.iter().zip(message["attachments"].as_array().unwrap()) {
        let mut found = (*found).clone();
        assert!(found["uploaded_at"].is_string(), "{found}");
        found.as_object_mut().unwrap().remove("uploaded_at");
        assert_eq!(found, *held);
    }
});

both!(files_are_counted, async |place| {
    let (server, ..) = with_files(place).await;
    upload(&server, "bugs", "a", b"").await.invalid(&["file"]);
    let files = server.get("/api/admin/stats").await.json()["files"].clone();
    let bytes: u64 =
        files_in(&place.folder.path().join("files")).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!((files["count"].as_i64(), files["size_bytes"].as_u64()), (Some(3), Some(bytes)));
    let metrics = String::from_utf8(server.get("/metrics").await.bytes).unwrap();
    for line in ["posthaste_uploads_total{outcome=\"stored\"} 2", "posthaste_uploads_total{outcome=\"refused\"} 1"] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    server.stop().await;
    let server = Server::start(place).await;
    for _ in 0..100 {
        let metrics = String::from_utf8(server.get("/metrics").await.bytes).unwrap();
        if metrics.contains("posthaste_files 3\n") && metrics.contains(&format!("posthaste_files_size_bytes {bytes}\n"))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the files are not counted at the start");
});
