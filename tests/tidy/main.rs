//! Rules of this repository that the compiler does not check: imports, names that may occur in one place only, the form of
//! handlers, lengths of files.

mod codes;
mod documents;
mod imports;

use std::fs;
use std::path::{Path, PathBuf};

use axum::http::Method;
use posthaste::domain::access::principal::Access;
use posthaste::http::access::admission::{is_api, is_public};
use posthaste::http::server::router::openapi_json;

/// Maximum number of lines of a source file.
const MAX_LINES: usize = 600;

/// Libraries that speak HTTP, and the folders that must not name them.
const HTTP_LIBRARIES: (&[&str], &[&str]) =
    (&["axum", "hyper", "http::"], &["src/base", "src/mail", "src/store", "src/domain", "src/live", "src/workers"]);

/// Names that may occur in one place only.
const HOMES: &[(&str, &str)] =
    &[("rusqlite", "src/store/sqlite/"), ("tokio_postgres", "src/store/postgres/"), ("lettre", "src/mail/")];

/// The types with which a handler says who may call it: those of `src/http/access/policy.rs`.
const POLICIES: &[&str] = &["Public", "Reader", "Writer", "PersonReading", "PersonWriting", "Administrator"];

/// Expressions that create or pass on a caller, each with the files that may use it: those that authenticate callers, and the
/// one that passes them to handlers.
const WAYS_TO_A_CALLER: &[(&str, &[&str])] = &[
    ("Principal::new", &["src/domain/identity/credentials.rs"]),
    ("authenticate(", &["src/domain/identity/credentials.rs", "src/http/access/admission.rs"]),
    ("identify(", &["src/http/access/admission.rs"]),
    ("::<Principal>", &["src/http/access/policy.rs"]),
    ("Extension<Principal", &[]),
    ("impl FromRequest", &["src/http/access/policy.rs", "src/http/bodies/extract.rs", "src/http/server/upgrade.rs"]),
];

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines of code of a file with their numbers, without comments, which may name anything.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.to_owned()));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//")).collect()
}

#[test]
fn only_http_names_http_libraries() {
    let (libraries, folders) = HTTP_LIBRARIES;
    let mut wrong = Vec::new();
    for file in folders.iter().flat_map(|folder| sources(folder)) {
        for (number, line) in code(&file) {
            let named = libraries.iter().find(|name| line.contains(**name) && !line.contains("crate::http::"));
            wrong.extend(named.map(|name| format!("{}:{number} names {name}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn drivers_are_named_only_in_their_folders() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        for (name, home) in HOMES.iter().filter(|(_, home)| !file.starts_with(home)) {
            let named = code(&file).into_iter().filter(|(_, line)| line.contains(name));
            wrong.extend(
                named.map(|(number, _)| format!("{}:{number} names {name}, which belongs into {home}", file.display())),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A handler: its place in the code, method and path, its parameters, the names of the structs that document its
/// parameters, and whether its attribute names credentials.
struct Handler {
    at: String,
    method: String,
    path: String,
    signature: String,
    documented: Vec<String>,
    names_credentials: bool,
}

fn handlers() -> Vec<Handler> {
    let mut handlers = Vec::new();
    for file in sources("src/http/routes") {
        let lines: Vec<String> = code(&file).into_iter().map(|(_, line)| line).collect();
        for described in lines.join("\n").split("#[utoipa::path(").skip(1) {
            let (description, rest) = described.split_once("async fn ").expect("a handler after its description");
            let (signature, _) = rest.split_once("->").expect("a handler that returns something");
            let (method, _) = description.split_once(',').expect("a method");
            let (_, path) = description.split_once("path = \"").expect("a path");
            let (name, taken) = signature.split_once('(').expect("what it takes");
            handlers.push(Handler {
                at: format!("{}: {name}", file.display()),
                method: method.trim().to_ascii_uppercase(),
                path: path.split('"').next().unwrap_or_default().to_owned(),
                signature: taken.split_whitespace().collect::<Vec<_>>().join(" "),
                documented: description.split_once("params(").map_or_else(Vec::new, |(_, rest)| words(rest)),
                names_credentials: description.contains("security("),
            });
        }
    }
    handlers
}

/// The identifiers before the first string.
fn words(text: &str) -> Vec<String> {
    let text = text.split(['"', ')']).next().unwrap_or_default();
    let names = text.split(|character: char| !character.is_alphanumeric()).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

#[test]
fn parameters_are_parsed_and_documented_by_the_same_structs() {
    let mut wrong = Vec::new();
    for Handler { at, path, signature, documented, .. } in handlers().iter().filter(|handler| is_api(&handler.path)) {
        let taken = |extractor: &str| {
            let (_, rest) = signature.split_once(&format!(": {extractor}<"))?;
            Some(words(rest.split('>').next().unwrap_or_default().replace(['(', ')'], " ").trim()))
        };
        let parsed = taken("Path").into_iter().chain(taken("Query")).flatten();
        for name in parsed.filter(|name| !documented.contains(name)) {
            wrong.push(format!("{at} parses {name}, which its params(…) do not name"));
        }
        if path.contains('{') && taken("Path").is_none() {
            wrong.push(format!("{at} does not parse the parameters of {path}"));
        }
        // Each of these extractors refuses unknown query parameters. Those for bodies refuse all query parameters.
        let readers = [": Query<", ": JsonBody<", ": JsonOrPayload<"];
        let count = readers.iter().filter(|reader| signature.contains(**reader)).count();
        if count != 1 {
            wrong.push(format!("{at} takes {count} of {readers:?}: exactly one must be there"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_handler_is_an_operation_of_the_document() {
    let document: serde_json::Value = serde_json::from_str(&openapi_json(Access::Secured).unwrap()).unwrap();
    let operations = document["paths"].as_object().unwrap().iter();
    let mut documented: Vec<String> = operations
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_ascii_uppercase()))
        })
        .collect();
    let mut described: Vec<String> =
        handlers().iter().map(|Handler { method, path, .. }| format!("{method} {path}")).collect();
    documented.sort();
    described.sort();
    assert_eq!(described, documented);
}

#[test]
fn every_handler_has_exactly_one_policy() {
    let mut wrong = Vec::new();
    for Handler { at, method, path, signature, .. } in handlers().iter().filter(|handler| is_api(&handler.path)) {
        let parameters = signature.trim_end_matches([')', ' ', ',']).split(", ");
        let taken: Vec<&str> =
            parameters.filter_map(|parameter| parameter.rsplit_once(": ")).map(|(_, its_type)| its_type).collect();
        let policies: Vec<&&str> = taken.iter().filter(|taken| POLICIES.contains(taken)).collect();
        if policies.len() != 1 {
            wrong.push(format!("{at} takes {policies:?}: exactly one of {POLICIES:?} must be there"));
        }
        // A route is public according to both its policy and PUBLIC_ROUTES, or according to neither.
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        if policies.contains(&&"Public") != is_public(&method, path) {
            wrong.push(format!("{at} takes {policies:?}, but PUBLIC_ROUTES says otherwise of {method} {path}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_handlers_that_use_optional_credentials_name_them() {
    let handlers = handlers();
    let wrong = handlers.iter().filter(|handler| {
        let uses_credentials = handler.signature.contains("Public(") && !handler.signature.contains("Public(_)");
        handler.names_credentials != uses_credentials
    });
    let wrong: Vec<&str> = wrong.map(|handler| &*handler.at).collect();
    assert!(
        wrong.is_empty(),
        "an attribute with `security` and a parameter `Public(principal)` go together: {wrong:?}"
    );
}

#[test]
fn the_list_of_policies_is_complete() {
    let policy = fs::read_to_string("src/http/access/policy.rs").unwrap();
    let mut found: Vec<&str> =
        policy.split("pub struct ").skip(1).filter_map(|rest| Some(rest.split_once('(')?.0)).collect();
    let mut known = POLICIES.to_vec();
    found.sort_unstable();
    known.sort_unstable();
    assert_eq!(found, known);
}

#[test]
fn only_admission_and_policies_get_a_caller() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        let text = file.display().to_string();
        for (number, line) in code(&file) {
            let mut names: Vec<&str> = WAYS_TO_A_CALLER
                .iter()
                .filter(|(name, homes)| line.contains(name) && !homes.contains(&&*text))
                .map(|(name, _)| *name)
                .collect();
            // Request extensions are forbidden here: with an inferred type, the name of a caller's type would not appear in the
            // code.
            let hidden = text.starts_with("src/http/routes") || text == "src/http/bodies/extract.rs";
            names.extend(["extensions", "Extension"].into_iter().filter(|name| hidden && line.contains(name)));
            // Every path of the API is documented, and so goes through a handler that was checked above.
            names.extend([".route(\"/api", ".nest("].into_iter().filter(|name| line.contains(name)));
            wrong.extend(names.into_iter().map(|name| format!("{text}:{number} names {name}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = ["src", "tests", "bench"]
        .into_iter()
        .flat_map(sources)
        .filter_map(|file| {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            (lines > MAX_LINES).then(|| format!("{} has {lines} lines", file.display()))
        })
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Files that are not declared as a module by a file in the same folder: the roots of crates, and one that `tests/api/main.rs`
/// declares with its path.
const ROOTS: &[&str] =
    &["src/lib.rs", "src/main.rs", "tests/api/main.rs", "tests/faults/mod.rs", "tests/tidy/main.rs", "bench/main.rs"];

#[test]
fn every_file_is_compiled() {
    let mut left_out = Vec::new();
    for file in ["src", "tests", "bench"].into_iter().flat_map(sources) {
        if ROOTS.iter().any(|root| file == Path::new(root)) {
            continue;
        }
        let module = if file.ends_with("mod.rs") { file.parent().unwrap() } else { &file };
        let declaration = format!("mod {};", module.file_stem().unwrap().to_str().unwrap());
        let folder = module.parent().unwrap();
        let parents = ["mod.rs", "main.rs", "lib.rs"].map(|name| folder.join(name));
        let declares = |parent: &Path| {
            let text = fs::read_to_string(parent).unwrap_or_default();
            let mut visibilities = text.lines().filter_map(|line| line.strip_suffix(&declaration));
            visibilities.any(|visibility| visibility.is_empty() || visibility.starts_with("pub"))
        };
        if !parents.iter().any(|parent| declares(parent)) && !declares(&folder.with_extension("rs")) {
            left_out.push(format!("{}: nothing declares `{declaration}`", file.display()));
        }
    }
    assert!(left_out.is_empty(), "{}", left_out.join("\n"));
}

#[test]
fn every_module_has_a_header() {
    let silent: Vec<String> = ["src", "tests", "bench"]
        .into_iter()
        .flat_map(sources)
        .filter(|file| !fs::read_to_string(file).unwrap().starts_with("//!"))
        .map(|file| file.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no module header: {}", silent.join(", "));
}

#[test]
fn a_noun_has_the_same_place_on_every_floor() {
    for (area, noun) in [("identity", "users"), ("messages", "messages"), ("people", "friends"), ("events", "webhooks")]
    {
        for floor in ["src/store", "src/domain", "src/http/routes", "tests/api"] {
            assert!(Path::new(floor).join(area).join(format!("{noun}.rs")).is_file(), "{floor}/{area}/{noun}.rs");
        }
    }
}

#[test]
fn rows_are_read_by_name() {
    /// Maximum number of consecutive getters by column number. Longer lists of columns are declared with `columns!`.
    const MOST_BY_NUMBER: usize = 3;
    /// Files that may use numbers, because they contain the getters themselves.
    const AT_HOME: &[&str] = &["src/store/db/columns.rs", "src/store/sqlite/", "src/store/postgres/"];
    let mut wrong = Vec::new();
    for file in sources("src/store") {
        let text = file.display().to_string();
        if AT_HOME.iter().any(|home| text.starts_with(home)) {
            continue;
        }
        for (number, line) in code(&file) {
            let beyond =
                line.split("row.").skip(1).filter_map(|rest| rest.split_once('(')?.1.split_once(')')?.0.parse().ok());
            wrong.extend(
                beyond
                    .filter(|column: &usize| *column >= MOST_BY_NUMBER)
                    .map(|column| format!("{text}:{number} reads column {column}")),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
