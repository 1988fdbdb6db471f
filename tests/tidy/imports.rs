//! Which area may import which other areas. The list of allowed imports is compared with the code and with the picture in
//! ARCHITECTURE.md.
//!
//! A folder of `src/` is an area, and so is a single file there. `src/store`, `src/domain` and `src/http` are layers (here
//! called floors), which contain areas.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{code, sources};

/// Areas of the store whose tables an area of the domain may use.
const ROWS: &[&str] = &[
    "store/db",
    "store/identity",
    "store/people",
    "store/conversations",
    "store/messages",
    "store/events",
    "store/files",
    "store/batches",
    "store/shared",
    "store/operations",
];

/// For each area, the areas that it may import, besides itself and the folders that contain it.
const AREAS: &[(&str, &[&[&str]])] = &[
    ("base", &[&[]]),
    ("mail", &[&["base"]]),
    ("blobs", &[&[]]),
    ("media", &[&[]]),
    ("outbound", &[&[]]),
    ("store/driver", &[&["base"]]),
    ("store/sqlite", &[&["base", "store/driver", "store/db", "store/messages"]]),
    ("store/postgres", &[&["base", "store/driver"]]),
    (
        "store/db",
        &[&[
            "base",
            "store/driver",
            "store/sqlite",
            "store/postgres",
            "store/identity",
            "store/messages",
            "store/files",
        ]],
    ),
    ("store/shared", &[&["base", "store/driver", "store/db"]]),
    ("store/identity", &[&["base", "store/driver", "store/postgres", "store/db"]]),
    (
        "store/people",
        &[&[
            "base",
            "store/driver",
            "store/db",
            "store/shared",
            "store/files",
            "store/identity",
            "store/conversations",
            "store/messages",
        ]],
    ),
    ("store/conversations", &[&["base", "store/driver", "store/db", "store/identity"]]),
    ("store/files", &[&["base", "store/driver", "store/db"]]),
    ("store/messages", &[&["base", "store/driver", "store/db", "store/shared", "store/conversations", "store/files"]]),
    ("store/events", &[&["base", "store/driver", "store/postgres", "store/db"]]),
    (
        "store/batches",
        &[&[
            "base",
            "store/driver",
            "store/db",
            "store/identity",
            "store/conversations",
            "store/messages",
            "store/events",
            "store/files",
        ]],
    ),
    ("store/operations", &[&["base", "store/driver", "store/sqlite", "store/db", "store/messages"]]),
    ("domain/access", &[ROWS, &["base"]]),
    ("domain/shared", &[ROWS, &["base", "domain/identity", "domain/events"]]),
    ("domain/identity", &[ROWS, &["base", "mail", "outbound", "domain/access", "domain/shared", "app"]]),
    (
        "domain/people",
        &[
            ROWS,
            &[
                "base",
                "domain/access",
                "domain/shared",
                "domain/identity",
                "domain/conversations",
                "domain/messages",
                "domain/sending",
                "app",
            ],
        ],
    ),
    (
        "domain/conversations",
        &[
            ROWS,
            &[
                "base",
                "domain/access",
                "domain/shared",
                "domain/files",
                "domain/identity",
                "domain/people",
                "domain/messages",
                "domain/sending",
                "app",
            ],
        ],
    ),
    (
        "domain/messages",
        &[ROWS, &["base", "domain/access", "domain/shared", "domain/identity", "domain/sending", "app"]],
    ),
    (
        "domain/sending",
        &[
            ROWS,
            &[
                "base",
                "domain/access",
                "domain/shared",
                "domain/identity",
                "domain/people",
                "domain/messages",
                "domain/events",
                "domain/previews",
                "app",
            ],
        ],
    ),
    ("domain/previews", &[ROWS, &["base", "outbound", "domain/files", "app"]]),
    (
        "domain/events",
        &[ROWS, &["base", "outbound", "domain/access", "domain/shared", "domain/identity", "domain/messages", "app"]],
    ),
    (
        "domain/files",
        &[
            ROWS,
            &[
                "base",
                "store/driver",
                "blobs",
                "media",
                "outbound",
                "domain/access",
                "domain/shared",
                "domain/identity",
                "domain/messages",
                "app",
            ],
        ],
    ),
    (
        "domain/operations",
        &[
            ROWS,
            &[
                "base",
                "store/driver",
                "domain/shared",
                "domain/identity",
                "domain/people",
                "domain/conversations",
                "domain/sending",
                "app",
            ],
        ],
    ),
    (
        "app",
        &[&[
            "domain/files",
            "domain/previews",
            "base",
            "mail",
            "outbound",
            "store/driver",
            "store/db",
            "store/identity",
            "domain/access",
            "domain/shared",
            "domain/identity",
            "domain/conversations",
            "domain/messages",
            "domain/sending",
            "domain/operations",
        ]],
    ),
    (
        "live",
        &[&[
            "base",
            "outbound",
            "store/driver",
            "store/postgres",
            "store/db",
            "store/conversations",
            "store/events",
            "domain/access",
            "domain/shared",
            "domain/people",
            "domain/events",
            "domain/operations",
            "app",
        ]],
    ),
    (
        "workers",
        &[&[
            "domain/files",
            "domain/previews",
            "base",
            "mail",
            "domain/messages",
            "domain/sending",
            "domain/operations",
            "app",
            "live",
        ]],
    ),
    (
        "http/bodies",
        &[&[
            "blobs",
            "domain/files",
            "base",
            "domain/access",
            "domain/shared",
            "domain/identity",
            "domain/people",
            "domain/conversations",
            "domain/messages",
            "domain/sending",
            "domain/events",
            "app",
            "http/state",
        ]],
    ),
    ("http/state", &[&["domain/shared", "app", "live", "workers", "http/bodies", "http/access"]]),
    ("http/access", &[&["base", "domain/access", "domain/identity", "http/bodies", "http/state"]]),
    (
        "http/socket",
        &[&[
            "base",
            "domain/access",
            "domain/people",
            "live",
            "http/bodies",
            "http/state",
            "http/access",
            "http/server",
        ]],
    ),
    (
        "http/routes",
        &[&[
            "domain/files",
            "base",
            "domain/access",
            "domain/shared",
            "domain/identity",
            "domain/people",
            "domain/conversations",
            "domain/messages",
            "domain/sending",
            "domain/events",
            "domain/operations",
            "app",
            "live",
            "http/bodies",
            "http/state",
            "http/access",
            "http/socket",
            "http/server",
        ]],
    ),
    ("http/server", &[&["base", "domain/access", "http/bodies", "http/state", "http/access", "http/routes"]]),
    (
        "config",
        &[&[
            "blobs",
            "domain/files",
            "mail",
            "outbound",
            "store/driver",
            "domain/access",
            "domain/identity",
            "app",
            "live",
            "http/access",
        ]],
    ),
    (
        "cli",
        &[&[
            "base",
            "blobs",
            "domain/files",
            "mail",
            "store/driver",
            "store/sqlite",
            "store/db",
            "store/operations",
            "domain/access",
            "domain/shared",
            "domain/identity",
            "domain/people",
            "domain/operations",
            "app",
            "live",
            "workers",
            "http/state",
            "http/server",
            "config",
        ]],
    ),
];

/// Folders that contain areas. The `mod.rs` of such a folder only lists its areas.
const FLOORS: &[&str] = &["store", "domain", "http"];

/// A module, as the names of its path.
type Module = Vec<String>;

/// Every module of `src/`, with its file.
fn modules() -> BTreeMap<Module, PathBuf> {
    sources("src")
        .into_iter()
        .filter(|file| file != Path::new("src/main.rs"))
        .map(|file| (module(&file), file))
        .collect()
}

fn module(file: &Path) -> Module {
    let path = file.strip_prefix("src").unwrap().with_extension("");
    let mut names: Module = path.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    if names.last().is_some_and(|name| name == "mod") || names == ["lib"] {
        names.pop();
    }
    names
}

/// The area of a module. `None` for `lib.rs` and for the `mod.rs` of a floor.
fn area(module: &[String]) -> Option<String> {
    match module {
        [] => None,
        [floor] if FLOORS.contains(&&**floor) => None,
        [floor, area, ..] if FLOORS.contains(&&**floor) => Some(format!("{floor}/{area}")),
        [area, ..] => Some(area.clone()),
    }
}

/// The modules that a file imports, by `use` declarations and by paths in the code.
fn imports(module: &Module, file: &Path, all: &BTreeMap<Module, PathBuf>) -> BTreeSet<Module> {
    let lines: Vec<String> = code(file).into_iter().map(|(_, line)| line).collect();
    // The imports of unit tests do not count.
    let text = lines.join("\n");
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut paths = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("use ") {
        let is_first = rest[..start].lines().last().is_none_or(|before| {
            let before = before.trim();
            before.is_empty() || before.starts_with("pub")
        });
        let (declaration, after) = rest[start + 4..].split_once(';').unwrap_or((&rest[start + 4..], ""));
        if is_first {
            expand("", &declaration.split_whitespace().collect::<Vec<_>>().join(" "), &mut paths);
        }
        rest = if is_first { after } else { &rest[start + 4..] };
    }
    for (start, _) in text.match_indices("crate::").chain(text.match_indices("super::")) {
        let path = text[start..].split(|next: char| !next.is_alphanumeric() && next != '_' && next != ':').next();
        paths.extend(path.map(str::to_owned));
    }
    paths.iter().filter_map(|path| resolve(module, path, all)).filter(|found| found != module).collect()
}

/// Expands a tree such as `crate::store::{self, db::{Conn, Db}}` into its paths.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        paths.push(format!("{prefix}{}", tree.split(" as ").next().unwrap()));
        return;
    };
    let inside = rest.rsplit_once('}').expect("a closed brace").0;
    let (mut depth, mut start) = (0, 0);
    for (index, letter) in inside.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&format!("{prefix}{head}"), &inside[start..index], paths);
                start = index + 1;
            }
            _ => {}
        }
    }
    if !inside[start..].trim().is_empty() {
        expand(&format!("{prefix}{head}"), &inside[start..], paths);
    }
}

/// The module that a path names, or the module of the item that it names. `None` if the path leads out of the crate.
fn resolve(from: &Module, path: &str, all: &BTreeMap<Module, PathBuf>) -> Option<Module> {
    let mut names = path.split("::").peekable();
    let mut full = match *names.peek()? {
        "crate" => Vec::new(),
        "self" | "super" => from.clone(),
        child if all.contains_key(&[from.as_slice(), &[child.to_owned()]].concat()) => from.clone(),
        _ => return None,
    };
    for name in names {
        match name {
            "crate" | "self" => {}
            "super" => {
                full.pop()?;
            }
            name => full.push(name.to_owned()),
        }
    }
    while !all.contains_key(&full) {
        full.pop()?;
    }
    Some(full)
}

/// All modules with the modules that they import.
fn graph() -> BTreeMap<Module, BTreeSet<Module>> {
    let all = modules();
    all.iter().map(|(module, file)| (module.clone(), imports(module, file, &all))).collect()
}

#[test]
fn an_area_imports_only_allowed_areas() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        AREAS.iter().map(|(area, lists)| (*area, lists.iter().copied().flatten().copied().collect())).collect();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for (from, imported) in graph() {
        let Some(area_from) = area(&from) else { continue };
        let Some(may) = allowed.get(&*area_from) else { continue };
        for to in imported {
            // A `use` of a floor alone names no area. Paths in the code that begin with it are checked separately.
            let Some(area_to) = area(&to) else { continue };
            if area_from != area_to && !may.contains(&*area_to) {
                wrong.push(format!(
                    "{} imports {}: {area_from} may not import {area_to}",
                    from.join("::"),
                    to.join("::")
                ));
            }
            used.insert((area_from.clone(), area_to));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(used.len() > 60, "{} imports between areas were found: is this test still reading them?", used.len());
}

#[test]
fn areas_have_no_import_cycles() {
    let graph = graph();
    let mut wrong = Vec::new();
    for circle in cycles(&graph) {
        let areas: BTreeSet<_> = circle.iter().filter_map(|module| area(module)).collect();
        if areas.len() > 1 {
            wrong.push(circle.iter().map(|module| module.join("::")).collect::<Vec<_>>().join(", "));
        }
    }
    assert!(wrong.is_empty(), "files of different areas import each other in a circle: {}", wrong.join("\n"));
}

/// Groups of modules that import each other, directly or through other modules: the strongly connected components of the graph.
fn cycles(graph: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<BTreeSet<Module>> {
    let reach = |start: &Module| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(next) = open.pop() {
            for to in &graph[next] {
                if seen.insert(to.clone()) {
                    open.push(to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = graph.keys().map(|module| (module, reach(module))).collect();
    let mut found: Vec<BTreeSet<Module>> = Vec::new();
    for (module, its) in &reached {
        if its.contains(*module) && !found.iter().any(|circle| circle.contains(*module)) {
            found.push(its.iter().filter(|other| reached[other].contains(*module)).cloned().collect());
        }
    }
    found
}

#[test]
fn areas_agree_with_the_picture() {
    let tree: BTreeSet<String> = modules().keys().filter_map(|module| area(module)).collect();
    let listed: BTreeSet<String> = AREAS.iter().map(|(area, _)| (*area).to_owned()).collect();
    assert_eq!(tree, listed, "the areas of src/ and those of AREAS differ");
    let text = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let picture: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("src/")?.split_whitespace().next())
        .map(|path| path.trim_end_matches('/').trim_end_matches(".rs").to_owned())
        .collect();
    assert_eq!(tree, picture, "the areas of src/ and those of the picture in ARCHITECTURE.md differ");
    let known: BTreeSet<&str> = AREAS.iter().map(|(area, _)| *area).collect();
    for (area, lists) in AREAS {
        for name in lists.iter().copied().flatten() {
            assert!(known.contains(name), "{area} may import {name}, which is no area");
        }
    }
}

#[test]
fn floors_only_list_their_areas() {
    for floor in FLOORS {
        let file = PathBuf::from(format!("src/{floor}/mod.rs"));
        for (number, line) in code(&file) {
            let is_list = line.trim().is_empty() || line.starts_with("pub mod ") || line.starts_with("mod ");
            assert!(is_list, "{}:{number}: a floor's file lists its areas and holds nothing", file.display());
        }
    }
}
