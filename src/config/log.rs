//! The option `--log`: a level, or a filter.

use tracing_subscriber::EnvFilter;

/// The words for levels.
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// Checks a filter. A single word that is no level would select the messages of a module with this name, and a server that is
/// started with `--log verbose` would log nothing. So such a word is refused.
///
/// # Errors
/// A sentence for the operator.
pub fn check(filter: &str) -> Result<(), String> {
    if filter.trim().is_empty() {
        return Err("--log is empty, and nothing would be logged; use info, or off to log nothing".into());
    }
    EnvFilter::try_new(filter).map_err(|error| format!("--log: {error}; {FORMS}"))?;
    if filter.contains('[') {
        return Ok(());
    }
    let words = filter.split(',').map(str::trim).filter(|word| !word.is_empty() && !word.contains('='));
    for word in words {
        let is_level = LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) || word.parse::<u8>().is_ok();
        if !is_level && !word.starts_with("posthaste") && !word.contains("::") {
            return Err(format!("--log: {word:?} is no level; {FORMS}"));
        }
    }
    Ok(())
}

const FORMS: &str = "use error, warn, info, debug or off, or a filter such as info,posthaste::http=debug";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_has_one() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,posthaste::http=debug",
            "posthaste=debug",
            "posthaste",
            "hyper=warn",
            "[request]=debug",
            "3",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for wrong in ["", " ", "verbose", "infos", "info,debgu", "posthaste=loud", "=,=,="] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
