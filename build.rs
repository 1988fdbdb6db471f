//! Prepares two things that the crate includes. The first is the list of the files in `migrations/`, so that a new version of the
//! schema needs no entry elsewhere. The second is the commit and the date of the build, which `posthaste --version` prints.
//!
//! Invariant: a release build without git, or from an archive of the sources, succeeds with the commit "unknown". A debug build
//! does not ask for the commit. Otherwise each new commit would compile the whole crate again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use time::OffsetDateTime;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    list_migrations();
    record_build();
}

/// A version of the schema: its name, and the files with SQL for both databases, for SQLite only and for PostgreSQL only.
type Version = (String, [Option<PathBuf>; 3]);

fn list_migrations() {
    println!("cargo::rerun-if-changed=migrations");
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("migrations");
    let mut versions: BTreeMap<usize, Version> = BTreeMap::new();
    for entry in fs::read_dir(&folder).expect("the folder of migrations") {
        let path = entry.expect("an entry of the folder").path();
        let file = path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
        // The upgrade of the seed's database has no number: it is not a version.
        let Some((number, rest)) = file.split_once('_').filter(|(number, _)| number.parse::<usize>().is_ok()) else {
            continue;
        };
        let (name, suffix) = rest.split_once('.').expect("a suffix");
        let text = ["sql", "sqlite.sql", "postgres.sql"].iter().position(|known| *known == suffix);
        let text = text.unwrap_or_else(|| panic!("{file} is neither .sql nor .sqlite.sql nor .postgres.sql"));
        let version = number.parse().expect("a number");
        let (its_name, texts) = versions.entry(version).or_insert_with(|| (name.to_owned(), Default::default()));
        assert_eq!(its_name, name, "two migrations have the number {number}");
        texts[text] = Some(path);
    }
    let mut list = "&[\n".to_owned();
    for (expected, (version, (name, texts))) in (1..).zip(&versions) {
        assert_eq!(*version, expected, "the migrations are not numbered 1, 2, 3 …");
        let [common, sqlite, postgres] = texts.each_ref().map(|path| match path {
            Some(path) => format!("include_str!({path:?})"),
            None => "\"\"".to_owned(),
        });
        list += &format!(
            "Migration {{ version: {version}, name: {name:?}, common: {common}, sqlite: {sqlite}, postgres: {postgres} }},\n"
        );
    }
    list += "]\n";
    let target = Path::new(&env::var("OUT_DIR").expect("set by cargo")).join("migrations.rs");
    fs::write(target, list).expect("the list can be written");
}

fn record_build() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = if is_release { commit().unwrap_or_else(|| "unknown".into()) } else { "debug build".into() };
    println!("cargo::rustc-env=POSTHASTE_BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=POSTHASTE_BUILD_DATE={}", build_time().date());
}

/// The short hash of the commit that is checked out; `None` without git or outside a checkout of this repository.
fn commit() -> Option<String> {
    // The sources may come from an archive that was unpacked inside another repository.
    let root = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&root).canonicalize().ok()? != Path::new(".").canonicalize().ok()? {
        return None;
    }
    // HEAD changes with a checkout, and the file of the branch with a commit. If git has packed the file of the branch, the
    // log of HEAD still changes. A file that does not exist is left out, because with it cargo would run this script each time.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The time of the build, in UTC. `SOURCE_DATE_EPOCH` (seconds since 1970) makes builds reproducible.
fn build_time() -> OffsetDateTime {
    let given = env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let given = given.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    given.unwrap_or_else(OffsetDateTime::now_utc)
}
