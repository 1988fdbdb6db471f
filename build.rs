//! Lists the files of `migrations/`: a new version of the schema needs no other place that names it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// A version: its name, and its common text, SQLite's and PostgreSQL's.
type Version = (String, [Option<PathBuf>; 3]);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=migrations");
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("migrations");
    let mut versions: BTreeMap<usize, Version> = BTreeMap::new();
    for entry in fs::read_dir(&folder).expect("the folder of migrations") {
        let path = entry.expect("an entry of the folder").path();
        let file = path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
        // The upgrade of the seed's database is no version.
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
