//! Runs the examples of README.md and docs/api.md, without changes, against a new server.
//!
//! The shell runs each block marked `sh`. If a block marked `json` or `text` follows directly, the commands must print its
//! content. In that content `…` inside a text stands for any characters. A separate `…` stands for any value or, in an object
//! or at the end of a list, for further members. A block without such a following block must succeed. The blocks of a file run
//! in their order and share their variables.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::both;
use crate::support::place::Place;
use crate::support::process::{self, Process};

/// Beginnings of lines that the test does not run, each with the reason.
const NOT_RUN: &[(&str, &str)] = &[
    ("make ", "builds the server, or runs these tests; the server of the test takes its place"),
    ("docker-compose ", "needs a container engine, which build machines do not have"),
    ("git clone ", "needs the network"),
    ("curl -N ", "never ends: it follows a stream of events"),
    ("target/release/posthaste serve --demo --database-url ", "needs the database of the container"),
];

const SERVER_START_TIMEOUT: Duration = Duration::from_secs(60);
const ANYTHING: &str = "…";

both!(the_commands_of_the_readme_work, async |place| {
    run_document(place, "README.md", 4).await;
});

both!(the_commands_of_the_api_reference_work, async |place| {
    run_document(place, "docs/api.md", 20).await;
});

struct Block {
    line: usize,
    language: String,
    text: String,
}

/// Runs the examples of a document, and asserts that there are at least `at_least` of them.
async fn run_document(place: &Place, document: &str, at_least: usize) {
    let server = Process::start(place).await;
    let folder = place.folder.path().join("examples");
    std::fs::create_dir(&folder).unwrap();
    // The commands of README.md run in the root of the repository.
    std::os::unix::fs::symlink(std::fs::canonicalize("docs").unwrap(), folder.join("docs")).unwrap();
    let mut shell = Shell { folder, first: server.address, servers: Vec::new() };
    let blocks = blocks(Path::new(document));
    let mut run = 0;
    for (index, block) in blocks.iter().enumerate() {
        let at = format!("{document}:{}", block.line);
        if block.language != "sh" {
            let has_command = block.text.lines().any(|line| line.starts_with("curl ") || line.starts_with("target/"));
            assert!(!has_command, "{at}: a block with commands is marked sh");
            continue;
        }
        let Some(printed) = shell.run(&at, &block.text) else { continue };
        run += 1;
        // A block is the expected output only if it follows directly, with no line between the two blocks.
        let behind = block.line + block.text.lines().count() + 2;
        match blocks.get(index + 1).filter(|next| next.line == behind) {
            Some(next) if next.language == "json" => assert_json(&at, &next.text, &printed),
            Some(next) if next.language == "text" => assert_text(&at, &next.text, &printed),
            _ => {}
        }
    }
    assert!(run >= at_least, "only {run} examples of {document} were found");
    drop(shell);
    server.terminate().await;
}

fn blocks(document: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(document).unwrap();
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            if !open {
                found.push(Block { line: index + 1, language: language.trim().to_owned(), text: String::new() });
            }
            open = !open;
        } else if let Some(block) = found.last_mut().filter(|_| open) {
            block.text.push_str(line);
            block.text.push('\n');
        }
    }
    assert!(!open, "{}: the last block is not closed", document.display());
    found
}

/// A folder in which commands run, one after the other.
struct Shell {
    folder: PathBuf,
    /// The server that the document calls localhost:8000.
    first: SocketAddr,
    /// Servers that the commands started, with the address that the document gives them.
    servers: Vec<(String, SocketAddr, std::process::Child)>,
}

impl Shell {
    /// Runs the commands of a block and returns what they print. Returns `None` if all of its lines are left out.
    fn run(&mut self, at: &str, block: &str) -> Option<String> {
        let mut script = String::new();
        let mut started = false;
        for line in block.lines() {
            let left_out = NOT_RUN.iter().any(|(beginning, _)| line.starts_with(beginning));
            if left_out || line.trim().is_empty() {
                continue;
            }
            if line.starts_with("target/release/posthaste serve ") {
                // The lines before the start of a server prepare it, so they run first.
                self.run_script(at, &std::mem::take(&mut script));
                self.start_server(at, line);
                started = true;
                continue;
            }
            script.push_str(line);
            script.push('\n');
        }
        if script.is_empty() {
            return started.then(String::new);
        }
        Some(self.run_script(at, &script))
    }

    fn run_script(&self, at: &str, script: &str) -> String {
        if script.is_empty() {
            return String::new();
        }
        // Reads the variables of earlier blocks first, and stores all variables at the end for later blocks.
        let whole = format!(
            "set -ea\nif [ -f .variables ]; then . ./.variables; fi\n{}\nexport -p >.variables\n",
            self.placed(script)
        );
        let done = Command::new("sh")
            .args(["-c", &whole])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{at}: the shell does not start: {error}"));
        let printed = String::from_utf8_lossy(&done.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{at}: {}\n{printed}\n{complaints}", done.status);
        printed
    }

    /// Starts a server on a free port in place of the one that the document names.
    fn start_server(&mut self, at: &str, line: &str) {
        let named = line.split_whitespace().skip_while(|word| *word != "--listen").nth(1);
        let named = named.unwrap_or_else(|| panic!("{at}: a server of an example needs --listen")).to_owned();
        let command = self.placed(&line.replace(&named, "127.0.0.1:0"));
        let log = self.folder.join(format!("server-{}.log", self.servers.len()));
        let words = ["sh".to_owned(), "-c".to_owned(), format!("exec {command}")];
        let child = process::start(&words, &log);
        let deadline = Instant::now() + SERVER_START_TIMEOUT;
        let address = loop {
            let written = std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(address) = process::listening_on(&written) {
                break address;
            }
            assert!(Instant::now() < deadline, "{at}: the server does not start:\n{written}");
            std::thread::sleep(Duration::from_millis(20));
        };
        self.servers.push((named, address, child));
    }

    /// Replaces the binary and the addresses in a text by those of this test.
    fn placed(&self, text: &str) -> String {
        let mut text = text.replace("target/release/posthaste", env!("CARGO_BIN_EXE_posthaste"));
        for (named, address, _) in &self.servers {
            let port = named.rsplit(':').next().unwrap_or_default();
            text =
                text.replace(&format!("localhost:{port}"), &address.to_string()).replace(named, &address.to_string());
        }
        text.replace("localhost:8000", &self.first.to_string())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        for (_, _, child) in &mut self.servers {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn assert_text(at: &str, expected: &str, printed: &str) {
    let mut lines = printed.trim_end().lines();
    for pattern in expected.trim_end().lines() {
        let line = lines.next().unwrap_or_default();
        assert!(matches(pattern, line.trim_end()), "{at}: expected {pattern:?}, got {line:?}\n{printed}");
    }
    assert_eq!(lines.next(), None, "{at}: more was printed than the document shows");
}

fn assert_json(at: &str, expected: &str, printed: &str) {
    let expected: Value = serde_json::from_str(&readable(expected)).unwrap_or_else(|error| panic!("{at}: {error}"));
    // If the commands print several answers, the document shows only the last one.
    let answers: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(printed).into_iter().collect();
    let answer = answers.ok().and_then(|mut answers| answers.pop());
    let answer = answer.unwrap_or_else(|| panic!("{at}: the answer is no JSON: {printed}"));
    if let Err(place) = compare(&expected, &answer) {
        panic!("{at}: the answer differs at {place}\nexpected {expected:#}\ngot {answer:#}");
    }
}

/// Makes an example valid JSON: a `…` outside a string becomes the string "…" or, in an object, a member with that name.
fn readable(example: &str) -> String {
    let mut out = String::new();
    let mut open = Vec::new();
    let mut in_string = false;
    let mut escaped = false;
    let mut last = ' ';
    for character in example.chars() {
        match character {
            '…' if !in_string => match (last, open.last()) {
                ('{' | ',', Some('{')) => out.push_str("\"…\": \"…\""),
                _ => out.push_str("\"…\""),
            },
            _ => out.push(character),
        }
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        match character {
            '"' => in_string = true,
            '{' | '[' => open.push(character),
            '}' | ']' => drop(open.pop()),
            _ => {}
        }
        if !character.is_whitespace() {
            last = character;
        }
    }
    out
}

/// Compares an answer with an example. The error names the place of the difference.
fn compare(expected: &Value, answer: &Value) -> Result<(), String> {
    match (expected, answer) {
        (Value::String(pattern), _) if pattern == ANYTHING => Ok(()),
        (Value::String(pattern), Value::String(text)) if matches(pattern, text) => Ok(()),
        (Value::Object(members), Value::Object(found)) => {
            let open = members.contains_key(ANYTHING);
            for (name, member) in members.iter().filter(|(name, _)| *name != ANYTHING) {
                let value = found.get(name).ok_or_else(|| format!("{name}: missing"))?;
                compare(member, value).map_err(|place| format!("{name}.{place}"))?;
            }
            match found.keys().find(|name| !open && !members.contains_key(*name)) {
                Some(name) => Err(format!("{name}: not in the document")),
                None => Ok(()),
            }
        }
        (Value::Array(elements), Value::Array(found)) => {
            let (shown, open) = match elements.split_last() {
                Some((last, shown)) if last == ANYTHING => (shown, true),
                _ => (elements.as_slice(), false),
            };
            if found.len() < shown.len() || (!open && found.len() > shown.len()) {
                return Err(format!("the number of elements, {}", found.len()));
            }
            let mut pairs = shown.iter().zip(found).enumerate();
            pairs.try_for_each(|(index, (one, other))| compare(one, other).map_err(|place| format!("{index}.{place}")))
        }
        _ if expected == answer => Ok(()),
        _ => Err(format!("{answer}")),
    }
}

/// Whether a text matches a pattern, in which each `…` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split(ANYTHING);
    let Some(mut rest) = parts.next().and_then(|beginning| text.strip_prefix(beginning)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

#[test]
fn an_example_matches_what_it_says_and_nothing_else() {
    let holds = |example: &str, answer: &str| {
        let example = serde_json::from_str(&readable(example)).unwrap();
        compare(&example, &serde_json::from_str(answer).unwrap()).is_ok()
    };
    assert!(holds(r#"{"id": …, "body": "h…y", …}"#, r#"{"id": 7, "body": "hey", "seq": 1}"#));
    assert!(holds(r#"{"id": 7, "link": "a\"…"}"#, r#"{"id": 7, "link": "a\"b"}"#));
    assert!(holds("[{\"id\": 1, …}, …]", r#"[{"id": 1, "a": 2}, {"id": 2}]"#));
    assert!(!holds(r#"{"id": 7}"#, r#"{"id": 7, "seq": 1}"#));
    assert!(!holds(r#"{"id": 7, …}"#, r#"{"id": 8}"#));
    assert!(!holds("[1]", "[1, 2]"));
    assert!(!holds("[1, 2, …]", "[1]"));
    assert!(!holds(r#""h…y""#, r#""hex""#));
}
