//! What a server says and refuses at its start, the page at `/`, and the permissions of the files that it creates.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::operations::{posthaste, text};
use crate::both;
use crate::support::callers::secured;
use crate::support::place::Kind;
use crate::support::process::{self, Process, Wrapping};
use crate::support::{Options, Place, Server};

/// Runs `posthaste serve` until it listens or ends. Returns whether it listened, and its log.
async fn serve(place: &Place, arguments: &[&str]) -> (bool, String) {
    let log = place.folder.path().join("start.log");
    drop(std::fs::remove_file(&log));
    let mut words = vec![env!("CARGO_BIN_EXE_posthaste"), "serve"];
    if !arguments.contains(&"--listen") {
        words.extend(["--listen", "127.0.0.1:0"]);
    }
    let (url, folder) = (place.url(), place.folder.path().display().to_string());
    words.extend(["--database-url", &url, "--data-dir", &folder]);
    words.extend(arguments);
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    let mut child = process::start(&words, &log);
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(60);
    let listened = loop {
        if process::listening_on(&read()).is_some() {
            // The lines after this one are written immediately.
            tokio::time::sleep(Duration::from_millis(200)).await;
            break true;
        }
        if child.try_wait().unwrap().is_some() {
            break false;
        }
        assert!(Instant::now() < deadline, "{}", read());
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    drop(child.kill());
    drop(child.wait());
    (listened, read())
}

both!(open_access_to_existing_accounts_needs_a_second_word, async |place| {
    // A demo, and data of a server that was never anything but open, may be opened again.
    for flag in ["--demo", "--demo", "--open", "--demo"] {
        let (listened, log) = serve(place, &[flag]).await;
        assert!(listened, "{flag}: {log}");
    }
    // From the first start with secured access on, the users are accounts.
    let (listened, log) = serve(place, &[]).await;
    assert!(listened, "{log}");
    for flag in ["--demo", "--open"] {
        let (listened, log) = serve(place, &[flag]).await;
        assert!(!listened && log.contains("has accounts") && log.contains("--allow-open-existing"), "{flag}: {log}");
        let (listened, log) = serve(place, &[flag, "--allow-open-existing"]).await;
        assert!(listened, "{flag}: {log}");
    }
    // One permission does not last.
    assert!(!serve(place, &["--demo"]).await.0);
});

both!(accounts_of_the_command_line_are_not_opened, async |place| {
    assert!(posthaste(place, &["admin", "create-user", "--user-name", "ada", "--admin"]).status.success());
    for flag in ["--demo", "--open"] {
        let (listened, log) = serve(place, &[flag]).await;
        assert!(!listened && log.contains("--allow-open-existing"), "{flag}: {log}");
    }
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.users").await, [[1]]);
});

both!(the_start_says_what_to_do_next, async |place| {
    let (_, log) = serve(place, &[]).await;
    let port = process::listening_on(&log).unwrap().port();
    assert!(log.contains(&format!("http://127.0.0.1:{port}/docs")), "{log}");
    let hint = log.lines().find(|line| line.contains("there are no users yet")).unwrap_or_default();
    assert!(hint.contains("posthaste admin create-user") && hint.contains("--admin"), "{log}");
    if place.kind == Kind::Sqlite {
        let folder = place.folder.path().display().to_string();
        assert!(hint.contains(&format!("--data-dir {folder} ")), "{hint}");
    } else {
        assert!(!hint.contains("127.0.0.1"), "the URL of PostgreSQL can hold a password: {hint}");
    }
    assert!(posthaste(place, &["admin", "create-user", "--user-name", "ada", "--admin"]).status.success());
    let (_, log) = serve(place, &["--listen", "0.0.0.0:0"]).await;
    assert!(!log.contains("there are no users yet"), "{log}");
    let port = process::listening_on(&log).unwrap().port();
    assert!(log.contains(&format!("http://127.0.0.1:{port}/docs")), "{log}");
    let (_, log) = serve(place, &["--public-url", "https://chat.example.org/"]).await;
    assert!(log.contains("https://chat.example.org/docs"), "{log}");
});

both!(the_page_at_the_root_leads_on, async |place| {
    for options in [Options::default(), Options { demo: false, ..secured() }] {
        let server = Server::start_with(place, options).await;
        let page = server.get("/").await;
        assert_eq!(page.status, 200);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe") && !policy.contains("http"));
        let html = String::from_utf8(page.bytes.clone()).unwrap();
        assert!(!html.contains("//") && !html.contains("src=") && !html.contains("style"), "{html}");
        let targets: Vec<&str> = html.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(targets.contains(&"/docs/") && targets.contains(&"/openapi.json"), "{targets:?}");
        for target in targets {
            assert_eq!(server.get(target).await.status, 200, "{target}");
        }
        server.get("/?x=1").await;
    }
});

/// The permissions of a file or folder.
fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

both!(only_the_owner_can_use_the_files, async |place| {
    let data = place.folder.path().join("new");
    let database = match place.kind {
        Kind::Sqlite => format!("sqlite:{}", data.join("posthaste.db").display()),
        Kind::Postgres => place.url(),
    };
    let blobs = format!("file:{}", data.join("files").display());
    let wrapping = Wrapping {
        preamble: "umask 000",
        arguments: vec!["--blob-url".to_owned(), blobs.clone()],
        database_url: Some(database.clone()),
        ..Wrapping::default()
    };
    let server = Process::start_wrapped(place, wrapping).await;
    let backup = place.folder.path().join("backup.db");
    let script = format!("umask 000; exec {} backup {}", env!("CARGO_BIN_EXE_posthaste"), backup.display());
    let backed_up = std::process::Command::new("sh")
        .args(["-c", &script])
        .env("POSTHASTE_DATABASE_URL", &database)
        .env("POSTHASTE_BLOB_URL", &blobs)
        .output()
        .unwrap();
    assert!(backed_up.status.success(), "{}", text(&backed_up));
    assert_eq!(mode(&backup), 0o600);
    let files = place.folder.path().join("backup.db.files");
    let mut open = vec![files, data.join("files"), place.folder.path().join("uploads")];
    if place.kind == Kind::Sqlite {
        open.push(data.clone());
        for suffix in ["", "-wal", "-shm", "-state"] {
            assert_eq!(mode(&data.join(format!("posthaste.db{suffix}"))), 0o600, "{suffix}");
        }
    }
    while let Some(path) = open.pop() {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), wanted, "{}", path.display());
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    server.terminate().await;
});

both!(the_doctor_reports_files_that_others_can_use, async |place| {
    Server::start(place).await.stop().await;
    std::fs::set_permissions(place.folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let folder = place.folder.path().join("files");
    let mut wrong = vec![(folder, 0o755, "chmod 700")];
    if place.kind == Kind::Sqlite {
        wrong.push((place.sqlite_file(), 0o644, "chmod 600"));
        wrong.push((place.folder.path().to_owned(), 0o755, "chmod 700"));
    }
    for (path, set, advice) in wrong {
        std::fs::create_dir_all(place.folder.path().join("files")).unwrap();
        let before = mode(&path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(set)).unwrap();
        let said = text(&posthaste(place, &["doctor"]));
        let line = said.lines().find(|line| line.starts_with("note ") && line.contains("other users"));
        let line = line.unwrap_or_else(|| panic!("{}: {said}", path.display()));
        assert!(line.contains(&format!("{advice} {}", path.display())), "{line}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(before & 0o700)).unwrap();
    }
});
