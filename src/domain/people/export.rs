//! The export of everything that is stored about a user, one page at a time.
//!
//! Invariants: an export holds one page in memory, however much data there is. It contains neither secrets nor hashes
//! of secrets.

use std::collections::VecDeque;

use super::friends::Which;
use super::presence;
use super::reports::Report;
use crate::app::App;
use crate::base::error::Result;
use crate::base::ids::{
    AttachmentId, ConversationId, EmojiId, IncomingWebhookId, InviteId, ScheduledId, SessionId, UserId,
};
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::conversations::incoming_webhooks::IncomingWebhook;
use crate::domain::conversations::invites::Invite;
use crate::domain::identity::audit::{self, Action, By, Entry};
use crate::domain::identity::names::Names;
use crate::domain::identity::sessions::Session;
use crate::domain::identity::users::{self, User};
use crate::domain::messages::edits::EarlierText;
use crate::domain::messages::message_reads::complete_for;
use crate::domain::messages::reactions::Reaction;
use crate::domain::messages::tallies;
use crate::domain::sending::scheduled::Scheduled;
use crate::store;
pub use crate::store::conversations::members::PastOrPresentMembership;
use crate::store::db::Conn;
use crate::store::files::attachments::Attachment;
use crate::store::files::custom_emoji::{self, CustomEmoji};
use crate::store::messages::mentions::Mention;
use crate::store::messages::messages::{Message, Range};
use crate::store::messages::receipts::{Kept, Watermarks};

/// Rows on a page.
const PAGE_ROWS: i64 = 100;

/// One line of an export.
pub enum Item {
    /// The profile.
    User(Box<User>),
    /// Data of the account that the profile does not show.
    Account {
        /// Whether the account has a password.
        has_password: bool,
        /// When the e-mail address was confirmed.
        email_confirmed_at: Option<Timestamp>,
        /// When the user was last seen.
        last_seen_at: Option<Timestamp>,
    },
    /// A session.
    Session(Session),
    /// An entry of the audit log about an action by the user or on their account.
    Audit(Entry),
    /// A message that the user reported.
    Report(Report),
    /// The name of a user who has this relation to the exported user.
    Person(Which, String),
    /// A scheduled message of the user.
    Scheduled(Scheduled),
    /// A file that the user uploaded.
    Attachment(Box<Attachment>),
    /// An invite that the user created.
    Invite(Invite),
    /// An incoming webhook that the user created.
    IncomingWebhook(IncomingWebhook),
    /// A custom emoji that the user added.
    CustomEmoji(Box<CustomEmoji>),
    /// A conversation that the user is or was in.
    Conversation(PastOrPresentMembership),
    /// The watermarks of the user in a conversation.
    Watermarks(ConversationId, Watermarks),
    /// When a watermark of the user moved.
    Receipt(Kept),
    /// A reaction of the user, or a message that mentions the user.
    Mark(Mark),
    /// A message that the user sent, or that was sent to them in a direct conversation, with its earlier bodies.
    Message(Box<Message>, Names, Vec<EarlierText>),
}

/// A row about one user and one message.
#[expect(missing_docs, reason = "each field has the name that it has in the export; absent fields are left out")]
pub struct Mark {
    pub line_type: &'static str,
    pub conversation: ConversationId,
    pub seq: i64,
    pub emoji: Option<String>,
    pub at: Option<Timestamp>,
}

/// An export that is being read.
pub struct Export {
    user: UserId,
    stage: Stage,
}

enum Stage {
    Profile,
    Sessions(SessionId),
    Audit(i64),
    /// Starts after this conversation, seq and emoji.
    Reactions(ConversationId, i64, String),
    /// Starts after this conversation and seq.
    Reports(ConversationId, i64),
    /// Users with this relation, starting after this user.
    People(Which, UserId),
    Scheduled(ScheduledId),
    Attachments(AttachmentId),
    Invites(InviteId),
    IncomingWebhooks(IncomingWebhookId),
    CustomEmoji(EmojiId),
    Conversations(ConversationId),
    /// The conversations whose messages are still to be read, the last seq that was read in the first of them, and the
    /// last conversation of the page.
    Messages(VecDeque<ConversationId>, i64, ConversationId),
    Watermarks(ConversationId),
    /// The conversations whose receipts are still to be read, the last receipt that was read in the first of them, and
    /// the last conversation of the page.
    Receipts(VecDeque<ConversationId>, (&'static str, i64), ConversationId),
    Mentions(ConversationId, i64),
    Done,
}

/// Begins an export; `me` stands for the caller.
///
/// # Errors
/// 404 `user_not_found`; 403 `act_as_required`, `not_your_account`.
pub async fn begin(app: &App, principal: &Principal, user_name: &str) -> Result<Export> {
    let key = fold_ascii(principal.resolve(user_name)?);
    principal.require_person_or_admin()?;
    let by = By::principal(principal, app.clock.now());
    let user = app
        .db
        .write((key, principal.clone(), by), |conn, (key, principal, by)| {
            Box::pin(async move {
                let account = store::identity::users::account_by_key(conn, key).await?.ok_or_else(users::not_found)?;
                principal.require_self_or_admin(account.name.id)?;
                audit::record(conn, by, Action::UserExported, Some(account.name.id), None).await?;
                Ok(account.name.id)
            })
        })
        .await?;
    Ok(Export { user, stage: Stage::Profile })
}

impl Export {
    /// The next items; `None` at the end. A page may be empty before the end.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn next(&mut self, app: &App) -> Result<Option<Vec<Item>>> {
        let user = self.user;
        let (items, stage) = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Profile => (profile(app, user).await?, Stage::Sessions(SessionId(0))),
            Stage::Sessions(after) => sessions(app, user, after).await?,
            Stage::Audit(before) => audit(app, user, before).await?,
            Stage::Reactions(conversation, seq, emoji) => reactions(app, user, (conversation, seq, emoji)).await?,
            Stage::Reports(conversation, seq) => reports(app, user, (conversation, seq)).await?,
            Stage::People(which, after) => people(app, user, which, after).await?,
            Stage::Scheduled(after) => scheduled(app, user, after).await?,
            Stage::Attachments(after) => attachments(app, user, after).await?,
            Stage::Invites(after) => invites(app, user, after).await?,
            Stage::IncomingWebhooks(after) => incoming_webhooks(app, user, after).await?,
            Stage::CustomEmoji(after) => emoji_of(app, user, after).await?,
            Stage::Conversations(after) => conversations(app, user, after).await?,
            Stage::Messages(mut ids, after, last) => match ids.front().copied() {
                None => (Vec::new(), Stage::Conversations(last)),
                Some(conversation) => {
                    let (items, read) = messages(app, user, conversation, after).await?;
                    if read < PAGE_ROWS {
                        ids.pop_front();
                        (items, Stage::Messages(ids, 0, last))
                    } else {
                        (items, Stage::Messages(ids, after + PAGE_ROWS, last))
                    }
                }
            },
            Stage::Watermarks(after) => member_watermarks(app, user, after).await?,
            Stage::Receipts(ids, after, last) => receipts(app, user, ids, after, last).await?,
            Stage::Mentions(conversation, seq) => mentions(app, user, (conversation, seq)).await?,
            Stage::Done => return Ok(None),
        };
        self.stage = stage;
        Ok(Some(items))
    }
}

async fn sessions(app: &App, user: UserId, after: SessionId) -> Result<(Vec<Item>, Stage)> {
    let found = app
        .db
        .read((user, after), |conn, (user, after)| {
            Box::pin(store::identity::sessions::list(conn, *user, Timestamp::MIN, *after, PAGE_ROWS))
        })
        .await?;
    let stage = found.last().map_or(Stage::Audit(i64::MAX), |last| Stage::Sessions(last.id));
    Ok((found.into_iter().map(Item::Session).collect(), stage))
}

async fn audit(app: &App, user: UserId, before: i64) -> Result<(Vec<Item>, Stage)> {
    let found = app
        .db
        .read((user, before), |conn, (user, before)| {
            Box::pin(store::identity::audit::list_of(conn, *user, *before, PAGE_ROWS))
        })
        .await?;
    let next = Stage::Reactions(ConversationId(0), 0, String::new());
    let stage = found.last().map_or(next, |(id, _)| Stage::Audit(*id));
    Ok((found.into_iter().map(|(_, entry)| Item::Audit(without_foreign_address(entry, user))).collect(), stage))
}

async fn conversations(app: &App, user: UserId, after: ConversationId) -> Result<(Vec<Item>, Stage)> {
    let found = app
        .db
        .read((user, after), |conn, (user, after)| {
            Box::pin(store::conversations::members::belongings_of(conn, *user, *after, PAGE_ROWS))
        })
        .await?;
    let ids: VecDeque<_> = found.iter().map(|belonging| belonging.conversation).collect();
    let next = Stage::Watermarks(ConversationId(0));
    let stage = ids.back().copied().map_or(next, |last| Stage::Messages(ids, 0, last));
    Ok((found.into_iter().map(Item::Conversation).collect(), stage))
}

async fn member_watermarks(app: &App, user: UserId, after: ConversationId) -> Result<(Vec<Item>, Stage)> {
    let found = app.db.read((user, after), |conn, (user, after)| Box::pin(watermarks(conn, *user, *after))).await?;
    let ids: VecDeque<_> = found.iter().map(|(id, _)| *id).collect();
    let next = Stage::Mentions(ConversationId(0), 0);
    let stage = ids.back().copied().map_or(next, |last| Stage::Receipts(ids, ("", 0), last));
    Ok((found.into_iter().map(|(id, watermarks)| Item::Watermarks(id, watermarks)).collect(), stage))
}

/// Reads the next receipts of the first conversation in `ids`. `last` is the last conversation of the page.
async fn receipts(
    app: &App,
    user: UserId,
    mut ids: VecDeque<ConversationId>,
    after: (&'static str, i64),
    last: ConversationId,
) -> Result<(Vec<Item>, Stage)> {
    let Some(conversation) = ids.front().copied() else { return Ok((Vec::new(), Stage::Watermarks(last))) };
    let found = app
        .db
        .read((user, conversation, after), |conn, (user, conversation, after)| {
            Box::pin(store::messages::receipts::of_member(conn, *conversation, *user, *after, PAGE_ROWS))
        })
        .await?;
    let stage = match found.last() {
        Some(next) => Stage::Receipts(ids, (next.kind.as_str(), next.seq), last),
        None => {
            ids.pop_front();
            Stage::Receipts(ids, ("", 0), last)
        }
    };
    Ok((found.into_iter().map(Item::Receipt).collect(), stage))
}

async fn mentions(app: &App, user: UserId, after: (ConversationId, i64)) -> Result<(Vec<Item>, Stage)> {
    let found = app
        .db
        .read((user, after), |conn, (user, after)| {
            Box::pin(store::messages::mentions::of_user(conn, *user, *after, PAGE_ROWS))
        })
        .await?;
    let stage = found.last().map_or(Stage::Done, |last| Stage::Mentions(last.conversation, last.seq));
    let mark = |Mention { conversation, seq, .. }| {
        Item::Mark(Mark { line_type: "mention", conversation, seq, emoji: None, at: None })
    };
    Ok((found.into_iter().map(mark).collect(), stage))
}

async fn reactions(app: &App, user: UserId, after: (ConversationId, i64, String)) -> Result<(Vec<Item>, Stage)> {
    let (found, names) = app
        .db
        .read((user, after), |conn, (user, (conversation, seq, emoji))| {
            Box::pin(async move {
                let after = (*conversation, *seq, emoji.as_str());
                let found = store::messages::reactions::of_user(conn, *user, after, PAGE_ROWS).await?;
                let names = tallies::names(conn, found.iter().map(|reaction| reaction.emoji.as_str())).await?;
                Ok((found, names))
            })
        })
        .await?;
    let stage = found.last().map_or(Stage::Reports(ConversationId(0), 0), |last| {
        Stage::Reactions(last.conversation, last.seq, last.emoji.clone())
    });
    let mark = |Reaction { conversation, seq, emoji, at }| {
        let custom = custom_emoji::id_of(&emoji).map(|id| format!(":{}:", tallies::named(&names, id).name));
        let emoji = custom.unwrap_or(emoji);
        Item::Mark(Mark { line_type: "reaction", conversation, seq, emoji: Some(emoji), at: Some(at) })
    };
    Ok((found.into_iter().map(mark).collect(), stage))
}

async fn reports(app: &App, user: UserId, after: (ConversationId, i64)) -> Result<(Vec<Item>, Stage)> {
    let found = app
        .db
        .read((user, after), |conn, (user, after)| {
            Box::pin(store::people::reports::of_user(conn, *user, *after, PAGE_ROWS))
        })
        .await?;
    let next = Stage::People(Which::Friends, UserId(0));
    let stage = found.last().map_or(next, |last| Stage::Reports(last.conversation, last.seq));
    Ok((found.into_iter().map(Item::Report).collect(), stage))
}

async fn people(app: &App, user: UserId, which: Which, after: UserId) -> Result<(Vec<Item>, Stage)> {
    let found = app
        .db
        .read((user, which, after), |conn, (user, which, after)| Box::pin(which.read(conn, *user, *after, PAGE_ROWS)))
        .await?;
    let next = match which {
        Which::Friends => Stage::People(Which::Outgoing, UserId(0)),
        Which::Outgoing => Stage::People(Which::Incoming, UserId(0)),
        Which::Incoming => Stage::People(Which::Blocked, UserId(0)),
        Which::Blocked => Stage::Scheduled(ScheduledId(0)),
    };
    let stage = found.last().map_or(next, |last| Stage::People(which, last.id));
    Ok((found.into_iter().map(|other| Item::Person(which, other.user_name)).collect(), stage))
}

async fn scheduled(app: &App, user: UserId, after: ScheduledId) -> Result<(Vec<Item>, Stage)> {
    let found = app
        .db
        .read((user, after), |conn, (user, after)| {
            Box::pin(store::messages::scheduled::list(conn, *user, *after, PAGE_ROWS))
        })
        .await?;
    let stage = found.last().map_or(Stage::Attachments(AttachmentId(0)), |last| Stage::Scheduled(last.id));
    Ok((found.into_iter().map(Item::Scheduled).collect(), stage))
}

async fn attachments(app: &App, user: UserId, after: AttachmentId) -> Result<(Vec<Item>, Stage)> {
    let found = app
        .db
        .read((user, after), |conn, (user, after)| {
            Box::pin(store::files::attachments::uploaded_by(conn, *user, *after, PAGE_ROWS))
        })
        .await?;
    let next = Stage::Invites(InviteId(0));
    let stage = found.last().map_or(next, |last| Stage::Attachments(AttachmentId(last.description.id)));
    Ok((found.into_iter().map(|found| Item::Attachment(Box::new(found))).collect(), stage))
}

async fn invites(app: &App, user: UserId, after: InviteId) -> Result<(Vec<Item>, Stage)> {
    let found = app
        .db
        .read((user, after), |conn, (user, after)| {
            Box::pin(store::conversations::invites::made_by(conn, *user, *after, PAGE_ROWS))
        })
        .await?;
    let next = Stage::IncomingWebhooks(IncomingWebhookId(0));
    let stage = found.last().map_or(next, |last| Stage::Invites(last.id));
    Ok((found.into_iter().map(Item::Invite).collect(), stage))
}

async fn incoming_webhooks(app: &App, user: UserId, after: IncomingWebhookId) -> Result<(Vec<Item>, Stage)> {
    let found = app
        .db
        .read((user, after), |conn, (user, after)| {
            Box::pin(store::conversations::incoming_webhooks::made_by(conn, *user, *after, PAGE_ROWS))
        })
        .await?;
    let stage = found.last().map_or(Stage::CustomEmoji(EmojiId(0)), |last| Stage::IncomingWebhooks(last.id));
    Ok((found.into_iter().map(Item::IncomingWebhook).collect(), stage))
}

async fn emoji_of(app: &App, user: UserId, after: EmojiId) -> Result<(Vec<Item>, Stage)> {
    let found = app
        .db
        .read((user, after), |conn, (user, after)| Box::pin(custom_emoji::of_user(conn, *user, *after, PAGE_ROWS)))
        .await?;
    let next = Stage::Conversations(ConversationId(0));
    let stage = found.last().map_or(next, |last| Stage::CustomEmoji(last.id));
    Ok((found.into_iter().map(|emoji| Item::CustomEmoji(Box::new(emoji))).collect(), stage))
}

/// Removes the network address if another user caused the entry, or an API key that acted as no user. The user may not
/// learn from where an administrator called.
fn without_foreign_address(entry: Entry, user: UserId) -> Entry {
    let by_somebody_else = entry.actor_id.map_or(entry.api_key_id.is_some(), |actor| actor != user);
    Entry { address: entry.address.filter(|_| !by_somebody_else), ..entry }
}

async fn profile(app: &App, user: UserId) -> Result<Vec<Item>> {
    app.db
        .read((user, app.clock.now()), |conn, (user, now)| {
            Box::pin(async move {
                let last_seen_at = presence::last_seen_at(conn, *user, *now).await?;
                let has_password = store::identity::passwords::get(conn, *user).await?.is_some();
                let user = store::identity::users::by_id(conn, *user).await?.ok_or_else(users::not_found)?;
                let email_confirmed_at = user.email_confirmed_at;
                Ok(vec![Item::User(Box::new(user)), Item::Account { has_password, email_confirmed_at, last_seen_at }])
            })
        })
        .await
}

/// The watermarks of the user in the next conversations.
async fn watermarks(conn: &mut Conn, user: UserId, after: ConversationId) -> Result<Vec<(ConversationId, Watermarks)>> {
    let mut found = Vec::new();
    for (id, _) in store::conversations::conversations::of_user(conn, user, after, PAGE_ROWS).await? {
        found.push((id, store::messages::receipts::watermarks_of(conn, id, user).await?.unwrap_or_default()));
    }
    Ok(found)
}

/// Reads the next messages of a conversation, and keeps those that concern the user. Returns them with the number of
/// messages read.
async fn messages(app: &App, user: UserId, conversation: ConversationId, after: i64) -> Result<(Vec<Item>, i64)> {
    let range = Range { conversation_id: conversation, first_seq: after + 1, last_seq: after + PAGE_ROWS };
    app.db
        .read((user, range), |conn, (user, range)| {
            Box::pin(async move {
                let mut messages = store::messages::messages::in_ranges(conn, &[*range]).await?;
                let read = messages.len() as i64;
                messages.retain(|message| message.sender_id == *user || message.recipient_id == Some(*user));
                messages.sort_unstable_by_key(|message| message.seq);
                let names = complete_for(conn, Viewer::Person(*user), &mut messages).await?;
                let mut items = Vec::with_capacity(messages.len());
                for message in messages {
                    let people = [Some(message.sender_id), message.recipient_id];
                    let people = people.into_iter().flatten().chain(message.mentions.iter().copied());
                    let message_names = people.filter_map(|id| Some((id, names.get(&id)?.clone())));
                    let message_names = message_names.collect();
                    let editions = match message.edited_at {
                        Some(_) => store::messages::edits::list(conn, message.conversation_id, message.seq).await?,
                        None => Vec::new(),
                    };
                    items.push(Item::Message(Box::new(message), message_names, editions));
                }
                Ok((items, read))
            })
        })
        .await
}
