//! `packaging/posthaste-backup`: backups that systemd starts, and how many of them are kept.

use std::path::Path;
use std::process::{Command, Output};

use crate::both;
use crate::operations::operations::posthaste;
use crate::support::{Place, Server};

fn back_up(place: &Place, folder: &Path, keep: &str) -> Output {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/posthaste-backup"));
    command
        .env("POSTHASTE_DATABASE_URL", place.url())
        .env("POSTHASTE_DATA_DIR", place.folder.path())
        .env("POSTHASTE_BINARY", env!("CARGO_BIN_EXE_posthaste"))
        .env("POSTHASTE_BACKUP_DIR", folder)
        .env("POSTHASTE_BACKUP_KEEP", keep)
        .output()
        .unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

both!(the_newest_backups_are_kept, async |place| {
    let server = Server::start(place).await;
    server.send("duck", "bugs", "hey").await;
    server.stop().await;
    let folder = place.folder.path().join("back ups");
    std::fs::create_dir(&folder).unwrap();
    for day in 1..=4 {
        let old = folder.join(format!("posthaste-2020010{day}T031500Z.db"));
        std::fs::create_dir(old.with_extension("db.files")).unwrap();
        std::fs::write(old, "an old backup").unwrap();
    }
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();
    let made = back_up(place, &folder, "3");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let found = names(&folder);
    let backups: Vec<&String> = found.iter().filter(|name| name.ends_with(".db")).collect();
    assert_eq!(backups[..2], ["posthaste-20200103T031500Z.db", "posthaste-20200104T031500Z.db"]);
    assert_eq!((backups.len(), found.len()), (3, 6), "{found:?}");
    let newest = folder.join(backups[2]);
    let checked = posthaste(place, &["doctor", "--backup", newest.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
});

both!(a_failed_backup_deletes_nothing, async |place| {
    let folder = place.folder.path().join("backups");
    std::fs::create_dir(&folder).unwrap();
    for day in 1..=3 {
        std::fs::write(folder.join(format!("posthaste-2020010{day}T031500Z.db")), "an old backup").unwrap();
    }
    // There is no database yet.
    let failed = back_up(place, &folder, "1");
    assert!(!failed.status.success());
    assert_eq!(names(&folder).len(), 3);
    for keep in ["0", "", "two", "-1"] {
        let refused = back_up(place, &folder, keep);
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(
            keep.is_empty() || (refused.status.code() == Some(2) && text.contains("POSTHASTE_BACKUP_KEEP")),
            "{text}"
        );
    }
    assert_eq!(names(&folder).len(), 3);
});
