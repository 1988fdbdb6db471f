//! File names that uploaders give.
//!
//! Invariant: a stored name is one component of a path, and contains neither control characters nor directional formatting characters.

use crate::base::error::{Error, Result};

/// Longest file name, in characters.
pub const MAX_FILE_NAME_CHARACTERS: usize = 255;

/// Checks a file name.
///
/// # Errors
/// 422 `invalid_file_name`.
pub fn check(name: &str) -> Result<()> {
    let refused = |detail: &'static str| Err(Error::invalid("file_name", "invalid_file_name", detail));
    if name.is_empty() || name.chars().count() > MAX_FILE_NAME_CHARACTERS {
        return refused("must have 1 to 255 characters");
    }
    if name.contains(['/', '\\']) || name == "." || name == ".." {
        return refused("must be a name without a folder");
    }
    if name.chars().any(|character| character.is_control() || changes_direction(character)) {
        return refused("must not contain control characters or marks that change the direction of the text");
    }
    Ok(())
}

/// Whether a character changes the order in which other characters are shown, so that a name that ends in `gpj.exe` could be shown as
/// `exe.jpg`. Unicode calls these characters directional formatting characters (Unicode Standard Annex 9, section 2).
const fn changes_direction(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component_without_tricks() {
        for name in ["a", "picture.png", "résumé 1.pdf", "写真.jpg", "..a", "a".repeat(255).as_str()] {
            assert!(check(name).is_ok(), "{name}");
        }
        let long = "a".repeat(256);
        for name in
            ["", ".", "..", "../a", "a/b", "a\\b", "a\r\nb", "a\0", "a\u{202e}gpj.exe", "\u{2066}a", long.as_str()]
        {
            assert!(check(name).is_err(), "{name:?}");
        }
    }
}
