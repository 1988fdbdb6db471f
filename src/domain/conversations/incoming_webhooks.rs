//! Incoming webhooks: addresses at which programs write into a group.
//!
//! Invariants: only the hash of a token is kept. What comes by it is said by a bot of its own, which is no member: it reads
//! nothing, holds up no receipt, and is not counted, listed or mentioned. A bot sends this way alone, and only while its
//! incoming webhook is there; a token that has ended looks like one that never was.

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
use crate::domain::shared::idempotency::{Given, KeyedRequest, Once, StoredAnswer};
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::store;
pub use crate::store::conversations::incoming_webhooks::{IncomingWebhook, Target};
use crate::store::conversations::members::Role;
use crate::store::db::Conn;
use crate::store::identity::users::NewUser;

/// Incoming webhooks that a group may have.
pub const MAX_INCOMING_WEBHOOKS: i64 = 20;
/// Characters that a bot's user name takes of the name: with what makes it unique it has 32 at most.
const MAX_SLUG_CHARACTERS: usize = 19;
/// User names that are tried for a bot. Each has 32 random bits.
const NAMES_TRIED: usize = 4;
const LIST: &str = "incoming-webhooks";

/// An incoming webhook that was made, with the only copy of its address.
pub struct Made {
    /// What is kept.
    pub incoming_webhook: IncomingWebhook,
    /// Where programs write to.
    pub url: String,
}

struct Input {
    conversation: ConversationId,
    /// The bot under each of the user names that are tried.
    bots: Vec<NewUser>,
    token: Token,
    base_url: String,
    caller: UserId,
    caller_name: String,
    by: By,
    once: Once<Made>,
}

/// Makes an incoming webhook and its bot; `base_url` is where the server is reached.
///
/// # Errors
/// 404 `conversation_not_found`; 403 `act_as_required`, `insufficient_role`; 409 `not_a_group`,
/// `too_many_incoming_webhooks`; 422 on `name`.
pub async fn create(
    app: &App,
    principal: &Principal,
    conversation: i64,
    name: String,
    base_url: &str,
    once: Once<Made>,
) -> Result<Given> {
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

async fn insert(conn: &mut Conn, input: &Input) -> Result<Given> {
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
            detail: format!("a group may have {MAX_INCOMING_WEBHOOKS} incoming webhooks: end one first").into(),
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

/// Writes the bot down under the first name that nobody has, or had.
async fn insert_bot(conn: &mut Conn, bots: &[NewUser]) -> Result<UserId> {
    for bot in bots {
        let digest = users::name_digest(conn, &bot.user_name_key).await?;
        if !store::people::erasure::was_erased(conn, &digest).await?
            && store::identity::users::account_by_key(conn, &bot.user_name_key).await?.is_none()
        {
            return store::identity::users::insert_bot(conn, bot).await;
        }
    }
    Err(Error::unavailable("no user name was found for a bot"))
}

/// What a user name takes of a name.
fn slug(name: &str) -> String {
    let words = fold_ascii(name);
    let words = words.split(|character: char| !character.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let slug: String = words.collect::<Vec<_>>().join("-").chars().take(MAX_SLUG_CHARACTERS).collect();
    if slug.is_empty() { "hook".to_owned() } else { slug }
}

/// Incoming webhooks of a group, by id.
///
/// # Errors
/// 404 `conversation_not_found`; 403 `act_as_required`, `insufficient_role`; 409 `not_a_group`; 422 for a cursor that is none.
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

/// Ends an incoming webhook. What its bot said stays.
///
/// # Errors
/// 404 `conversation_not_found`, `incoming_webhook_not_found`; 403 `act_as_required`, `insufficient_role`; 409 `not_a_group`.
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
                let bot = bot.ok_or_else(not_found)?;
                let detail = format!("incoming webhook {} of conversation {}", id.0, conversation.0);
                audit::record(conn, by, Action::IncomingWebhookRemoved, Some(bot), Some(detail)).await
            })
        })
        .await
}

/// What a token opens.
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

/// Says a text in the group that a token leads to; whether that was done before under the same key.
///
/// # Errors
/// 404 `incoming_webhook_not_found`; 422 on `text`, and `idempotency_key_reused`.
pub async fn post(app: &App, target: Target, text: String, request: Option<KeyedRequest>) -> Result<bool> {
    check_text("text", &text, MAX_BODY_CHARACTERS)?;
    let draft = Draft {
        sender: Sender::Bot(target.bot),
        recipient: Recipient::Conversation(target.conversation),
        body: text,
        reply_to: None,
        once: Once { request, render, sealed: false },
        accepted_at: None,
        request_id: RequestId::current(),
    };
    match send_draft(app, draft).await {
        Ok(given) => Ok(given.replayed),
        // The group or the webhook ended since the token was looked up, or an administrator banned or erased the bot.
        Err(Error::NotFound { .. } | Error::Unauthenticated) => Err(not_found()),
        Err(error) => Err(error),
    }
}

/// What is kept of the answer: it says nothing of the message.
const fn render(_: &Sent) -> Result<StoredAnswer> {
    Ok(StoredAnswer { status: 200, location: None, body: Vec::new() })
}

fn not_found() -> Error {
    Error::NotFound {
        code: "incoming_webhook_not_found",
        detail: "there is no such incoming webhook, or it has ended".into(),
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
