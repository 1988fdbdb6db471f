//! The variables of the environment: which ones are empty, and which ones no option has.

use std::collections::BTreeSet;

use clap::{Args, Command};

use super::options::{DataOptions, ServeOptions};

/// The beginning of the names of all variables.
const PREFIX: &str = "POSTHASTE_";
/// Beginnings of variables that the tests of this program read. A server that a test starts inherits them.
const OF_TESTS: &[&str] = &["POSTHASTE_TEST_", "POSTHASTE_SOAK", "POSTHASTE_SEED"];
/// How many letters a name may differ from a known one to be taken for a mistake in writing it.
const TYPO_LETTERS: usize = 4;

/// The variables of all options.
fn known() -> BTreeSet<String> {
    let command = ServeOptions::augment_args(DataOptions::augment_args(Command::new("posthaste")));
    command.get_arguments().filter_map(|option| Some(option.get_env()?.to_str()?.to_owned())).collect()
}

/// The known name that is the most similar to a wrong one, if one is similar.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distances = names.map(|name| (strsim::damerau_levenshtein(wrong, name), name));
    distances.filter(|(distance, _)| *distance <= TYPO_LETTERS).min().map(|(_, name)| name)
}

/// Refuses a variable that is set to an empty text. The operator probably meant to give a value, or to unset it.
///
/// # Errors
/// A sentence for the operator.
pub fn refuse_empty() -> Result<(), String> {
    let empty = known().into_iter().find(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
    match empty {
        None => Ok(()),
        Some(name) => Err(format!("the variable {name} is empty; give it a value, or unset it")),
    }
}

/// A sentence for each variable that looks like one of this program and that no option has.
pub fn unknown() -> Vec<String> {
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    describe_unknown(set.collect(), &known())
}

fn describe_unknown(mut set: Vec<String>, known: &BTreeSet<String>) -> Vec<String> {
    set.sort();
    let ours = set.iter().filter(|name| name.starts_with(PREFIX) && !known.contains(*name));
    ours.filter(|name| !OF_TESTS.iter().any(|beginning| name.starts_with(beginning)))
        .map(|name| match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("the variable {name} is unknown and has no effect; did you mean {near}?"),
            None => format!(
                "the variable {name} is unknown and has no effect; posthaste serve --help lists the variables of this version"
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_variable_is_reported_with_the_nearest_known_one() {
        let found = |names: &[&str]| describe_unknown(names.iter().map(|name| (*name).to_owned()).collect(), &known());
        assert_eq!(found(&["PATH", "POSTHASTE_LISTEN", "POSTHASTE_LOG", "POSTHASTE_TEST_BIN"]), Vec::<String>::new());
        for (wrong, near) in [
            ("POSTHASTE_LISTN", "POSTHASTE_LISTEN"),
            ("POSTHASTE_DATABSE_URL", "POSTHASTE_DATABASE_URL"),
            ("POSTHASTE_CORS_ORIGINS", "POSTHASTE_CORS_ORIGIN"),
        ] {
            let sentences = found(&[wrong]);
            assert_eq!(sentences.len(), 1);
            assert!(sentences[0].contains(wrong) && sentences[0].contains(&format!("did you mean {near}?")), "{wrong}");
        }
        assert!(found(&["POSTHASTE_SOMETHING_ELSE"])[0].contains("posthaste serve --help"));
    }
}
