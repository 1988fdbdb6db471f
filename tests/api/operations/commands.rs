//! The commands beside a server: which database they use, what they print where, and what they refuse.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::operations::{posthaste, text};
use crate::both;
use crate::support::callers::{Caller, secured};
use crate::support::place::Kind;
use crate::support::{Options, Place, Server};

/// Runs a command with variables.
pub fn with_variables(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(arguments)
        .env("POSTHASTE_DATABASE_URL", place.url())
        .env("POSTHASTE_DATA_DIR", place.folder.path())
        .envs(variables.iter().copied())
        .current_dir(place.folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Whether the tests run as root.
fn is_root() -> bool {
    String::from_utf8(Command::new("id").arg("-u").output().unwrap().stdout).unwrap().trim() == "0"
}

/// Whether the place has a database.
async fn has_database(place: &Place) -> bool {
    match place.kind {
        Kind::Sqlite => std::fs::read_dir(place.folder.path()).unwrap().next().is_some(),
        Kind::Postgres => {
            let sql = "SELECT count(*) FROM information_schema.schemata WHERE schema_name = 'messaging'";
            place.numbers(sql).await != [[0]]
        }
    }
}

both!(commands_beside_a_server_create_no_database, async |place| {
    for words in [
        &["api-key", "create", "--name", "shop"][..],
        &["api-key", "list"],
        &["api-key", "revoke", "1"],
        &["admin", "list-users"],
        &["admin", "reset-password", "--user-name", "ada"],
        &["admin", "set-role", "--user-name", "ada", "--role", "admin"],
        &["admin", "ban", "--user-name", "ada"],
        &["admin", "unban", "--user-name", "ada"],
    ] {
        let refused = posthaste(place, words);
        assert_eq!(refused.status.code(), Some(1), "{words:?}: {}", text(&refused));
        assert!(refused.stdout.is_empty(), "{words:?}: {}", text(&refused));
        let sentence = text(&refused);
        assert!(sentence.contains("has no data of Posthaste") && sentence.contains("--data-dir"), "{sentence}");
        assert!(!has_database(place).await, "{words:?} has created a database");
    }
    // These look at what is there, and create nothing either.
    posthaste(place, &["doctor"]);
    posthaste(place, &["config", "check"]);
    assert!(!posthaste(place, &["backup", "/dev/null/x"]).status.success());
    assert!(!has_database(place).await);

    let refused = posthaste(place, &["admin", "create-user", "--user-name", "a b"]);
    assert!(!refused.status.success() && !has_database(place).await, "{}", text(&refused));
    // An empty file is no database either, and stays empty.
    let empty = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", empty.path().join("posthaste.db").display());
    std::fs::write(empty.path().join("posthaste.db"), "").unwrap();
    for words in [&["api-key", "list"][..], &["doctor"]] {
        with_variables(place, words, &[("POSTHASTE_DATABASE_URL", &url)]);
        assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 1, "{words:?}");
        assert_eq!(std::fs::metadata(empty.path().join("posthaste.db")).unwrap().len(), 0, "{words:?}");
    }

    let made = posthaste(place, &["admin", "create-user", "--user-name", "ada", "--admin"]);
    assert!(made.status.success() && text(&made).starts_with("New database: "), "{}", text(&made));
    let named = if place.kind == Kind::Sqlite { "posthaste.db" } else { &place.database };
    for words in [&["api-key", "create", "--name", "shop"][..], &["admin", "list-users"], &["api-key", "list"]] {
        let done = posthaste(place, words);
        let note = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && note.starts_with("Database: ") && note.contains(named), "{note}");
    }
    let key = posthaste(place, &["api-key", "create", "--name", "shop"]);
    let server = Server::start_with(place, Options { demo: false, ..secured() }).await;
    let key = String::from_utf8(key.stdout).unwrap();
    assert_eq!(Caller::new(&server, key.trim_end()).get("/api/users").await.status, 200);
});

both!(root_creates_nothing_in_the_folder_of_another_user, async |place| {
    if !is_root() || place.kind != Kind::Sqlite {
        return;
    }
    std::os::unix::fs::chown(place.folder.path(), Some(54_321), None).unwrap();
    let refused = posthaste(place, &["admin", "create-user", "--user-name", "ada"]);
    assert!(!refused.status.success() && text(&refused).contains("sudo -u '#54321'"), "{}", text(&refused));
    assert!(!has_database(place).await);
});

both!(an_account_without_a_password_is_said_to_have_none, async |place| {
    let made = posthaste(place, &["admin", "create-user", "--user-name", "ada", "--admin"]);
    assert!(text(&made).contains("has no password") && text(&made).contains("reset-password"), "{}", text(&made));
});

both!(an_earlier_schema_is_upgraded_by_a_server_only, async |place| {
    Server::start(place).await.stop().await;
    let newest = place.numbers("SELECT max(version) FROM messaging.schema_migrations").await[0][0];
    place.back_to(newest - 1).await;
    let refused = posthaste(place, &["admin", "create-user", "--user-name", "ada"]);
    assert!(!refused.status.success() && text(&refused).contains("start posthaste serve"), "{}", text(&refused));
    assert_eq!(place.numbers("SELECT max(version) FROM messaging.schema_migrations").await, [[newest - 1]]);
});

both!(accounts_are_listed, async |place| {
    let server = Server::start(place).await;
    assert!(posthaste(place, &["admin", "ban", "--user-name", "duck"]).status.success());
    assert!(posthaste(place, &["admin", "set-role", "--user-name", "bugs", "--role", "admin"]).status.success());
    for number in 0..250 {
        server.add_user(&format!("user{number}"), "", "").await;
    }
    let table = posthaste(place, &["admin", "list-users"]);
    let table = String::from_utf8(table.stdout).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 1 + 4 + 250, "{table}");
    assert!(lines[0].starts_with("ID ") && lines[0].contains("USER NAME") && lines[0].contains("ROLE"), "{table}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[2])[..4], ["2", "bugs", "admin", "-"]);
    assert_eq!(words(lines[3])[..3], ["3", "duck", "user"]);
    assert!(words(lines[3])[3].starts_with("20"), "{table}");
    // The columns are aligned.
    let at = lines[0].find("ROLE").unwrap();
    assert!(lines[1][at..].starts_with("user") && lines[2][at..].starts_with("admin"), "{table}");

    let listed = posthaste(place, &["admin", "list-users", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 254);
    assert_eq!((&listed[1]["user_name"], &listed[1]["role"]), (&"bugs".into(), &"admin".into()));
    assert!(listed[2]["banned_at"].is_string() && listed[1]["banned_at"].is_null());
    assert_eq!(listed[0]["email"], "rdibari@example.org");
});

both!(a_backup_goes_to_standard_output, async |place| {
    let server = Server::start_with(place, Options { gifs: None, ..Options::default() }).await;
    server.send("bugs", "duck", "kept").await;
    let made = posthaste(place, &["backup", "-", "--without-files"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(made.stdout.starts_with(b"SQLite format 3\0"));
    assert!(String::from_utf8_lossy(&made.stderr).contains("to standard output"));
    let other = Place::new(place.kind).await;
    let file = other.folder.path().join("piped");
    std::fs::write(&file, &made.stdout).unwrap();
    let restored = posthaste(&other, &["restore", file.to_str().unwrap()]);
    assert!(restored.status.success(), "{}", text(&restored));
    assert_eq!(other.numbers("SELECT count(*) FROM messaging.messages").await, [[5]]);
    other.remove().await;

    // A target that cannot be written is named, and nothing is left behind.
    let refused = posthaste(place, &["backup", "nowhere/backup.db"]);
    assert!(
        !refused.status.success() && text(&refused).contains("the folder nowhere does not exist"),
        "{}",
        text(&refused)
    );
    let full = Command::new("sh")
        .args(["-c", &format!("{} backup - --without-files >/dev/full", env!("CARGO_BIN_EXE_posthaste"))])
        .env("POSTHASTE_DATABASE_URL", place.url())
        .env("TMPDIR", place.folder.path())
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(1), "{}", text(&full));
    assert!(text(&full).contains("standard output cannot be written"), "{}", text(&full));
    let left = std::fs::read_dir(place.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.filter(|name| name.to_string_lossy().starts_with("posthaste-backup")).count(), 0);
});

#[test]
fn output_into_a_closed_pipe_or_a_full_disk_is_no_panic() {
    let binary = env!("CARGO_BIN_EXE_posthaste");
    for (command, full) in
        [("openapi", true), ("completions bash", true), ("man", true), ("doctor", true), ("--help", false)]
    {
        let folder = tempfile::tempdir().unwrap();
        let run = |redirection: &str| {
            let script = format!("{{ {binary} {command}; echo status $? >&2; }} {redirection}");
            Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output().unwrap()
        };
        let closed = run("| true");
        assert!(!text(&closed).contains("panicked"), "{command}: {}", text(&closed));
        let into_full = run(">/dev/full");
        assert!(!text(&into_full).contains("panicked"), "{command}: {}", text(&into_full));
        if full {
            let said = text(&into_full);
            assert!(
                said.contains("standard output cannot be written") && said.contains("status 1"),
                "{command}: {said}"
            );
        }
        let silent = run("2>/dev/full");
        assert!(!silent.stdout.windows(8).any(|part| part == b"panicked"), "{command}");
    }
}

#[test]
fn completions_and_manual_pages_are_printed() {
    let run = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_posthaste")).args(words).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        assert!(script.contains("create-user") && script.contains("list-users"), "{shell}");
    }
    let page = run(&["man"]);
    assert!(page.contains(".TH posthaste 1") && page.contains("posthaste\\-serve"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    run(&["man", "--output-dir", folder.path().to_str().unwrap()]);
    for name in ["posthaste.1", "posthaste-serve.1", "posthaste-admin-create-user.1", "posthaste-config-check.1"] {
        assert!(folder.path().join(name).exists(), "{name}");
    }
    let serve = std::fs::read_to_string(folder.path().join("posthaste-serve.1")).unwrap();
    assert!(serve.contains("POSTHASTE_LISTEN"), "{serve}");
}
