//! Writes the places of mentions in messages that were stored by versions before 24 of the schema.
//!
//! These versions stored no row for a sender who mentions themselves, and no order. They derived both from the text and the
//! present names whenever a message was read.

use std::collections::{BTreeSet, HashMap};

use super::Conn;
use super::columns::{columns, read, sql};
use crate::base::error::Result;
use crate::base::ids::{ConversationId, UserId};
use crate::base::mentions::{mentioned, name_runs};
use crate::base::text::fold_ascii;
use crate::store::driver::values::Value;
use crate::store::identity::users;
use crate::store::messages::mentions::{self, Mention};

/// Messages that are read at once.
const MESSAGES_PER_STEP: i64 = 1_000;
/// Messages between two log lines that report the progress.
const MESSAGES_PER_REPORT: usize = 100_000;

/// A message with an `@` in its text.
struct Text {
    conversation: ConversationId,
    seq: i64,
    sender: UserId,
    body: String,
}

columns! {
    Text { conversation: "m.conversation_id", seq: "m.seq", sender: "m.sender_id", body: "m.body" }
}

/// Writes the places of all mentions, and the mentions of senders by themselves.
pub(super) async fn complete(conn: &mut Conn) -> Result<()> {
    let mut after = (ConversationId(0), 0);
    let mut done = 0;
    loop {
        let texts = conn
            .rows(
                sql!(
                    "SELECT ",
                    Text::COLUMNS,
                    " FROM messaging.messages m
                      WHERE (m.conversation_id, m.seq) > ($1, $2) AND m.kind = 'text' AND m.body LIKE '%@%'
                      ORDER BY m.conversation_id, m.seq LIMIT $3"
                ),
                &[Value::I64(after.0.0), Value::I64(after.1), Value::I64(MESSAGES_PER_STEP)],
                read::<Text>,
            )
            .await?;
        let Some(last) = texts.last() else { return Ok(()) };
        after = (last.conversation, last.seq);
        complete_step(conn, &texts).await?;
        done += texts.len();
        if done % MESSAGES_PER_REPORT == 0 {
            tracing::info!(messages = done, "storing the places of mentions");
        }
    }
}

async fn complete_step(conn: &mut Conn, texts: &[Text]) -> Result<()> {
    let places: Vec<(ConversationId, i64)> = texts.iter().map(|text| (text.conversation, text.seq)).collect();
    let stored = mentions::of_messages(conn, &places).await?;
    let ids: BTreeSet<i64> =
        stored.iter().map(|mention| mention.user.0).chain(texts.iter().map(|text| text.sender.0)).collect();
    let ids: Vec<i64> = ids.into_iter().collect();
    let names = users::names_by_ids(conn, &ids).await?;
    let names: HashMap<UserId, String> = names.into_iter().map(|(id, name)| (id, fold_ascii(&name))).collect();
    let mut of: HashMap<(ConversationId, i64), Vec<UserId>> = HashMap::new();
    for mention in stored {
        of.entry((mention.conversation, mention.seq)).or_default().push(mention.user);
    }
    let mut rows = Vec::new();
    for text in texts {
        let mut known = of.remove(&(text.conversation, text.seq)).unwrap_or_default();
        if names.get(&text.sender).is_some_and(|key| names_exactly(&text.body, key)) {
            known.push(text.sender);
        }
        let find = |key: &str| {
            let user = known.iter().find(|user| names.get(*user).is_some_and(|name| name == key))?;
            Some((*user, ()))
        };
        let users = mentioned(&text.body, find).into_iter().zip(1..);
        rows.extend(users.map(|((user, ()), place)| Mention {
            conversation: text.conversation,
            seq: text.seq,
            user,
            place,
            own: user == text.sender,
        }));
    }
    mentions::delete_of(conn, &places).await?;
    mentions::insert_all(conn, &rows).await
}

/// Whether a text mentions exactly this folded name, with punctuation after it at most. A longer name can be the one of an
/// erased user.
fn names_exactly(body: &str, key: &str) -> bool {
    let exact = |run: &str| run == key || run.trim_end_matches(['.', '_', '-']) == key;
    name_runs(body).into_iter().any(|run| exact(&fold_ascii(run)))
}
