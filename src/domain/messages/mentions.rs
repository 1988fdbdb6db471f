//! Mentions: `@user_name` in the text of a message.
//!
//! Invariants:
//! - Only users who are members when the message is written are mentioned. Each `@` mentions the longest name that
//!   fits.
//! - If senders mention themselves, they are shown among the mentioned users, but no row is written and they are not
//!   counted.
//! - A body without `@` costs no query.

use std::collections::{BTreeSet, HashMap};

use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::text::fold_ascii;
use crate::domain::identity::names::Names;
use crate::domain::sending::drafts::Sent;
use crate::store;
use crate::store::db::Conn;
use crate::store::messages::mentions::Mention;
use crate::store::messages::messages::{Kind, Message};

/// The maximum number of users whom one message mentions. Further names are plain text.
pub const MAX_MENTIONS: usize = 50;
/// Maximum number of places in one message where name characters after an `@` are examined, whether or not a user has
/// that name.
const MAX_PLACES: usize = 500;
/// Longest user name, in characters.
const MAX_NAME_CHARACTERS: usize = 32;

/// Finds the users whom messages mention, before the messages are sent. The caller has locked their conversations.
///
/// # Errors
/// Errors of the database.
pub async fn find(conn: &mut Conn, sent: impl IntoIterator<Item = &mut Sent>) -> Result<()> {
    let mut sent: Vec<&mut Sent> = sent.into_iter().filter(|sent| sent.message.body.contains('@')).collect();
    let groups: BTreeSet<i64> = sent
        .iter()
        .filter(|sent| sent.message.recipient_id.is_none())
        .map(|sent| sent.message.conversation_id.0)
        .collect();
    let mut members: HashMap<(ConversationId, String), (UserId, String)> = HashMap::new();
    if !groups.is_empty() {
        let bodies = sent.iter().filter(|sent| sent.message.recipient_id.is_none()).map(|sent| &sent.message.body);
        members = members_named(conn, &groups.into_iter().collect::<Vec<_>>(), bodies).await?;
    }
    for sent in &mut sent {
        let Message { conversation_id, sender_id, recipient_id, .. } = sent.message;
        // The two members of a direct conversation are known already.
        let both = [(Some(sender_id), Some(&sent.sender_user_name)), (recipient_id, sent.recipient_user_name.as_ref())];
        let both: Vec<(String, UserId, &String)> =
            both.into_iter().filter_map(|(id, name)| Some((fold_ascii(name?), id?, name?))).collect();
        let found = mentioned(&sent.message.body, |key| {
            let member = both.iter().find(|(known, ..)| known == key).map(|(_, id, name)| (*id, (*name).clone()));
            member.or_else(|| members.get(&(conversation_id, key.to_owned())).cloned())
        });
        (sent.message.mentions, sent.mentioned_user_names) = found.into_iter().unzip();
    }
    Ok(())
}

async fn members_named(
    conn: &mut Conn,
    conversations: &[i64],
    bodies: impl Iterator<Item = &String>,
) -> Result<HashMap<(ConversationId, String), (UserId, String)>> {
    let mut keys = BTreeSet::new();
    for run in bodies.flat_map(|body| name_runs(body)) {
        let key = fold_ascii(run);
        keys.extend((1..=key.len()).map(|length| key[..length].to_owned()));
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let found = store::messages::mentions::members_by_names(conn, conversations, &keys).await?;
    Ok(found
        .into_iter()
        .map(|member| ((member.conversation, member.user_name_key), (member.user, member.user_name)))
        .collect())
}

/// The rows to write for the mentions of a message.
pub fn rows(message: &Message) -> impl Iterator<Item = Mention> + '_ {
    let others = message.mentions.iter().filter(|user| **user != message.sender_id);
    others.map(|user| Mention { conversation: message.conversation_id, seq: message.seq, user: *user })
}

/// Replaces the mentions of a message whose body was edited. The caller has locked its conversation.
///
/// # Errors
/// Errors of the database.
pub async fn renew(conn: &mut Conn, conversation: ConversationId, seq: i64, sender: UserId, body: &str) -> Result<()> {
    store::messages::mentions::delete(conn, conversation, &[seq]).await?;
    let members = members_named(conn, &[conversation.0], std::iter::once(&body.to_owned())).await?;
    let found = mentioned(body, |key| members.get(&(conversation, key.to_owned())).map(|(user, _)| (*user, ())));
    let found = found.into_iter().filter(|(user, ())| *user != sender);
    let rows: Vec<Mention> = found.map(|(user, ())| Mention { conversation, seq, user }).collect();
    store::messages::mentions::insert(conn, &rows).await
}

/// Loads the users mentioned by messages, in any order.
///
/// # Errors
/// Errors of the database.
pub async fn load(conn: &mut Conn, messages: &mut [Message]) -> Result<()> {
    let with: Vec<(ConversationId, i64)> = messages
        .iter()
        .filter(|message| may_mention(message))
        .map(|message| (message.conversation_id, message.seq))
        .collect();
    if with.is_empty() {
        return Ok(());
    }
    let mut found: HashMap<(ConversationId, i64), Vec<UserId>> = HashMap::new();
    for mention in store::messages::mentions::of_messages(conn, &with).await? {
        found.entry((mention.conversation, mention.seq)).or_default().push(mention.user);
    }
    for message in messages.iter_mut().filter(|message| may_mention(message)) {
        message.mentions = found.remove(&(message.conversation_id, message.seq)).unwrap_or_default();
        // There is no row for the sender. [`order`] removes the sender again unless the text mentions them.
        message.mentions.push(message.sender_id);
    }
    Ok(())
}

/// Sorts the loaded mentions by their place in the text. Erased users are not in `names` and are dropped.
pub fn order(messages: &mut [Message], names: &Names) {
    for message in messages.iter_mut().filter(|message| !message.mentions.is_empty()) {
        let known: Vec<(String, UserId)> =
            message.mentions.iter().filter_map(|id| Some((fold_ascii(names.get(id)?), *id))).collect();
        let find = |key: &str| known.iter().find(|(known, _)| known == key).map(|(_, id)| (*id, ()));
        message.mentions = mentioned(&message.body, find).into_iter().map(|(id, ())| id).collect();
    }
}

fn may_mention(message: &Message) -> bool {
    message.kind == Kind::Text && message.body.contains('@')
}

/// The users that a text mentions, each once, in the order of their first mention. `find` looks up a folded name.
fn mentioned<T>(body: &str, find: impl Fn(&str) -> Option<(UserId, T)>) -> Vec<(UserId, T)> {
    let mut found: Vec<(UserId, T)> = Vec::new();
    for run in name_runs(body) {
        let key = fold_ascii(run);
        let longest = (1..=key.len()).rev().find_map(|length| find(&key[..length]));
        if let Some((user, more)) = longest
            && found.iter().all(|(known, _)| *known != user)
        {
            found.push((user, more));
            if found.len() == MAX_MENTIONS {
                break;
            }
        }
    }
    found
}

/// The characters after each `@` that may begin a mention, up to the first one that cannot belong to a name.
fn name_runs(body: &str) -> Vec<&str> {
    let mut runs = Vec::new();
    for text in outside_code(body) {
        let mut before = None;
        for (index, character) in text.char_indices() {
            if character == '@' && !before.is_some_and(char::is_alphanumeric) {
                let rest = &text[index + 1..];
                let length = rest.bytes().take(MAX_NAME_CHARACTERS).take_while(|byte| is_name_byte(*byte)).count();
                if length > 0 {
                    runs.push(&rest[..length]);
                }
                if runs.len() == MAX_PLACES {
                    return runs;
                }
            }
            before = Some(character);
        }
    }
    runs
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// The parts of a text that are not code, by the rules of CommonMark. Code is between two runs of backticks of the same
/// length within a paragraph, or between fences of at least three backticks at the beginning of lines. A run of
/// backticks without a second run of its length is text.
fn outside_code(body: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    if !body.contains('`') {
        return vec![body];
    }
    // `paragraph` is where the paragraph begins; `fence` is the length of the open fence.
    let (mut paragraph, mut at) = (0, 0);
    let mut fence = None;
    for line in body.split_inclusive('\n') {
        let indented = line.trim_start_matches(' ');
        let backticks = indented.len() - indented.trim_start_matches('`').len();
        let may_be_fence = line.len() - indented.len() <= 3 && backticks >= 3;
        let rest = &indented[backticks..];
        match fence {
            Some(length) => {
                if may_be_fence && backticks >= length && rest.trim().is_empty() {
                    fence = None;
                }
                paragraph = at + line.len();
            }
            None if may_be_fence && !rest.contains('`') => {
                outside_spans(&body[paragraph..at], &mut parts);
                fence = Some(backticks);
                paragraph = at + line.len();
            }
            None if line.trim().is_empty() => {
                outside_spans(&body[paragraph..at], &mut parts);
                paragraph = at + line.len();
            }
            None => {}
        }
        at += line.len();
    }
    outside_spans(&body[paragraph..at], &mut parts);
    parts
}

fn outside_spans<'a>(paragraph: &'a str, parts: &mut Vec<&'a str>) {
    let (mut from, mut at) = (0, 0);
    while let Some(start) = paragraph[at..].find('`').map(|found| at + found) {
        let length = backticks_at(paragraph, start);
        at = start + length;
        if let Some(end) = end_of_closing_run(paragraph, at, length) {
            parts.push(&paragraph[from..start]);
            at = end;
            from = end;
        }
    }
    parts.push(&paragraph[from..]);
}

/// The end of the next run of exactly `length` backticks.
fn end_of_closing_run(text: &str, mut at: usize, length: usize) -> Option<usize> {
    while let Some(start) = text[at..].find('`').map(|found| at + found) {
        let found = backticks_at(text, start);
        at = start + found;
        if found == length {
            return Some(at);
        }
    }
    None
}

fn backticks_at(text: &str, at: usize) -> usize {
    text.as_bytes()[at..].iter().take_while(|byte| **byte == b'`').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEOPLE: &[&str] = &["bugs", "bugs.bunny", "duck", "porky-", "a_b"];

    fn names(body: &str) -> Vec<&'static str> {
        let find = |key: &str| {
            let place = PEOPLE.iter().position(|name| *name == key)?;
            Some((UserId(place as i64), PEOPLE[place]))
        };
        mentioned(body, find).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn the_longest_name_that_fits_is_mentioned() {
        for (body, wanted) in [
            ("@bugs", &["bugs"][..]),
            ("hey @BUGS!", &["bugs"]),
            ("@bugs.bunny.", &["bugs.bunny"]),
            ("@bugs.bun", &["bugs"]),
            ("@bugs.", &["bugs"]),
            ("(@duck)@bugs", &["duck", "bugs"]),
            ("@duck @bugs @Duck", &["duck", "bugs"]),
            ("@porky-, @porky", &["porky-"]),
            ("@@duck", &["duck"]),
            ("_@a_b_", &["a_b"]),
            ("@bugsさん", &["bugs"]),
            ("daffy@duck.org é@duck 1@duck さ@duck", &[]),
            ("@ duck @nobody @", &[]),
            ("", &[]),
        ] {
            assert_eq!(names(body), wanted, "{body}");
        }
    }

    #[test]
    fn names_in_code_are_not_mentions() {
        for (body, wanted) in [
            ("`@bugs` @duck", &["duck"][..]),
            ("``@bugs ` @duck`` @a_b", &["a_b"]),
            ("` @bugs", &["bugs"]),
            ("`` @bugs `", &["bugs"]),
            ("```\n@bugs\n```\n@duck", &["duck"]),
            ("```rust\n@bugs\n", &[]),
            ("````\n```\n@bugs\n````\n@duck", &["duck"]),
            ("   ```\n@bugs\n  ```  \n@duck", &["duck"]),
            ("    ```\n@bugs", &["bugs"]),
            ("```@bugs``` @duck", &["duck"]),
            ("`@bugs\n@duck` @a_b", &["a_b"]),
            ("`@bugs\n\n@duck`", &["bugs", "duck"]),
            ("`@bugs\n```\n@duck`\n```\n", &["bugs"]),
            ("```\n@bugs\n``` x\n@duck", &[]),
        ] {
            assert_eq!(names(body), wanted, "{body:?}");
        }
    }

    #[test]
    fn the_work_for_one_message_is_limited() {
        let many: String = (0..2_000).map(|_| "@x ").collect();
        assert_eq!(name_runs(&many).len(), MAX_PLACES);
        let everyone = |key: &str| Some((UserId(key.parse().ok()?), ()));
        let numbers: String = (1..=60).map(|number| format!("@{number} ")).collect();
        assert_eq!(mentioned(&numbers, everyone).len(), MAX_MENTIONS);
        // Runs of every length, but no two of the same length. The search for a second run must stay fast.
        let unpaired: String = (1..126).map(|length| "`".repeat(length) + "x").collect();
        assert_eq!(outside_code(&unpaired), [unpaired.as_str()]);
    }
}
