//! Mentions: `@user_name` in the text of a message.
//!
//! Invariants:
//! - Only users who are members when the message is written are mentioned. Each `@` mentions the longest name that
//!   fits. This is decided once, when the message is sent or edited, and stored. So nobody else is mentioned later, when
//!   a mentioned user is erased.
//! - If senders mention themselves, they are shown among the mentioned users, but they are not counted.
//! - A body without `@` costs no query.

use std::collections::{BTreeSet, HashMap};

use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::mentions::{mentioned, name_runs};
use crate::base::text::fold_ascii;
use crate::domain::identity::names::Names;
use crate::domain::sending::drafts::Sent;
use crate::store;
use crate::store::db::Conn;
use crate::store::messages::mentions::Mention;
use crate::store::messages::messages::{Kind, Message};

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
    let Message { conversation_id, seq, sender_id, .. } = *message;
    rows_of(conversation_id, seq, sender_id, message.mentions.iter().copied())
}

fn rows_of(
    conversation: ConversationId,
    seq: i64,
    sender: UserId,
    mentions: impl Iterator<Item = UserId>,
) -> impl Iterator<Item = Mention> {
    mentions.zip(1..).map(move |(user, place)| Mention { conversation, seq, user, place, own: user == sender })
}

/// Replaces the mentions of a message whose body was edited. The caller has locked its conversation.
///
/// # Errors
/// Errors of the database.
pub async fn renew(conn: &mut Conn, conversation: ConversationId, seq: i64, sender: UserId, body: &str) -> Result<()> {
    store::messages::mentions::delete(conn, conversation, &[seq]).await?;
    let members = members_named(conn, &[conversation.0], std::iter::once(&body.to_owned())).await?;
    let found = mentioned(body, |key| members.get(&(conversation, key.to_owned())).map(|(user, _)| (*user, ())));
    let found = found.into_iter().map(|(user, ())| user);
    let rows: Vec<Mention> = rows_of(conversation, seq, sender, found).collect();
    store::messages::mentions::insert(conn, &rows).await
}

/// Loads the users mentioned by messages, in the order of the text.
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
    let mut rows = store::messages::mentions::of_messages(conn, &with).await?;
    rows.sort_unstable_by_key(|mention| mention.place);
    let mut found: HashMap<(ConversationId, i64), Vec<UserId>> = HashMap::new();
    for mention in rows {
        found.entry((mention.conversation, mention.seq)).or_default().push(mention.user);
    }
    for message in messages.iter_mut().filter(|message| may_mention(message)) {
        message.mentions = found.remove(&(message.conversation_id, message.seq)).unwrap_or_default();
    }
    Ok(())
}

/// Removes users who are not in `names` from the mentions: the rows of erased users are deleted after their accounts.
pub fn drop_erased(messages: &mut [Message], names: &Names) {
    for message in messages {
        message.mentions.retain(|user| names.contains_key(user));
    }
}

fn may_mention(message: &Message) -> bool {
    message.kind == Kind::Text && message.body.contains('@')
}
