//! Finding URLs in the texts of messages.
//!
//! Invariant: a text is read once, whatever it contains.

use std::ops::Range;

use memchr::memmem;
use url::Url;

use super::mentions::ends_with_local_part;

/// Maximum length of a URL that gets a preview, in characters.
pub const MAX_URL_CHARACTERS: usize = 2_000;

/// The places of the `http:` and `https:` URLs in a text, in their order. Punctuation after a URL does not belong to it.
pub fn find(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut from = 0;
    std::iter::from_fn(move || {
        let mut colon_from = from;
        loop {
            let colon = colon_from + memmem::find(text.as_bytes().get(colon_from..)?, b"://")?;
            colon_from = colon + 3;
            let Some(start) = scheme_start(text, from, colon) else { continue };
            let end = end_of_url(text, colon + 3);
            if end > colon + 3 {
                from = end;
                return Some(start..end);
            }
        }
    })
}

/// The first URL of a text, if it can have a preview: it is not too long, has a host, and contains no user name and no password.
pub fn previewed_url(text: &str) -> Option<&str> {
    let found = &text[find(text).next()?];
    if found.len() > MAX_URL_CHARACTERS && found.chars().count() > MAX_URL_CHARACTERS {
        return None;
    }
    let url = Url::parse(found).ok()?;
    (url.has_host() && url.username().is_empty() && url.password().is_none()).then_some(found)
}

/// Where the address of a page begins in a word, which is a text without the characters of [`ends_url`]: with a scheme and
/// `://`, with `www.`, or with a domain that is followed by a path, a query or a fragment. The address extends to the end of
/// the word.
pub(super) fn address_start(word: &str) -> Option<usize> {
    let bytes = word.as_bytes();
    let is_scheme = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(**byte, b'+' | b'-' | b'.');
    let with_scheme = memmem::find_iter(bytes, b"://").find_map(|colon| {
        let length = bytes[..colon].iter().rev().take_while(is_scheme).count();
        (length > 0).then(|| colon - length)
    });
    let with_www = bytes.windows(4).enumerate().find_map(|(at, found)| {
        let is_word_start = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
        (is_word_start && found.eq_ignore_ascii_case(b"www.")).then_some(at)
    });
    let with_path = word.match_indices(['/', '?', '#']).find_map(|(end, _)| domain_start(&word[..end]));
    [with_scheme, with_www, with_path].into_iter().flatten().min()
}

/// Where the domain at the end of a text begins. A port can follow it. A name directly after an `@` is a domain only in the
/// address of a mailbox.
fn domain_start(text: &str) -> Option<usize> {
    let without_port = text.trim_end_matches(|character: char| character.is_ascii_digit()).strip_suffix(':');
    let text = without_port.unwrap_or(text);
    let before = text.trim_end_matches(|character: char| character.is_alphanumeric() || matches!(character, '.' | '-'));
    let domain = &text[before.len()..];
    let (_, last) = domain.rsplit_once('.')?;
    let is_domain = domain.split('.').all(|label| !label.is_empty())
        && last.chars().count() >= 2
        && last.chars().all(char::is_alphabetic);
    let is_name = before.strip_suffix('@').is_some_and(|before| !ends_with_local_part(before));
    (is_domain && !is_name).then_some(before.len())
}

/// Where the scheme `http` or `https` before `colon` begins. It begins at `from` or later, and not in the middle of a word.
fn scheme_start(text: &str, from: usize, colon: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    ["https", "http"].into_iter().find_map(|scheme| {
        let start = colon.checked_sub(scheme.len()).filter(|start| *start >= from)?;
        let is_scheme = bytes[start..colon].eq_ignore_ascii_case(scheme.as_bytes());
        let is_word = start > 0 && bytes[start - 1].is_ascii_alphanumeric();
        (is_scheme && !is_word).then_some(start)
    })
}

fn end_of_url(text: &str, start: usize) -> usize {
    let rest = &text[start..];
    let rest = &rest[..rest.find(ends_url).unwrap_or(rest.len())];
    let mut surplus = [('(', ')'), ('[', ']'), ('{', '}')].map(|(open, close)| {
        let count = |bracket| rest.matches(bracket).count();
        (close, count(close).saturating_sub(count(open)))
    });
    let mut end = rest.len();
    for last in rest.chars().rev() {
        let is_punctuation = matches!(last, '.' | ',' | ':' | ';' | '!' | '?' | '\'' | '*');
        let bracket = surplus.iter_mut().find(|(close, count)| *close == last && *count > 0);
        match bracket {
            // A bracket that was opened before the URL closes after it.
            Some((_, count)) => *count -= 1,
            None if is_punctuation => {}
            None => break,
        }
        end -= last.len_utf8();
    }
    start + end
}

/// Whether a character is never part of a URL. Texts without spaces between words have punctuation directly after a URL.
pub(super) fn ends_url(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(character, '<' | '>' | '"' | '`' | '\\' | '|' | '^')
        || matches!(character, '…' | '“' | '”' | '„' | '«' | '»' | '、' | '。' | '「'..='】' | '〈'..='》')
        || matches!(character, '，' | '！' | '？' | '；' | '：' | '（' | '）')
        || matches!(character, '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        find(text).map(|place| &text[place]).collect()
    }

    #[test]
    fn urls_end_before_the_punctuation_of_the_sentence() {
        for (text, urls) in [
            ("https://example.org", vec!["https://example.org"]),
            ("see http://a.example/b?c=d#e.", vec!["http://a.example/b?c=d#e"]),
            ("(see https://a.example/b)", vec!["https://a.example/b"]),
            ("https://a.example/b_(c)", vec!["https://a.example/b_(c)"]),
            ("(https://a.example/b_(c)).", vec!["https://a.example/b_(c)"]),
            ("[text](https://a.example/b)!", vec!["https://a.example/b"]),
            ("<https://a.example/>", vec!["https://a.example/"]),
            ("HTTPS://A.example, http://b.example; and", vec!["HTTPS://A.example", "http://b.example"]),
            ("見てhttps://例え.example/パス。次", vec!["https://例え.example/パス"]),
            ("https://a.example/?u=http://b.example", vec!["https://a.example/?u=http://b.example"]),
            ("xhttp://a.example ftp://b.example http:// http://.", vec![]),
            ("://", vec![]),
            ("no url: http", vec![]),
            ("\u{202E}http://a.example/\u{202C}", vec!["http://a.example/"]),
        ] {
            assert_eq!(found(text), urls, "{text}");
        }
    }

    #[test]
    fn only_the_first_url_can_have_a_preview() {
        let long = format!("https://a.example/{}", "a".repeat(MAX_URL_CHARACTERS));
        for (text, url) in [
            ("https://a.example/1 https://a.example/2", Some("https://a.example/1")),
            ("https://a:b@a.example/ https://a.example/2", None),
            ("https://a@a.example/", None),
            ("https://[a/ https://a.example/2", None),
            (&*long, None),
            (&long[..MAX_URL_CHARACTERS], Some(&long[..MAX_URL_CHARACTERS])),
            ("bugs@example.org", None),
        ] {
            assert_eq!(previewed_url(text), url, "{text}");
        }
    }

    #[test]
    fn a_text_of_brackets_or_schemes_is_read_once() {
        for part in ["https://a)", "http://", "://", "https://a/(("] {
            find(&part.repeat(100_000)).count();
        }
    }
}
