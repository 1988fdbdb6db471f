//! Reading the configuration file.
//!
//! Invariant: an error names the file, the line and the key, and contains no value of the file. A value may be a secret.

use std::path::{Path, PathBuf};

use super::environment::nearest;
use super::options::File;

/// The configuration file in the working directory, read if `--config` is not given.
const DEFAULT_FILE: &str = "posthaste.toml";

/// The configuration file that is used: the given one, else the default one if it exists.
pub fn path(given: Option<&Path>) -> Option<PathBuf> {
    let default = Path::new(DEFAULT_FILE);
    given.or_else(|| default.exists().then_some(default)).map(Path::to_owned)
}

/// Reads the configuration file. Without one, all its values are unset.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn read(given: Option<&Path>) -> Result<File, String> {
    let Some(path) = path(given) else { return Ok(File::default()) };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("the configuration file {} cannot be read: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| format!("{}, {}", path.display(), describe(&text, &error)))
}

/// An error with its line and its key: `line 3, key listen: …`.
fn describe(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    // The list of expected keys is long, so the nearest one is shown in its place.
    if let Some(rest) = error.message().strip_prefix("unknown field `")
        && let Some((wrong, expected)) = rest.split_once('`')
    {
        let hint = match nearest(wrong, expected.split('`').skip(1).step_by(2)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "keys are the names of options with _ instead of -: posthaste serve --help lists them".to_owned(),
        };
        return format!("line {line}: unknown field `{wrong}`; {hint}");
    }
    let message = without_value(error.message());
    match key_of(text, line) {
        Some(key) => format!("line {line}, key {key}: {message}"),
        None => format!("line {line}: {message}"),
    }
}

/// The key to which a line belongs. A list may continue over several lines, so earlier lines are searched too.
fn key_of(text: &str, line: usize) -> Option<&str> {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let (key, _) = lines.iter().rev().find_map(|line| line.split_once('='))?;
    let key = key.trim().trim_matches(['"', '\'']);
    let is_key =
        !key.is_empty() && key.chars().all(|character| character.is_alphanumeric() || "_-.".contains(character));
    is_key.then_some(key)
}

/// The message without the text that it quotes: `invalid type: string "abc", expected …`.
fn without_value(message: &str) -> String {
    let message = message.trim().replace('\n', ", ");
    match (message.find(": string \""), message.rfind("\", expected")) {
        (Some(start), Some(end)) if start < end => {
            format!("{}: a text{}", &message[..start], &message[end + 1..])
        }
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        describe(text, &toml::from_str::<File>(text).unwrap_err())
    }

    #[test]
    fn errors_name_line_and_key_and_no_value() {
        for (text, expected) in [
            ("demo = true\nlisen = \"x\"", "line 2: unknown field `lisen`; did you mean `listen`?"),
            ("data-dir = \"x\"", "did you mean `data_dir`?"),
            ("nothing_like_it = 1", "posthaste serve --help"),
            ("\n\nlisten = \"localhost\"", "line 3, key listen: localhost is not an address"),
            ("max_file_mib = \"hunter2\"", "line 1, key max_file_mib: invalid type: a text, expected i64"),
            ("smtp_url = 5", "line 1, key smtp_url: invalid type"),
            ("cors_origin = [\n  1,\n]", "key cors_origin: invalid type"),
            ("registration = \"hunter2\"", "key registration: "),
            ("demo = \"maybe\"", "line 1, key demo: \"maybe\" is neither on nor off"),
            ("log = \"info\"\nlog = \"warn\"", "line 2"),
            ("data_dir = data", "line 1, key data_dir: "),
        ] {
            let found = refusal(text);
            assert!(found.contains(expected), "{text}: {found}");
            assert!(text.contains("registration") || !found.contains("hunter2"), "{found}");
            assert_eq!(found.lines().count(), 1, "{found}");
        }
    }

    #[test]
    fn switches_and_addresses_have_several_forms() {
        let read = |text: &str| toml::from_str::<File>(text).unwrap();
        for text in ["demo = true", "demo = \"yes\"", "demo = 1", "demo = \"on\""] {
            assert!(read(text).demo.unwrap().0, "{text}");
        }
        for text in ["rate_limits = \"off\"", "rate_limits = false", "rate_limits = 0"] {
            assert!(!read(text).rate_limits.unwrap().0, "{text}");
        }
        for text in ["listen = 8000", "listen = \":8000\"", "listen = \"localhost:8000\""] {
            assert_eq!(read(text).listen.unwrap().0.to_string(), "127.0.0.1:8000", "{text}");
        }
    }
}
