//! Conversations: creating, showing, changing and ending them.
//!
//! Invariants:
//! - There is one direct conversation for each pair of users.
//! - A group with members has at least one owner.
//! - Each change of a group writes events in the same transaction. It also writes a system message if members should
//!   see the change. Changes of a member's own settings write no event.

use std::collections::HashMap;

use super::members::{self, MAX_ADDED};
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::text::{fold_ascii, is_blank};
use crate::base::time::Timestamp;
use crate::domain::access::membership::{
    conversation_not_found, locked_membership, membership, require_group, require_role,
};
use crate::domain::access::principal::{Principal, UserSummary};
use crate::domain::access::viewer::Viewer;
use crate::domain::files::avatars::{self, NewAvatar};
use crate::domain::identity::users::{DirectMessagesFrom, User};
use crate::domain::messages::tails::{Rendered, Tails};
use crate::domain::messages::watermarks::ReadState;
use crate::domain::people::reachability;
use crate::domain::sending::drafts::{MAX_BODY_CHARACTERS, blank};
use crate::domain::shared::idempotency::{KeyedAnswer, Once};
use crate::domain::shared::precondition::Precondition;
use crate::store;
use crate::store::batches::sends::{Note, note};
pub use crate::store::conversations::conversation_kinds::{History, Kind};
use crate::store::conversations::conversations::Pair;
pub use crate::store::conversations::conversations::{Conversation, Group, Me};
use crate::store::conversations::members::{MemberSettings, NewMember, Role};
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};
use crate::store::messages::messages::{Action, Range};
use crate::store::messages::unread::Span;

/// Longest title, in characters.
pub const MAX_TITLE_CHARACTERS: usize = 100;
/// Longest address of a picture, in characters.
pub const MAX_AVATAR_URL_CHARACTERS: usize = 500;

/// A conversation as one caller sees it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The conversation.
    pub conversation: Conversation,
    /// Its newest message, if the caller may see it.
    pub last_message: Option<Rendered>,
    /// The other member of a direct conversation.
    pub peer: Option<User>,
    /// The caller who sees it.
    pub principal: Principal,
    /// The default for users who have not set `direct_messages_from`.
    pub direct_messages_from: DirectMessagesFrom,
}

/// The values besides the conversation from which a [`Shown`] is built.
#[derive(Clone)]
pub(super) struct Showing {
    principal: Principal,
    tails: Tails,
    direct_messages_from: DirectMessagesFrom,
}

impl Showing {
    pub(super) fn new(app: &App, principal: &Principal) -> Self {
        Self {
            principal: principal.clone(),
            tails: app.tails.clone(),
            direct_messages_from: app.settings.direct_messages_from,
        }
    }

    pub(super) async fn show(&self, conn: &mut Conn, mut conversations: Vec<Conversation>) -> Result<Vec<Shown>> {
        count_unread(conn, self.principal.viewer(), &mut conversations).await?;
        let visible = |conversation: &Conversation| {
            let first_seq = conversation.me.as_ref().map_or(1, |me| conversation.history.first_seq(me.joined_seq));
            conversation.head.last_seq >= first_seq
        };
        let newest: Vec<_> = conversations
            .iter()
            .filter(|conversation| visible(conversation))
            .map(|conversation| {
                let head = conversation.head;
                (head, Range { conversation_id: head.id, first_seq: head.last_seq, last_seq: head.last_seq })
            })
            .collect();
        let loaded = if newest.is_empty() { Vec::new() } else { self.tails.load(conn, &newest).await? };
        let (ids, mut last): (Vec<ConversationId>, Vec<Rendered>) = newest
            .iter()
            .zip(loaded)
            .filter_map(|((head, _), page)| Some((head.id, page.into_iter().next_back()?)))
            .unzip();
        self.tails.mark_own(conn, self.principal.viewer(), &mut last).await?;
        let mut messages: HashMap<ConversationId, Rendered> = ids.into_iter().zip(last).collect();
        let mut peers: Vec<i64> =
            conversations.iter().filter_map(|conversation| conversation.peer).map(|peer| peer.0).collect();
        peers.sort_unstable();
        peers.dedup();
        let people: HashMap<UserId, User> = if peers.is_empty() {
            HashMap::new()
        } else {
            store::identity::users::by_ids(conn, &peers).await?.into_iter().map(|user| (user.id, user)).collect()
        };
        Ok(conversations
            .into_iter()
            .map(|conversation| Shown {
                last_message: messages.remove(&conversation.head.id),
                peer: conversation.peer.and_then(|peer| people.get(&peer).cloned()),
                conversation,
                principal: self.principal.clone(),
                direct_messages_from: self.direct_messages_from,
            })
            .collect())
    }

    async fn show_one(&self, conn: &mut Conn, id: ConversationId) -> Result<Shown> {
        let viewer = self.principal.viewer();
        let found = store::conversations::conversations::one(conn, id, viewer.person()).await?;
        let found = found.filter(|conversation| viewer == Viewer::Everything || conversation.me.is_some());
        let mut shown = self.show(conn, vec![found.ok_or_else(conversation_not_found)?]).await?;
        shown.pop().ok_or_else(conversation_not_found)
    }

    /// Checks the condition of a change.
    async fn require(&self, conn: &mut Conn, id: ConversationId, unchanged: &Precondition<Shown>) -> Result<()> {
        if unchanged.is_set() { unchanged.require(&self.show_one(conn, id).await?) } else { Ok(()) }
    }
}

/// Counts the unread messages and mentions of the member to whom each conversation is shown.
async fn count_unread(conn: &mut Conn, viewer: Viewer, conversations: &mut [Conversation]) -> Result<()> {
    let Some(user) = viewer.person() else { return Ok(()) };
    let spans: Vec<Span> = conversations.iter().filter_map(|conversation| unread_span(conversation, user)).collect();
    let counts = store::messages::unread::counts(conn, &spans).await?;
    for (me, counts) in conversations.iter_mut().filter_map(|conversation| conversation.me.as_mut()).zip(counts) {
        me.unread_count = counts.unread;
        me.mention_count = counts.mentions;
    }
    Ok(())
}

fn unread_span(conversation: &Conversation, user: UserId) -> Option<Span> {
    let Me { read_seq, unread_from, hidden_below_seq, joined_seq, .. } = *conversation.me.as_ref()?;
    let first_seq = conversation.history.first_seq(joined_seq);
    let state = ReadState { read_seq, unread_from, hidden_below_seq, first_seq };
    Some(state.span(conversation.head.id, user, conversation.head.last_seq))
}

/// One conversation.
///
/// # Errors
/// 404 `conversation_not_found`.
pub async fn get(app: &App, principal: &Principal, id: i64) -> Result<Shown> {
    let input = (Showing::new(app, principal), ConversationId(id));
    app.db.read(input, |conn, (showing, id)| Box::pin(showing.show_one(conn, *id))).await
}

/// A group to create, as the caller wrote it. Not validated yet.
#[derive(Clone, Debug)]
pub struct NewGroup {
    /// 1 to [`MAX_TITLE_CHARACTERS`] characters.
    pub title: String,
    /// The address of a picture.
    pub avatar_url: Option<String>,
    /// The first members besides the caller: at most [`MAX_ADDED`].
    pub member_user_names: Vec<String>,
    /// Which earlier messages are visible to new members.
    pub history: History,
    /// Whether ordinary members may add other users.
    pub members_can_add: bool,
}

struct NewGroupInput {
    group: Group,
    names: Vec<String>,
    creator: UserSummary,
    now: Timestamp,
    showing: Showing,
    once: Once<Shown>,
}

/// Creates a group. The caller becomes its owner.
///
/// # Errors
/// 403 `act_as_required`, `not_friends`; 422 with every field that is wrong.
pub async fn create_group(app: &App, principal: &Principal, new: NewGroup, once: Once<Shown>) -> Result<KeyedAnswer> {
    let creator = principal.require_person()?.clone();
    let mut errors = Vec::new();
    errors.extend(check_title(&new.title));
    errors.extend(new.avatar_url.as_deref().and_then(check_avatar_url));
    if new.member_user_names.len() > MAX_ADDED {
        let detail = format!("must have at most {MAX_ADDED} user names; add other members after the group exists");
        errors.push(FieldError::new("member_user_names", "too_many", detail));
    }
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    let group = Group {
        title: new.title,
        avatar_url: new.avatar_url,
        history: new.history,
        members_can_add: new.members_can_add,
    };
    let showing = Showing::new(app, principal);
    let input = NewGroupInput { group, names: new.member_user_names, creator, now: app.clock.now(), showing, once };
    app.db.write(input, |conn, input| Box::pin(make_group(conn, input))).await
}

async fn make_group(conn: &mut Conn, input: &NewGroupInput) -> Result<KeyedAnswer> {
    let NewGroupInput { group, names, creator, now, showing, once } = input;
    if let Some(given) = once.given(conn, *now).await? {
        return Ok(given);
    }
    let people = members::people_to_add(conn, creator, names, showing.direct_messages_from).await?;
    let id = store::conversations::conversations::create_group(conn, group, creator.id, *now).await?;
    let owner = NewMember { user: creator.id, role: Role::Owner };
    let others = people.iter().filter(|user| **user != creator.id);
    let new: Vec<NewMember> =
        std::iter::once(owner).chain(others.map(|user| NewMember { user: *user, role: Role::Member })).collect();
    store::conversations::members::insert(conn, id, &new, 0, *now).await?;
    let told = Note { action: Action::GroupCreated, actor: creator.id, subject: None, detail: "", at: *now };
    let message = note(conn, id, &told).await?;
    let shown = showing.show_one(conn, id).await?;
    let given = once.give(conn, *now, &shown, Some(creator.id)).await?;
    let mut log = vec![NewEvent::of_conversation(events::Kind::ConversationCreated, id, creator.id, *now)];
    let added = NewEvent::of_conversation(events::Kind::MemberAdded, id, creator.id, *now);
    log.extend(new.iter().map(|member| added.about(member.user)));
    log.push(message);
    events::append(conn, &log).await?;
    Ok(given)
}

/// Returns the direct conversation with a user, and creates it if there is none. Also returns whether it was created.
///
/// # Errors
/// 403 `act_as_required`, `not_friends`; 422 for `user_name`.
pub async fn open_direct(app: &App, principal: &Principal, user_name: &str) -> Result<(Shown, bool)> {
    let caller = principal.require_person()?.clone();
    let key = fold_ascii(principal.resolve(user_name)?);
    let input = (Showing::new(app, principal), caller, key, app.clock.now());
    app.db
        .write(input, |conn, (showing, caller, key, now)| {
            Box::pin(async move {
                let nobody = || Error::invalid("user_name", "user_not_found", "no user has this name");
                let found = store::identity::users::summaries_by_keys(conn, &[key.as_str()]).await?;
                let other = found.first().ok_or_else(nobody)?;
                let pair = Pair::new(caller.id, other.id);
                if let Some((_, id)) = store::conversations::conversations::direct(conn, &[pair]).await?.first() {
                    return Ok((showing.show_one(conn, *id).await?, false));
                }
                reachability::require(conn, caller, std::slice::from_ref(other), showing.direct_messages_from).await?;
                let there = store::identity::users::lock_shared(conn, &[pair.lower.0, pair.higher.0]).await?;
                if !there.contains(&caller.id.0) {
                    return Err(Error::Unauthenticated);
                }
                if !there.contains(&other.id.0) {
                    return Err(nobody());
                }
                let (id, new) = store::conversations::conversations::create_direct(conn, pair, caller.id, *now).await?;
                let shown = showing.show_one(conn, id).await?;
                if new {
                    let made = NewEvent::of_conversation(events::Kind::ConversationCreated, id, caller.id, *now);
                    events::append(conn, &[made]).await?;
                }
                Ok((shown, new))
            })
        })
        .await
}

/// Changes to a conversation; `None` leaves a field unchanged.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The title of the group.
    pub title: Option<String>,
    /// The address of its picture; `Some(None)` removes it.
    pub avatar_url: Option<Option<String>>,
    /// The attachment that becomes its picture, in place of `avatar_url`.
    pub avatar: Option<avatars::Chosen>,
    /// Which earlier messages are visible to members who joined later.
    pub history: Option<History>,
    /// Whether ordinary members may add other users.
    pub members_can_add: Option<bool>,
    /// Changes to the caller's own settings for the conversation.
    pub me: Option<OwnChanges>,
}

/// Changes to a member's own settings for a conversation; `None` leaves a field unchanged.
#[derive(Clone, Debug, Default)]
pub struct OwnChanges {
    /// Until when clients show no notifications; `Some(None)` ends the muting.
    pub muted_until: Option<Option<Timestamp>>,
    /// Whether clients show the conversation first.
    pub pinned: Option<bool>,
    /// Whether clients show the conversation in the archive.
    pub archived: Option<bool>,
    /// The saved draft: at most [`MAX_BODY_CHARACTERS`] characters; `Some(None)` removes it.
    pub draft: Option<Option<String>>,
}

impl Changes {
    fn check(&self) -> Result<()> {
        let mut errors = Vec::new();
        errors.extend(self.title.as_deref().and_then(check_title));
        errors.extend(self.avatar_url.as_ref().and_then(|url| url.as_deref()).and_then(check_avatar_url));
        if let Some(Some(draft)) = self.me.as_ref().and_then(|me| me.draft.as_ref()) {
            if draft.contains('\0') {
                errors.push(FieldError::new("me.draft", "nul_character", "must not contain U+0000"));
            } else if draft.chars().count() > MAX_BODY_CHARACTERS {
                let detail = format!("must have at most {MAX_BODY_CHARACTERS} characters");
                errors.push(FieldError::new("me.draft", "too_long", detail));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Error::Invalid(errors)) }
    }

    const fn of_group(&self) -> bool {
        self.title.is_some()
            || self.avatar_url.is_some()
            || self.avatar.is_some()
            || self.history.is_some()
            || self.members_can_add.is_some()
    }
}

/// Changes a group, or the caller's own settings for a conversation.
///
/// # Errors
/// 404 `conversation_not_found`; 403 `act_as_required`, `insufficient_role`; 409 `not_a_group`; 422 with every field
/// that is wrong; 412 if the conversation does not meet `unchanged`.
pub async fn update(
    app: &App,
    principal: &Principal,
    id: i64,
    changes: Changes,
    unchanged: Precondition<Shown>,
) -> Result<Shown> {
    principal.require_person()?;
    changes.check()?;
    let input = (Showing::new(app, principal), ConversationId(id), changes, app.clock.now(), unchanged);
    app.db
        .write(input, |conn, (showing, id, changes, now, unchanged)| {
            Box::pin(async move {
                let caller = showing.principal.require_person()?.id;
                let membership = locked_membership(conn, Viewer::Person(caller), *id).await?;
                let before = store::conversations::conversations::one(conn, *id, Some(caller)).await?;
                let before = before.ok_or_else(conversation_not_found)?;
                if changes.of_group() {
                    require_group(&membership)?;
                    require_role(&membership, Role::Admin)?;
                }
                showing.require(conn, *id, unchanged).await?;
                if let Some(own) = &changes.me {
                    keep(conn, caller, &before, own).await?;
                }
                let log = if changes.of_group() {
                    change_group(conn, caller, &before, changes, *now).await?
                } else {
                    Vec::new()
                };
                let shown = showing.show_one(conn, *id).await?;
                events::append(conn, &log).await?;
                Ok(shown)
            })
        })
        .await
}

async fn keep(conn: &mut Conn, caller: UserId, before: &Conversation, changes: &OwnChanges) -> Result<()> {
    let kept = before.me.as_ref().map(|me| me.keeps.clone()).unwrap_or_default();
    let keeps = MemberSettings {
        muted_until: changes.muted_until.unwrap_or(kept.muted_until),
        pinned: changes.pinned.unwrap_or(kept.pinned),
        archived: changes.archived.unwrap_or(kept.archived),
        // An empty draft is stored as no draft.
        draft: changes.draft.clone().unwrap_or(kept.draft).filter(|draft| !draft.is_empty()),
    };
    store::conversations::members::keep(conn, before.head.id, caller, &keeps).await
}

async fn change_group(
    conn: &mut Conn,
    caller: UserId,
    before: &Conversation,
    changes: &Changes,
    now: Timestamp,
) -> Result<Vec<NewEvent<'static>>> {
    let id = before.head.id;
    let title = before.title.clone().unwrap_or_default();
    let after = Group {
        title: changes.title.clone().unwrap_or_else(|| title.clone()),
        avatar_url: change_avatar(conn, caller, before, changes).await?,
        history: changes.history.unwrap_or(before.history),
        members_can_add: changes.members_can_add.unwrap_or(before.members_can_add),
    };
    let told = [
        (after.title != title, Action::TitleChanged, after.title.as_str()),
        (after.avatar_url != before.avatar_url, Action::AvatarChanged, ""),
        (after.history != before.history, Action::HistoryChanged, after.history.as_str()),
    ];
    if told.iter().all(|(changed, ..)| !changed) && after.members_can_add == before.members_can_add {
        return Ok(Vec::new());
    }
    store::conversations::conversations::update_group(conn, id, &after).await?;
    let mut log = vec![NewEvent::of_conversation(events::Kind::ConversationUpdated, id, caller, now)];
    for (_, action, detail) in told.iter().filter(|(changed, ..)| *changed) {
        log.push(note(conn, id, &Note { action: *action, actor: caller, subject: None, detail, at: now }).await?);
    }
    Ok(log)
}

/// Holds the attachment that becomes the picture of a locked group, and releases the one that no longer is. Returns the address of
/// the picture.
async fn change_avatar(
    conn: &mut Conn,
    caller: UserId,
    before: &Conversation,
    changes: &Changes,
) -> Result<Option<String>> {
    let id = before.head.id;
    if let Some(chosen) = changes.avatar {
        let current = store::files::avatars::of_group(conn, id).await?;
        let held = avatars::hold(conn, caller, chosen, current).await?;
        store::files::avatars::set_of_group(conn, id, Some(held)).await?;
        return Ok(Some(avatars::path(held)));
    }
    let url = changes.avatar_url.as_ref().filter(|url| **url != before.avatar_url);
    let Some(url) = url else { return Ok(before.avatar_url.clone()) };
    store::files::avatars::release_of_group(conn, id).await?;
    Ok(url.clone())
}

/// Checks, before a picture arrives, that the caller may change the picture of a group.
///
/// # Errors
/// 404 `conversation_not_found`; 403 `act_as_required`, `insufficient_role`; 409 `not_a_group`.
pub async fn check_may_set_avatar(app: &App, principal: &Principal, id: i64) -> Result<()> {
    let caller = principal.require_person()?.id;
    app.db
        .read((caller, ConversationId(id)), |conn, (caller, id)| {
            Box::pin(async move {
                let membership = membership(conn, Viewer::Person(*caller), *id).await?;
                require_group(&membership)?;
                require_role(&membership, Role::Admin)
            })
        })
        .await
}

/// Sets the picture of a group.
///
/// # Errors
/// Those of [`update`], [`avatars::choose`] and [`avatars::hold`].
pub async fn set_avatar(app: &App, principal: &Principal, id: i64, new: NewAvatar) -> Result<Shown> {
    let avatar = avatars::choose(app, principal, new).await?;
    update(app, principal, id, Changes { avatar: Some(avatar), ..Changes::default() }, Precondition::none()).await
}

/// Removes the picture of a group.
///
/// # Errors
/// Those of [`update`].
pub async fn remove_avatar(app: &App, principal: &Principal, id: i64) -> Result<()> {
    let changes = Changes { avatar_url: Some(None), ..Changes::default() };
    update(app, principal, id, changes, Precondition::none()).await.map(drop)
}

/// Ends a group, if the caller is an owner. Hides a direct conversation from the caller's list until its next message.
///
/// # Errors
/// 404 `conversation_not_found`; 403 `act_as_required`, `insufficient_role`; 412 if the conversation does not meet `unchanged`.
pub async fn delete(app: &App, principal: &Principal, id: i64, unchanged: Precondition<Shown>) -> Result<()> {
    let caller = principal.require_person()?.id;
    let input = (caller, ConversationId(id), app.clock.now(), Showing::new(app, principal), unchanged);
    app.db
        .write(input, |conn, (caller, id, now, showing, unchanged)| {
            Box::pin(async move {
                let membership = locked_membership(conn, Viewer::Person(*caller), *id).await?;
                if membership.kind != Kind::Direct {
                    require_role(&membership, Role::Owner)?;
                }
                showing.require(conn, *id, unchanged).await?;
                if membership.kind == Kind::Direct {
                    return store::conversations::members::hide(conn, *id, *caller, membership.last_seq + 1).await;
                }
                members::end_group(conn, *id, *caller, *now).await
            })
        })
        .await
}

/// Reads a conversation without checking that the caller is a member. The function that calls this one has checked
/// another right, such as an invite. The result contains no messages and no members.
///
/// # Errors
/// 404 `conversation_not_found`.
pub async fn get_without_membership_check(conn: &mut Conn, id: ConversationId) -> Result<Conversation> {
    store::conversations::conversations::one(conn, id, None).await?.ok_or_else(conversation_not_found)
}

/// Maximum number of messages of an ended group that one transaction removes.
const REMOVED_AT_ONCE: i64 = 500;

/// Removes a batch of messages of one group that has ended. If no message is left, removes the group itself. Returns
/// whether there may be more to remove.
///
/// # Errors
/// Errors of the database.
pub async fn remove_ended(app: &App) -> Result<bool> {
    app.db
        .write((), |conn, ()| {
            Box::pin(async move {
                let Some(id) = store::conversations::conversations::ended(conn, 1).await?.into_iter().next() else {
                    return Ok(false);
                };
                store::conversations::conversations::lock_one(conn, id).await?;
                let traces = store::people::erasure::traces(conn, id, UserId(0), 0, REMOVED_AT_ONCE).await?;
                let keys: Vec<_> = traces.iter().filter_map(|trace| trace.key).collect();
                store::shared::idempotency::blank(conn, &keys).await?;
                if store::messages::removals::delete_first(conn, id, REMOVED_AT_ONCE).await? == 0 {
                    store::conversations::conversations::delete(conn, id).await?;
                }
                Ok(true)
            })
        })
        .await
}

fn check_title(title: &str) -> Option<FieldError> {
    let characters = title.chars().count();
    if title.contains('\0') {
        Some(FieldError::new("title", "nul_character", "must not contain U+0000"))
    } else if characters == 0 || characters > MAX_TITLE_CHARACTERS {
        let detail = format!("must have 1 to {MAX_TITLE_CHARACTERS} characters");
        Some(FieldError::new("title", "out_of_range", detail))
    } else if is_blank(title) {
        Some(blank("title"))
    } else {
        None
    }
}

fn check_avatar_url(url: &str) -> Option<FieldError> {
    let known = ["https://", "http://", "/api/attachments/"].iter().any(|start| url.starts_with(start));
    let plain = url.bytes().all(|byte| byte.is_ascii_graphic());
    if known && plain && url.len() <= MAX_AVATAR_URL_CHARACTERS {
        return None;
    }
    let detail = format!(
        "must be an http or https URL or the path of an attachment, in at most {MAX_AVATAR_URL_CHARACTERS} ASCII characters"
    );
    Some(FieldError::new("avatar_url", "invalid_url", detail))
}
