//! Refuses passwords that attackers try first. No network is used.
//!
//! Invariant: the result depends on the password only. The list in `common_passwords.txt` holds sorted words in lower
//! case, one in each line. A password is refused if it is a word of the list, a usual spelling of one (`p4$$w0rd`), or
//! such a word with a short tail (`password2026!`). The check refuses passwords that are easy to guess. It does not
//! measure strength: a password that passes may still be weak.

/// The list of common words.
const WORDS: &str = include_str!("../common_passwords.txt");

/// Rows of keys, the alphabet and the digits. Three or more neighbours in one row, in either direction, are a run.
const ROWS: &[&str] = &[
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890123456789",
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qwertzuiop",
    "yxcvbnm",
    "azertyuiop",
    "qsdfghjklm",
    "wxcvbn",
    "!@#$%^&*()",
    "1qaz",
    "2wsx",
    "3edc",
    "4rfv",
    "5tgb",
    "6yhn",
    "7ujm",
];

/// Shortest run, in characters.
const SHORTEST_RUN: usize = 3;
/// Longest pattern, in characters, whose repetition is always weak, even if the pattern itself is not.
const LONGEST_WEAK_UNIT: usize = 4;
/// Longest pattern, in characters. Repetitions of longer ones are not searched for.
const LONGEST_UNIT: usize = 32;
/// Shortest word before a tail, in characters.
const SHORTEST_STEM: usize = 4;
/// A tail with at most this many digits, in any order, adds almost nothing to a word.
const TAIL_DIGITS: usize = 4;
/// A tail with more than this many other characters is not weak.
const TAIL_SIGNS: usize = 3;
/// Longest tail, in characters, that is cut off.
const TAIL_LIMIT: usize = 16;

/// Whether attackers would try `password` first: it is a word of the list or a simple pattern, possibly with characters
/// replaced and with a short tail. Meant for passwords of at least 8 characters.
pub fn is_common(password: &str) -> bool {
    let characters: Vec<char> = password.to_lowercase().chars().collect();
    // Every length of the tail is tried, because the beginning of the tail may be the end of the word: hell0, hell0123.
    let longest_tail = characters.iter().rev().take_while(|character| !character.is_alphabetic()).count();
    (0..=longest_tail.min(TAIL_LIMIT)).any(|length| {
        let (stem, tail) = characters.split_at(characters.len() - length);
        (tail.is_empty() || stem.len() >= SHORTEST_STEM) && is_weak_tail(tail) && is_weak(stem)
    })
}

/// Whether the text is a word of the list, consists of runs, repeats one of these, or repeats a short pattern.
fn is_weak(text: &[char]) -> bool {
    let unit = unit_of(text);
    let repeated = unit.len() < text.len();
    (repeated && unit.len() <= LONGEST_WEAK_UNIT) || is_made_of_runs(text) || is_made_of_runs(unit) || is_listed(unit)
}

/// The shortest pattern whose repetition is the text, or the text itself if there is none. The last repetition of a
/// short pattern may be incomplete.
fn unit_of(text: &[char]) -> &[char] {
    let repeats = |length: &usize| {
        let whole = *length <= LONGEST_WEAK_UNIT || text.len().is_multiple_of(*length);
        whole && text.iter().skip(*length).zip(text).all(|(later, earlier)| later == earlier)
    };
    let length = (1..=LONGEST_UNIT.min(text.len() / 2)).find(repeats);
    &text[..length.unwrap_or(text.len())]
}

fn is_made_of_runs(text: &[char]) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let length = run_length(rest);
        if length < SHORTEST_RUN {
            return false;
        }
        rest = &rest[length..];
    }
    !text.is_empty()
}

/// How many characters at the beginning are the same, or neighbours in one of the rows.
fn run_length(text: &[char]) -> usize {
    let same = text.iter().take_while(|character| **character == text[0]).count();
    let in_rows = ROWS.iter().flat_map(|row| {
        let forward: Vec<char> = row.chars().collect();
        let backward: Vec<char> = row.chars().rev().collect();
        [forward, backward]
    });
    let longest = in_rows.map(|row| {
        let common = |at: usize| text.iter().zip(&row[at..]).take_while(|(left, right)| left == right).count();
        (0..row.len()).map(common).max().unwrap_or(0)
    });
    longest.max().unwrap_or(0).max(same)
}

/// Whether a tail adds almost nothing to a word.
fn is_weak_tail(tail: &[char]) -> bool {
    let digits: Vec<char> = tail.iter().copied().filter(char::is_ascii_digit).collect();
    let few_digits = digits.len() <= TAIL_DIGITS || is_made_of_runs(&digits) || unit_of(&digits).len() < digits.len();
    few_digits && tail.len() - digits.len() <= TAIL_SIGNS
}

fn is_listed(text: &[char]) -> bool {
    let word: String = text.iter().copied().map(plain_character).collect();
    !word.is_empty() && WORDS.lines().any(|line| line.chars().map(plain_character).eq(word.chars()))
}

/// Maps characters that are used in place of each other to the same character.
const fn plain_character(character: char) -> char {
    match character {
        '@' | '4' => 'a',
        '0' => 'o',
        // 1 is used for both i and l.
        '1' | 'l' | '!' | '|' => 'i',
        '3' => 'e',
        '$' | '5' => 's',
        '7' => 't',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_lower_case_and_without_repetition() {
        let words: Vec<&str> = WORDS.lines().collect();
        assert!((400..=800).contains(&words.len()), "{}", words.len());
        assert!(words.is_sorted_by(|left, right| left < right));
        for word in words {
            assert!(word.len() >= 4, "{word}");
            assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{word}");
        }
    }

    #[test]
    fn common_passwords_are_refused() {
        for password in [
            // Words of the list, in any case.
            "password",
            "PASSWORD",
            "PassWord",
            "iloveyou",
            "liverpool",
            "trustno1",
            "1q2w3e4r",
            "posthaste",
            // Disguised words.
            "p@ssw0rd",
            "P4$$W0RD",
            "pa55word",
            "1l0v3y0u",
            "!loveyou",
            "m1che11e",
            "qwer7yuiop",
            "5un5h1n3",
            // Words with a tail.
            "password1",
            "password!",
            "Password123",
            "Passw0rd2026!",
            "password123456",
            "password987654321!",
            "Summer2026",
            "dragon99",
            "michael1985!!",
            "jordan#23",
            "iloveyou<3",
            "hello12341234",
            // Digits in order, rows of keys, the alphabet.
            "12345678",
            "87654321",
            "1234567890",
            "78901234",
            "abcdefgh",
            "HGFEDCBA",
            "qwertyui",
            "Qwertyuiop",
            "qwertz123",
            "azerty123",
            "asdfghjkl",
            "qweasdzxc",
            "1qaz2wsx",
            "!@#$%^&*",
            "abcd1234",
            "1234qwer",
            "abc123xyz",
            "qwerty2026!",
            // Repetitions.
            "aaaaaaaa",
            "        ",
            "aaaabbbb",
            "11112222",
            "abababab",
            "abcabcabc",
            "xkqxkqxkqxk",
            "passwordpassword",
            "DragonDragon1",
            "hellohellohello",
            "ääääääää",
        ] {
            assert!(is_common(password), "{password}");
        }
    }

    #[test]
    fn uncommon_passwords_are_accepted() {
        for password in [
            "kX9#vQ2m!pLz",
            "7hG2kq9ZrT4w",
            "83051497",
            "correct horse battery staple",
            "orbit lantern velvet quarry",
            "violet-tractor-under-glass",
            "dragonswallowsteapot",
            "passwordless ferry timetable",
            "password83051497",
            "michael?;:,>&%",
            "tr0ub4dor&3",
            "Ünïcödé ist schön",
            "密码不是这个词语",
            "qwxzrtpl",
            "abcdxqpl",
            "kk7#2#9!",
            "kxqzvwkxqzvm",
        ] {
            assert!(!is_common(password), "{password}");
        }
    }

    #[test]
    fn any_text_can_be_checked() {
        for text in
            ["", "1", "!", "\u{0}", "İ", "ß", "👍🏽👍🏽", "\u{301}", "1234", &"1".repeat(100_000), &"ab1!".repeat(50_000)]
        {
            is_common(text);
        }
        assert!(!is_common(""));
    }
}
