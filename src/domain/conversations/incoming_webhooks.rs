//! Incoming webhooks: addresses at which programs post messages into a group.
//!
//! Invariants:
//! - Only the hash of a token is stored.
//! - The messages are sent by a bot that belongs to the webhook. The bot is not a member: it reads nothing, does not
//!   count for receipts, and is not counted, listed or mentioned.
//! - A bot can send only through its webhook, and only while the webhook exists.
//! - The token of a deleted webhook gets the same answer as a token that never existed.
//! - A webhook belongs to its group and stays when its creator leaves. It ends when somebody else demotes, removes or bans the
//!   creator, who still knows the address.

use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, IncomingWebhookId, UserId, hex};
use crate::base::request_id::RequestId;
use crate::base::text::fold_ascii;
use crate::domain::access::membership::{locked_membership, membership, require_group, require_role};
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::audit::{self, Action, By};
use crate::domain::identity::tokens::{self, MAX_TOKEN_CHARACTERS, Token, TokenKind};
use crate::domain::identity::users::{self, MAX_NAME_CHARACTERS, Registration};
use crate::domain::messages::messages::send_draft;
use crate::domain::sending::drafts::{Draft, MAX_BODY_CHARACTERS, Recipient, Sender, Sent, check_text};
use crate::domain::shared::idempotency::{KeyedAnswer, KeyedRequest, Once, StoredAnswer};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::store;
pub use crate::store::conversations::incoming_webhooks::{IncomingWebhook, Target};
use crate::store::conversations::members::Role;
use crate::store::db::Conn;
use crate::store::identity::users::NewUser;

/// Maximum number of incoming webhooks of a group.
pub const MAX_INCOMING_WEBHOOKS: i64 = 20;
/// Maximum number of characters that the bot's user name takes from the name of the webhook. With the suffix that makes
/// it unique, the user name has at most 32 characters.
const MAX_SLUG_CHARACTERS: usize = 19;
/// How many user names are tried for a bot. Each has 32 random bits.
const NAMES_TRIED: usize = 4;
const LIST: &str = "incoming-webhooks";

/// An incoming webhook that was created, with the only copy of its address.
pub struct Made {
    /// The webhook as it is stored.
    pub incoming_webhook: IncomingWebhook,
    /// The address at which programs post messages.
    pub url: String,
}

struct Input {
    conversation: ConversationId,
    /// The account of the bot, in one version for each user name to try.
    bots: Vec<NewUser>,
    token: Token,
    base_url: String,
    caller: UserId,
    caller_name: String,
    by: By,
    once: Once<Made>,
}

/// Creates an incoming webhook and its bot. `base_url` is the public address of the server.
///
/// # Errors
/// 404 `conversation_not_found`; 403 `act_as_required`, `insufficient_role`; 409 `not_a_group`,
/// `too_many_incoming_webhooks`; 422 for `name`.
pub async fn create(
    app: &App,
    principal: &Principal,
    conversation: i64,
    name: String,
    base_url: &str,
    once: Once<Made>,
) -> Result<KeyedAnswer> {
    let caller = principal.require_person()?;
    check_text("name", &name, MAX_NAME_CHARACTERS)?;
    let by = By::principal(principal, app.clock.now());
    let mut bots = Vec::with_capacity(NAMES_TRIED);
    for _ in 0..NAMES_TRIED {
        let unique = hex(&app.rng.bytes::<4>().map_err(Error::internal)?);
        let user_name = format!("{}-bot-{unique}", slug(&name));
        let registration = Registration { user_name, first_name: name.clone(), ..Registration::default() };
        bots.push(registration.validate(by.at)?);
    }
    let input = Input {
        conversation: ConversationId(conversation),
        bots,
        token: Token::new(&app.rng, TokenKind::IncomingWebhook)?,
        base_url: base_url.trim_end_matches('/').to_owned(),
        caller: caller.id,
        caller_name: caller.user_name.clone(),
        by,
        once,
    };
    app.db.write(input, |conn, input| Box::pin(insert(conn, input))).await
}

async fn insert(conn: &mut Conn, input: &Input) -> Result<KeyedAnswer> {
    let Input { conversation, token, caller, by, once, .. } = input;
    if let Some(given) = once.given(conn, by.at).await? {
        return Ok(given);
    }
    let own = locked_membership(conn, Viewer::Person(*caller), *conversation).await?;
    require_group(&own)?;
    require_role(&own, Role::Admin)?;
    if store::conversations::incoming_webhooks::count(conn, *conversation).await? >= MAX_INCOMING_WEBHOOKS {
        return Err(Error::Conflict {
            code: "too_many_incoming_webhooks",
            detail: format!("A group has at most {MAX_INCOMING_WEBHOOKS} incoming webhooks; delete one first").into(),
        });
    }
    let bot = insert_bot(conn, &input.bots).await?;
    let mut incoming_webhook = IncomingWebhook {
        id: IncomingWebhookId(0),
        conversation_id: *conversation,
        bot_id: bot,
        name: input.bots.first().map(|bot| bot.first_name.clone()).unwrap_or_default(),
        created_by_user_name: Some(input.caller_name.clone()),
        created_at: by.at,
    };
    incoming_webhook.id =
        store::conversations::incoming_webhooks::insert(conn, &token.hash, &incoming_webhook, *caller).await?;
    let detail = format!("incoming webhook {} of conversation {}", incoming_webhook.id.0, conversation.0);
    audit::record(conn, by, Action::IncomingWebhookCreated, Some(bot), Some(detail)).await?;
    let made = Made { incoming_webhook, url: format!("{}/api/hooks/{}", input.base_url, token.text) };
    once.give(conn, by.at, &made, Some(*caller)).await
}

/// Creates the bot under the first user name that no user has or had.
async fn insert_bot(conn: &mut Conn, bots: &[NewUser]) -> Result<UserId> {
    for bot in bots {
        let digest = users::name_digest(conn, &bot.user_name_key).await?;
        if !store::people::erasure::was_erased(conn, &digest).await?
            && store::identity::users::account_by_key(conn, &bot.user_name_key).await?.is_none()
        {
            return store::identity::users::insert_bot(conn, bot).await;
        }
    }
    Err(Error::unavailable("no free user name was found for a bot"))
}

/// Builds the part of the bot's user name that comes from the name of the webhook.
fn slug(name: &str) -> String {
    let words = fold_ascii(name);
    let words = words.split(|character: char| !character.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let slug: String = words.collect::<Vec<_>>().join("-").chars().take(MAX_SLUG_CHARACTERS).collect();
    if slug.is_empty() { "hook".to_owned() } else { slug }
}

/// Lists the incoming webhooks of a group, by id.
///
/// # Errors
/// 404 `conversation_not_found`; 403 `act_as_required`, `insufficient_role`; 409 `not_a_group`; 422 if the cursor is
/// invalid.
pub async fn list(
    app: &App,
    principal: &Principal,
    conversation: i64,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<IncomingWebhook>>> {
    let caller = principal.require_person()?.id;
    let after = IncomingWebhookId(pagination::begin(LIST, cursor, 0)?);
    let found = app
        .db
        .read((caller, ConversationId(conversation), after, limit), |conn, (caller, conversation, after, limit)| {
            Box::pin(async move {
                let own = membership(conn, Viewer::Person(*caller), *conversation).await?;
                require_group(&own)?;
                require_role(&own, Role::Admin)?;
                store::conversations::incoming_webhooks::list(conn, *conversation, *after, limit.to_read()).await
            })
        })
        .await?;
    Ok(Page::new(LIST, found, limit, |last| [last.id.0]))
}

/// Ends an incoming webhook. The messages of its bot remain.
///
/// # Errors
/// 404 `conversation_not_found`, `incoming_webhook_not_found`; 403 `act_as_required`, `insufficient_role`; 409
/// `not_a_group`.
pub async fn end(app: &App, principal: &Principal, conversation: i64, id: i64) -> Result<()> {
    let caller = principal.require_person()?.id;
    let by = By::principal(principal, app.clock.now());
    app.db
        .write((caller, ConversationId(conversation), IncomingWebhookId(id), by), |conn, input| {
            Box::pin(async move {
                let (caller, conversation, id, by) = input;
                let own = locked_membership(conn, Viewer::Person(*caller), *conversation).await?;
                require_group(&own)?;
                require_role(&own, Role::Admin)?;
                let bot = store::conversations::incoming_webhooks::delete(conn, *conversation, *id, by.at).await?;
                record_end(conn, *conversation, *id, bot.ok_or_else(not_found)?, by).await
            })
        })
        .await
}

async fn record_end(
    conn: &mut Conn,
    conversation: ConversationId,
    id: IncomingWebhookId,
    bot: UserId,
    by: &By,
) -> Result<()> {
    let detail = format!("incoming webhook {} of conversation {}", id.0, conversation.0);
    audit::record(conn, by, Action::IncomingWebhookRemoved, Some(bot), Some(detail)).await
}

/// Ends the incoming webhooks that a user made in a locked group. Called when somebody else takes the right to make them away
/// from the user, who still knows the addresses.
///
/// # Errors
/// Errors of the database.
pub async fn end_made_by(conn: &mut Conn, conversation: ConversationId, user: UserId, by: &By) -> Result<()> {
    for (id, bot) in store::conversations::incoming_webhooks::made_in(conn, conversation, user).await? {
        store::conversations::incoming_webhooks::delete_of_bot(conn, bot, by.at).await?;
        record_end(conn, conversation, id, bot, by).await?;
    }
    Ok(())
}

/// Finds the group and the bot of a token.
///
/// # Errors
/// 404 `incoming_webhook_not_found`.
pub async fn find(app: &App, token: &str) -> Result<Target> {
    if token.len() > MAX_TOKEN_CHARACTERS {
        return Err(not_found());
    }
    let hash = tokens::hash(token);
    let found =
        app.db.read(hash, |conn, hash| Box::pin(store::conversations::incoming_webhooks::by_token(conn, hash))).await?;
    found.ok_or_else(not_found)
}

/// Posts a text into the group. Returns whether this is a repeated request, whose message was posted before under the
/// same idempotency key.
///
/// # Errors
/// 404 `incoming_webhook_not_found`; 422 for `text`, and `idempotency_key_reused`.
pub async fn post(app: &App, target: Target, text: String, request: Option<KeyedRequest>) -> Result<bool> {
    if text.is_empty() {
        let detail = "must have at least one character, or there must be blocks or attachments that contain a text";
        return Err(Error::invalid("text", "required", detail));
    }
    check_text("text", &text, MAX_BODY_CHARACTERS)?;
    let draft = Draft {
        sender: Sender::Bot(target.bot),
        recipient: Recipient::Conversation(target.conversation),
        body: text,
        reply_to: None,
        attachment_ids: Vec::new(),
        link_preview_declined: false,
        once: Once { request, render, sealed: false },
        accepted_at: None,
        request_id: RequestId::current(),
    };
    match send_draft(app, draft).await {
        Ok(given) => Ok(given.replayed),
        // The group or the webhook ended after the token was looked up, or an administrator banned or erased the bot.
        Err(Error::NotFound { .. } | Error::Unauthenticated) => Err(not_found()),
        Err(error) => Err(error),
    }
}

/// The stored answer. It contains nothing of the message.
const fn render(_: &Sent) -> Result<StoredAnswer> {
    Ok(StoredAnswer { status: 200, location: None, body: Vec::new() })
}

fn not_found() -> Error {
    Error::NotFound {
        code: "incoming_webhook_not_found",
        detail: "Incoming webhook not found; it may have been deleted".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_part_of_a_user_name() {
        for (name, expected) in [
            ("CI", "ci"),
            ("  Build & deploy!  ", "build-deploy"),
            ("Ünïcode", "n-code"),
            ("建設", "hook"),
            ("--..__", "hook"),
            ("a name of thirty-two characters.", "a-name-of-thirty-tw"),
        ] {
            assert_eq!(slug(name), expected);
        }
    }
}
