//! Messages in the format of Slack's incoming webhooks, as plain text.
//!
//! Invariants:
//! - Nothing in a message is refused because of its form. Parts that are unknown or have another type are left out, so a program that
//!   was written for Slack needs no change.
//! - Each visible text of the message is in the result once, in the order in which Slack shows it.
//! - The result is at most [`MAX_BODY_CHARACTERS`] long. A longer one is cut, and says so at its end.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::sending::drafts::MAX_BODY_CHARACTERS;

/// How often a text that contains parts may be nested. Slack nests three times.
const MAX_DEPTH: usize = 8;
/// What a divider becomes.
const DIVIDER: &str = "———";

/// A message of a program, in the format of Slack. Needs a `text`, or `blocks` or `attachments` that contain one. Other fields are
/// ignored.
#[derive(Deserialize, ToSchema)]
#[schema(as = IncomingMessage, example = json!({"text": "The build is green."}))]
pub struct SlackMessage {
    /// A text of more than 8,000 characters is cut.
    #[serde(default)]
    text: Option<String>,
    /// Blocks in the format of Slack's Block Kit.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    blocks: Value,
    /// Attachments in the format of Slack, as Grafana and Alertmanager send them.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    attachments: Value,
}

impl SlackMessage {
    /// The whole message as a text. Empty if the message contains no text.
    pub fn to_text(&self) -> String {
        let text = self.text.as_deref().map(unescape).unwrap_or_default();
        let blocks = lines(list(&self.blocks).filter_map(|block| block_text(block, 0)));
        // Slack shows `text` in notifications, and `blocks` in the conversation. Usually the blocks contain the text.
        let summary = if blocks.contains(text.trim()) { String::new() } else { text };
        let attachments = list(&self.attachments).map(attachment_text);
        let parts: Vec<String> =
            [summary, blocks].into_iter().chain(attachments).filter(|part| !part.trim().is_empty()).collect();
        match &*parts {
            // A text alone stays as it is.
            [] => self.text.as_deref().map(unescape).unwrap_or_default(),
            parts => parts.join("\n\n"),
        }
    }

    /// As [`Self::to_text`], cut to the longest text of a message.
    pub fn to_body(&self) -> String {
        cut(self.to_text(), MAX_BODY_CHARACTERS)
    }
}

/// Cuts a text that is too long, and appends how much is missing.
fn cut(text: String, limit: usize) -> String {
    let count = text.chars().count();
    if count <= limit {
        return text;
    }
    // The number of cut characters is at most `count`, so its text is not longer than this mark.
    let longest_mark = mark(count).chars().count();
    let kept = limit - longest_mark.min(limit);
    let end = text.char_indices().nth(kept).map_or(text.len(), |(at, _)| at);
    format!("{}{}", &text[..end], mark(count - kept))
}

fn mark(count: usize) -> String {
    format!("\n… [{count} characters were cut off]")
}

/// The elements of an array; none if the value is something else.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A field that is a text or a number, decoded. `None` if it is empty.
fn field(value: &Value, name: &str) -> Option<String> {
    let text = match value.get(name)? {
        Value::String(text) => unescape(text),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A field that is a text object (`{"type": "mrkdwn", "text": …}`), or a text.
fn text_object(value: &Value, name: &str) -> Option<String> {
    field(value, name).or_else(|| field(value.get(name)?, "text"))
}

/// A text and the address to which it leads.
fn linked(text: Option<String>, url: Option<String>) -> Option<String> {
    match (text, url) {
        (Some(text), Some(url)) if text != url => Some(format!("{text} ({url})")),
        (text, url) => text.or(url),
    }
}

fn lines(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("\n")
}

/// A text that stands above another one, if there is one.
fn named(title: Option<String>, value: Option<String>) -> Option<String> {
    match (title, value) {
        (Some(title), Some(value)) if value.contains('\n') => Some(format!("{title}:\n{value}")),
        (Some(title), Some(value)) => Some(format!("{title}: {value}")),
        (title, value) => title.or(value),
    }
}

fn attachment_text(attachment: &Value) -> String {
    let text = |name| field(attachment, name);
    let fields = list(&attachment["fields"]).filter_map(|entry| named(field(entry, "title"), field(entry, "value")));
    let parts =
        [text("pretext"), linked(text("author_name"), text("author_link")), linked(text("title"), text("title_link"))]
            .into_iter()
            .chain([text("text")])
            .flatten()
            .chain(fields)
            .chain(list(&attachment["blocks"]).filter_map(|block| block_text(block, 0)))
            .chain(list(&attachment["actions"]).filter_map(|element| element_text(element, 0)))
            .chain([text("image_url"), text("footer")].into_iter().flatten());
    let shown = lines(parts);
    // The fallback repeats the other parts for clients that cannot show them.
    if shown.is_empty() { text("fallback").unwrap_or_default() } else { shown }
}

/// The text of a block. `None` if it has none.
fn block_text(block: &Value, depth: usize) -> Option<String> {
    if depth > MAX_DEPTH {
        return None;
    }
    let text = match block["type"].as_str()? {
        "divider" => DIVIDER.to_owned(),
        "context" => {
            list(&block["elements"]).filter_map(|part| element_text(part, depth)).collect::<Vec<_>>().join(" ")
        }
        "actions" => lines(list(&block["elements"]).filter_map(|part| element_text(part, depth))),
        "image" => lines(
            [text_object(block, "title"), linked(field(block, "alt_text"), field(block, "image_url"))]
                .into_iter()
                .flatten(),
        ),
        "video" => lines(
            [linked(text_object(block, "title"), field(block, "title_url")), text_object(block, "description")]
                .into_iter()
                .flatten(),
        ),
        "rich_text" => lines(list(&block["elements"]).map(|part| rich_text(part, depth))),
        // A section, a header, markdown, and blocks that Slack may add later.
        _ => {
            let entry = |entry: &Value| field(entry, "text");
            let accessory = block.get("accessory").and_then(|element| element_text(element, depth));
            lines(
                text_object(block, "text").into_iter().chain(list(&block["fields"]).filter_map(entry)).chain(accessory),
            )
        }
    };
    (!text.is_empty()).then_some(text)
}

/// The text of an element of a block: a text, a button, an image or a menu.
fn element_text(element: &Value, depth: usize) -> Option<String> {
    if depth > MAX_DEPTH {
        return None;
    }
    let text = text_object(element, "text").or_else(|| text_object(element, "placeholder"));
    linked(text.or_else(|| field(element, "alt_text")), field(element, "url").or_else(|| field(element, "image_url")))
}

/// The text of a section, a list, a quote or a preformatted part of a rich text.
fn rich_text(part: &Value, depth: usize) -> String {
    if depth > MAX_DEPTH {
        return String::new();
    }
    let elements = list(&part["elements"]);
    match part["type"].as_str().unwrap_or_default() {
        "rich_text_list" => lines(elements.map(|entry| format!("• {}", rich_text(entry, depth + 1)))),
        "rich_text_quote" => {
            let text: String = elements.map(rich_element).collect();
            lines(text.lines().map(|line| format!("> {line}")))
        }
        _ => elements.map(rich_element).collect(),
    }
}

/// An element of a rich text, whose texts are not escaped.
fn rich_element(element: &Value) -> String {
    let text = |name: &str| element[name].as_str().map(str::to_owned);
    match element["type"].as_str().unwrap_or_default() {
        "link" => linked(text("text"), text("url")).unwrap_or_default(),
        "emoji" => text("name").map(|name| format!(":{name}:")).unwrap_or_default(),
        "user" => text("user_id").map(|id| format!("@{id}")).unwrap_or_default(),
        "channel" => text("channel_id").map(|id| format!("#{id}")).unwrap_or_default(),
        "broadcast" => text("range").map(|range| format!("@{range}")).unwrap_or_default(),
        "date" => text("fallback").unwrap_or_default(),
        _ => text("text").unwrap_or_default(),
    }
}

/// Decodes what Slack writes in angle brackets (`<https://example.org|a link>`), and its three entities. Other angle brackets stay.
fn unescape(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        decoded.push_str(&unescape_entities(before));
        // The search ends at the next angle bracket, so the whole text is read once, whatever it contains.
        let end = after.find(['<', '>', '\n']).filter(|end| after[*end..].starts_with('>'));
        match end.and_then(|end| Some((reference(&after[..end])?, end))) {
            Some((shown, end)) => {
                decoded.push_str(&shown);
                rest = &after[end + 1..];
            }
            None => {
                decoded.push('<');
                rest = after;
            }
        }
    }
    decoded.push_str(&unescape_entities(rest));
    decoded
}

/// The text of a reference in angle brackets. `None` if it is none.
fn reference(inside: &str) -> Option<String> {
    let (target, label) = match inside.split_once('|') {
        Some((target, label)) => (target, Some(unescape_entities(label)).filter(|label| !label.trim().is_empty())),
        None => (inside, None),
    };
    let is_link = ["http://", "https://", "mailto:", "tel:"].iter().any(|scheme| target.starts_with(scheme));
    if is_link {
        return linked(label, Some(unescape_entities(target)));
    }
    let id = |sign: char| {
        let id =
            target.strip_prefix(sign).filter(|id| !id.is_empty() && id.chars().all(|letter| !letter.is_whitespace()));
        id.map(|id| id.split('^').next().unwrap_or(id).to_owned())
    };
    let with_sign = |sign: char, text: String| if text.starts_with(sign) { text } else { format!("{sign}{text}") };
    if let Some(user) = id('@') {
        return Some(with_sign('@', label.unwrap_or(user)));
    }
    if let Some(channel) = id('#') {
        return Some(with_sign('#', label.unwrap_or(channel)));
    }
    // `<!here>`, `<!subteam^S1|@team>`, `<!date^…|a fallback>`.
    match (id('!')?, label) {
        (kind, Some(label)) if kind == "date" => Some(label),
        (kind, label) => Some(with_sign('@', label.unwrap_or(kind))),
    }
}

fn unescape_entities(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    // The ampersand comes last, so that `&amp;lt;` becomes `&lt;`.
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(message: Value) -> String {
        serde_json::from_value::<SlackMessage>(message).unwrap().to_body()
    }

    #[test]
    fn links_and_entities_are_decoded() {
        for (written, shown) in [
            ("plain", "plain"),
            ("a &lt; b &amp;&amp; c &gt; d &amp;lt;", "a < b && c > d &lt;"),
            (
                "<https://example.org/?a=1&amp;b=2|the docs> and <https://example.org>",
                "the docs (https://example.org/?a=1&b=2) and https://example.org",
            ),
            ("<mailto:a@example.org|a@example.org>", "a@example.org (mailto:a@example.org)"),
            (
                "<!here> <!channel> <!subteam^S1|@team> <!date^1392734382^{date}|18 February>",
                "@here @channel @team 18 February",
            ),
            ("<@U1> <@U1|bugs> <#C1|general>", "@U1 @bugs #general"),
            ("a < b > c, Vec<u8>, <none>, <", "a < b > c, Vec<u8>, <none>, <"),
            ("x <<https://a.example|b>", "x <b (https://a.example)"),
            ("<https://a.example\n|b>", "<https://a.example\n|b>"),
        ] {
            assert_eq!(unescape(written), shown);
        }
    }

    #[test]
    fn parts_of_another_type_are_left_out() {
        assert_eq!(text(json!({"text": "a", "attachments": "b", "blocks": {"c": 1}})), "a");
        assert_eq!(text(json!({"attachments": [1, null, [], {"text": {"a": 1}, "title": 5, "fields": "x"}]})), "5");
        assert_eq!(text(json!({"blocks": [{"text": "x"}, {"type": 1}, {"type": "section", "text": [1]}]})), "");
        assert_eq!(text(json!({"text": null, "attachments": []})), "");
        assert_eq!(text(json!({"text": "  "})), "  ");
    }

    #[test]
    fn a_long_text_is_cut_with_a_mark() {
        assert_eq!(cut("é".repeat(100), 100), "é".repeat(100));
        let short = cut("é".repeat(101), 100);
        assert_eq!(short, format!("{}\n… [33 characters were cut off]", "é".repeat(68)));
        let body = text(json!({"text": "x".repeat(200_000)}));
        assert!(body.chars().count() <= MAX_BODY_CHARACTERS);
        assert!(body.ends_with("characters were cut off]"));
    }
}
