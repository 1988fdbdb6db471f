//! Reading the title, the description and the address of the image in an HTML page.
//!
//! Invariants:
//! - The page is untrusted. It is read once, nothing in it is executed or followed, and texts are short and contain no characters
//!   that control their display.
//! - Only the head of the page counts, so that text that visitors of a site wrote does not.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use html5gum::emitters::default::DefaultEmitter;
use html5gum::{HtmlString, StartTag, Token, Tokenizer};

use crate::base::links::MAX_URL_CHARACTERS;

/// Maximum length of a title, in characters.
pub const MAX_TITLE_CHARACTERS: usize = 200;
/// Maximum length of a description, in characters.
const MAX_DESCRIPTION_CHARACTERS: usize = 400;
/// Number of bytes at the beginning of a page in which its encoding is searched.
const ENCODING_BYTES: usize = 4_096;

/// What a page says about itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Its title.
    pub title: Option<String>,
    /// Its description.
    pub description: Option<String>,
    /// The URL of its image, which may be relative.
    pub image: Option<String>,
}

/// Names of a text in `<meta>` elements. The first name has precedence.
const TITLES: &[&str] = &["og:title", "twitter:title"];
const DESCRIPTIONS: &[&str] = &["og:description", "twitter:description", "description"];
const IMAGES: &[&str] = &["og:image", "og:image:url", "og:image:secure_url", "twitter:image", "twitter:image:src"];

/// Reads a page. `content_type` is the header of the answer. The page may be cut off.
pub fn read(bytes: &[u8], content_type: &str) -> Described {
    let (text, ..) = encoding_of(bytes, content_type).decode(bytes);
    let mut metas = Metas::default();
    let mut title: Option<String> = None;
    let mut in_title = false;
    for token in tokens(&text) {
        match token {
            Token::StartTag(tag) => match &*tag.name.0 {
                b"body" => break,
                b"meta" => metas.add(&tag),
                b"title" if title.is_none() => {
                    title = Some(String::new());
                    in_title = true;
                }
                _ => in_title = false,
            },
            Token::EndTag(tag) if *tag.name.0 == *b"head" => break,
            Token::EndTag(_) => in_title = false,
            Token::String(part) if in_title => {
                title.get_or_insert_default().push_str(&String::from_utf8_lossy(&part.value.0));
            }
            _ => {}
        }
    }
    let title = metas
        .first(TITLES)
        .and_then(|text| clean(text, MAX_TITLE_CHARACTERS))
        .or_else(|| clean(&title?, MAX_TITLE_CHARACTERS));
    let image = metas.first(IMAGES).map(str::trim).filter(|url| url.len() <= MAX_URL_CHARACTERS);
    Described {
        title,
        description: metas.first(DESCRIPTIONS).and_then(|text| clean(text, MAX_DESCRIPTION_CHARACTERS)),
        image: image.map(str::to_owned),
    }
}

/// The contents of the `<meta>` elements of a page that have one of the known names.
#[derive(Default)]
struct Metas(Vec<(&'static str, String)>);

impl Metas {
    fn add(&mut self, tag: &StartTag<()>) {
        let Some(name) = attribute(tag, b"property").or_else(|| attribute(tag, b"name")) else { return };
        let name = name.trim();
        let known = [TITLES, DESCRIPTIONS, IMAGES].into_iter().flatten().find(|known| known.eq_ignore_ascii_case(name));
        let (Some(known), Some(content)) = (known, attribute(tag, b"content")) else { return };
        // The first one with a text counts.
        if !content.trim().is_empty() && self.first(&[known]).is_none() {
            self.0.push((known, content));
        }
    }

    fn first(&self, names: &[&str]) -> Option<&str> {
        names
            .iter()
            .find_map(|name| self.0.iter().find(|(known, _)| known == name).map(|(_, content)| content.as_str()))
    }
}

/// The tokens of a page. The contents of scripts and styles are texts, and not elements.
fn tokens(text: &str) -> impl Iterator<Item = Token> + '_ {
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    Tokenizer::new_with_emitter(text, emitter).flatten()
}

fn attribute(tag: &StartTag<()>, name: &[u8]) -> Option<String> {
    let value = tag.attributes.get(&HtmlString(name.to_vec()))?;
    Some(String::from_utf8_lossy(&value.value.0).into_owned())
}

/// The encoding of a page: that of its byte order mark, of the header, of its `<meta>` elements, or else UTF-8 if the bytes are
/// valid, and windows-1252 otherwise.
fn encoding_of(bytes: &[u8], content_type: &str) -> &'static Encoding {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return encoding;
    }
    let head = &bytes[..bytes.len().min(ENCODING_BYTES)];
    charset_in(content_type).or_else(|| declared_encoding(head)).unwrap_or_else(|| match std::str::from_utf8(bytes) {
        Ok(_) => UTF_8,
        // The last character is cut off.
        Err(error) if error.error_len().is_none() => UTF_8,
        Err(_) => WINDOWS_1252,
    })
}

fn declared_encoding(head: &[u8]) -> Option<&'static Encoding> {
    let (head, ..) = WINDOWS_1252.decode(head);
    let encoding = tokens(&head).find_map(|token| {
        let Token::StartTag(tag) = token else { return None };
        if *tag.name.0 != *b"meta" {
            return None;
        }
        let charset = attribute(&tag, b"charset").and_then(|label| Encoding::for_label(label.as_bytes()));
        charset
            .or_else(|| charset_in(&attribute(&tag, b"content").filter(|_| attribute(&tag, b"http-equiv").is_some())?))
    })?;
    // These bytes were read as ASCII, so they are not UTF-16.
    Some(if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding })
}

/// The encoding that the parameter `charset` of a media type names.
fn charset_in(content_type: &str) -> Option<&'static Encoding> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        Encoding::for_label(value.trim().trim_matches(['"', '\'']).as_bytes()).filter(|_| is_charset)
    })
}

/// Makes a text fit for display: white space becomes single spaces, characters that control the display are removed, and a text of
/// more than `max` characters ends with `…`. `None` if nothing remains.
pub fn clean(text: &str, max: usize) -> Option<String> {
    let words = text.split(char::is_whitespace).map(|word| word.chars().filter(|character| !is_invisible(*character)));
    let mut cleaned = String::new();
    let mut count = 0;
    for word in words {
        let mut is_first = true;
        for character in word {
            if count + 1 + usize::from(is_first && count > 0) > max {
                if count == max {
                    cleaned.pop();
                }
                cleaned.truncate(cleaned.trim_end().len());
                cleaned.push('…');
                return Some(cleaned);
            }
            if is_first && count > 0 {
                cleaned.push(' ');
                count += 1;
            }
            is_first = false;
            cleaned.push(character);
            count += 1;
        }
    }
    (!cleaned.is_empty()).then_some(cleaned)
}

/// Whether a character controls the display of others or is not shown. The joiners of emoji and of scripts are kept.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{AD}' | '\u{61C}' | '\u{180E}' | '\u{200B}' | '\u{200E}' | '\u{200F}')
        || matches!(character, '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}')
        || matches!(character, '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests;
