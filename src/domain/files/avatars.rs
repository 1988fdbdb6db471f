//! The pictures of users and groups.
//!
//! Invariants:
//! - A picture is an attachment with a thumbnail: a JPEG, PNG, GIF or WebP image.
//! - While an attachment is the picture of a user, every caller may see it. While it is the picture of a group, its members may see it.

use super::attachments::Description;
use super::uploads::{self, Received};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{AttachmentId, UserId};
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::principal::Principal;
use crate::domain::identity::users::{self, User};
use crate::store;
use crate::store::db::Conn;
use crate::store::events::events::{self, NewEvent};

/// The limit of a picture, in bytes.
pub const MAX_AVATAR_BYTES: u64 = 8 * 1_024 * 1_024;

/// A picture that a caller chooses.
pub enum NewAvatar {
    /// The bytes that the caller has sent.
    Uploaded(Received),
    /// An attachment that the caller may see.
    Attachment(i64),
}

/// The path of a picture. It changes when the picture changes, so clients can cache the answer.
pub fn path(avatar: AttachmentId) -> String {
    format!("/api/attachments/{}/thumbnail", avatar.0)
}

/// The attachment that is to become a picture.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    id: AttachmentId,
    /// True if the request contained the image. False if it contained the id of an attachment.
    is_uploaded: bool,
}

/// Creates an attachment if the request contained an image. An attachment that the request names is not checked here, but in [`hold`].
///
/// # Errors
/// Those of [`uploads::create_image`].
pub async fn choose(app: &App, principal: &Principal, new: NewAvatar) -> Result<Chosen> {
    match new {
        NewAvatar::Attachment(id) => Ok(Chosen { id: AttachmentId(id), is_uploaded: false }),
        NewAvatar::Uploaded(received) => {
            Ok(Chosen { id: uploads::create_image(app, principal, received).await?, is_uploaded: true })
        }
    }
}

/// Locks the attachment `chosen`, makes it the picture instead of `current`, and returns the id of the new picture. If both have the
/// same bytes, the picture stays `current`, so a repeated upload changes nothing.
///
/// # Errors
/// 422 for `attachment_id` if the caller may not see the attachment; 422 `not_an_image`.
pub async fn hold(
    conn: &mut Conn,
    caller: UserId,
    chosen: Chosen,
    current: Option<AttachmentId>,
) -> Result<AttachmentId> {
    let Chosen { id: chosen, is_uploaded } = chosen;
    let not_found = || Error::invalid("attachment_id", "attachment_not_found", "no attachment has this id");
    let ids: Vec<i64> = std::iter::once(chosen).chain(current).map(|id| id.0).collect();
    store::files::attachments::lock(conn, &ids).await?;
    if store::files::attachments::visible_among(conn, caller, &[chosen.0]).await?.is_empty() {
        return Err(not_found());
    }
    let found = store::files::attachments::by_ids(conn, &ids).await?;
    let with_id = |id: AttachmentId| found.iter().find(|attachment| attachment.description.id == id.0);
    let picture = with_id(chosen).ok_or_else(not_found)?;
    check_image(&picture.description)?;
    if let Some(current) = current {
        if with_id(current).is_some_and(|old| old.blob.id == picture.blob.id) {
            if chosen != current && is_uploaded {
                store::files::avatars::release(conn, chosen).await?;
            }
            return Ok(current);
        }
        store::files::avatars::release(conn, current).await?;
    }
    store::files::avatars::keep(conn, chosen).await?;
    Ok(chosen)
}

fn check_image(description: &Description) -> Result<()> {
    let is_small = u64::try_from(description.size_bytes).is_ok_and(|bytes| bytes <= MAX_AVATAR_BYTES);
    // Only images have thumbnails.
    if description.has_thumbnail && is_small { Ok(()) } else { Err(not_an_image()) }
}

/// The error for a picture that is not an image, or that is too large for a picture.
pub fn not_an_image() -> Error {
    Error::Unusable {
        code: "not_an_image",
        detail: "A picture is a JPEG, PNG, GIF or WebP image of at most 8 MiB".into(),
    }
}

/// Sets the picture of the caller. Returns the changed user.
///
/// # Errors
/// 401 if the caller was erased; those of [`uploads::create_image`] and [`hold`].
pub async fn set_own(app: &App, principal: &Principal, new: NewAvatar) -> Result<User> {
    let caller = principal.require_person()?.id;
    let chosen = choose(app, principal, new).await?;
    app.db
        .write((caller, chosen, app.clock.now()), |conn, (caller, chosen, now)| {
            Box::pin(async move {
                store::identity::users::lock(conn, *caller).await?;
                let user = store::identity::users::by_id(conn, *caller).await?.ok_or(Error::Unauthenticated)?;
                let avatar = hold(conn, *caller, *chosen, user.avatar_id).await?;
                if user.avatar_id == Some(avatar) {
                    return Ok(user);
                }
                change(conn, *caller, &user, Some(avatar), *now).await
            })
        })
        .await
}

/// Removes the picture of a user. The user and administrators may do it; `me` stands for the caller.
///
/// # Errors
/// 404 `user_not_found`; 403 `act_as_required`, `not_your_account`.
pub async fn remove(app: &App, principal: &Principal, user_name: &str) -> Result<()> {
    let key = fold_ascii(principal.resolve(user_name)?);
    principal.require_person_or_admin()?;
    app.db
        .write((key, principal.clone(), app.clock.now()), |conn, (key, principal, now)| {
            Box::pin(async move {
                let id = users::by_name(conn, key).await?.id;
                principal.require_self_or_admin(id)?;
                store::identity::users::lock(conn, id).await?;
                let user = store::identity::users::by_id(conn, id).await?.ok_or_else(users::not_found)?;
                let Some(avatar) = user.avatar_id else { return Ok(()) };
                store::files::attachments::lock(conn, &[avatar.0]).await?;
                store::files::avatars::release(conn, avatar).await?;
                let actor = principal.person().map_or(id, |person| person.id);
                change(conn, actor, &user, None, *now).await.map(drop)
            })
        })
        .await
}

async fn change(
    conn: &mut Conn,
    actor: UserId,
    user: &User,
    avatar: Option<AttachmentId>,
    now: Timestamp,
) -> Result<User> {
    store::files::avatars::set_of_user(conn, user.id, avatar, now).await?;
    events::append(conn, &[NewEvent::between(events::Kind::UserUpdated, actor, user.id, now)]).await?;
    store::identity::users::by_id(conn, user.id).await?.ok_or_else(users::not_found)
}
