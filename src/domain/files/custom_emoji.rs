//! Custom emoji: emoji with pictures that administrators add, and members too if the operator allows it.
//!
//! Invariants:
//! - Custom emoji that are not deleted have different names, ignoring case, and none has a shortcode of the Unicode set.
//! - Reactions refer to an emoji by its id. After a rename they show the new name. After a deletion they keep the picture and the
//!   last name, and no new reaction with the emoji is possible.
//! - The picture of an id never changes, so it can be cached.

use super::attachments::{Content, files};
use super::uploads::{self, Incoming, Received};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{EmojiId, UserId};
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::principal::{Principal, insufficient_scope};
use crate::domain::messages::emoji::is_custom_name;
use crate::domain::messages::emoji_catalog;
use crate::media::Inspected;
use crate::store::db::Conn;
use crate::store::files::blobs::Hash;
pub use crate::store::files::custom_emoji::CustomEmoji;
use crate::store::files::custom_emoji::{self as rows, NewEmoji};
use crate::store::files::usage::SERVER;

/// Maximum number of custom emoji that are not deleted.
pub const MAX_CUSTOM_EMOJI: i64 = 1_000;
/// Maximum number of custom emoji, including deleted ones that reactions still show.
const MAX_KEPT_EMOJI: i64 = 10_000;
/// The limit of a picture, in bytes.
pub const MAX_PICTURE_BYTES: u64 = 256 * 1_024;
/// The limit of width and height, in pixels.
const MAX_SIDE_PIXELS: u32 = 1_024;
/// The media types of pictures.
const PICTURE_TYPES: &[&str] = &["image/png", "image/gif", "image/webp"];

/// A caller who may change custom emoji.
#[derive(Clone, Copy)]
struct Editor {
    user: Option<UserId>,
    /// Whether the caller may also change the emoji of others.
    is_admin: bool,
}

impl Editor {
    fn new(app: &App, principal: &Principal) -> Result<Self> {
        let user = principal.person().map(|person| person.id);
        if principal.is_admin() {
            return Ok(Self { user, is_admin: true });
        }
        if app.settings.members_add_emoji && user.is_some() {
            return Ok(Self { user, is_admin: false });
        }
        if !principal.scopes().admin {
            return Err(insufficient_scope("admin"));
        }
        Err(Error::Forbidden { code: "admin_required", detail: "Only administrators may change custom emoji".into() })
    }

    /// Locks and reads the emoji with a name, and checks that the editor may change it.
    async fn lock(self, conn: &mut Conn, name: &str) -> Result<CustomEmoji> {
        let id = rows::lock_by_name(conn, &fold_ascii(name)).await?.ok_or_else(not_found)?;
        let emoji = rows::by_id(conn, id).await?.ok_or_else(not_found)?;
        if self.is_admin || (self.user.is_some() && emoji.created_by == self.user) {
            return Ok(emoji);
        }
        Err(Error::Forbidden {
            code: "not_your_emoji",
            detail: "Only the member who added this emoji and administrators may change it".into(),
        })
    }
}

/// Begins the upload of the picture of a new emoji.
///
/// # Errors
/// 403 `admin_required`, `insufficient_scope`; 409 `emoji_name_taken` for the name of an emoji of the Unicode set; 413
/// `file_too_large`; 422 for `name`; those of [`uploads::begin_for_server`].
pub async fn begin(app: &App, principal: &Principal, name: &str, announced_bytes: Option<u64>) -> Result<Incoming> {
    let editor = Editor::new(app, principal)?;
    check_name(name)?;
    uploads::begin_for_server(app, editor.user.unwrap_or(SERVER), announced_bytes, MAX_PICTURE_BYTES).await
}

struct Creation {
    new: NewEmoji,
    max_server_bytes: i64,
}

/// Adds an emoji with a picture that has arrived. Returns the emoji and whether it is new: a repeated request with the same picture
/// changes nothing.
///
/// # Errors
/// As [`begin`]; 409 `emoji_name_taken`, `too_many_emoji`; 422 `unsupported_image_type`, `image_too_large`, `damaged_file`; 503 and
/// 507 if the bytes cannot be stored.
pub async fn create(app: &App, principal: &Principal, name: &str, picture: Received) -> Result<(CustomEmoji, bool)> {
    uploads::stored(&app.metrics, create_uncounted(app, principal, name, picture).await)
}

async fn create_uncounted(
    app: &App,
    principal: &Principal,
    name: &str,
    picture: Received,
) -> Result<(CustomEmoji, bool)> {
    let editor = Editor::new(app, principal)?;
    check_name(name)?;
    let name_key = fold_ascii(name);
    let present = app.db.read(name_key.clone(), |conn, name_key| Box::pin(present_or_room(conn, name_key))).await?;
    let is_repeated =
        |present: &CustomEmoji, sha256: &Hash| is_same(present, name, editor.user) && present.blob.sha256 == *sha256;
    let check = |inspected: &Inspected, sha256: &Hash| match &present {
        Some(present) if !is_repeated(present, sha256) => Err(name_taken()),
        _ => check_picture(inspected),
    };
    let (blob, inspected) = uploads::store_picture(app, picture, check).await?;
    let new = NewEmoji {
        name: name.to_owned(),
        name_key,
        blob,
        content_type: inspected.content_type,
        created_by: editor.user,
        created_at: app.clock.now(),
    };
    let creation = Creation { new, max_server_bytes: files(app)?.settings.max_server_bytes };
    app.db.write(creation, |conn, creation| Box::pin(insert(conn, creation))).await.map_err(taken)
}

/// Whether an emoji has this name, in the same case, and was added by this caller.
fn is_same(emoji: &CustomEmoji, name: &str, user: Option<UserId>) -> bool {
    emoji.name == name && emoji.created_by == user
}

/// The emoji with a name. If there is none, checks that there is room for another emoji.
async fn present_or_room(conn: &mut Conn, name_key: &str) -> Result<Option<CustomEmoji>> {
    if let Some(id) = rows::id_by_name(conn, name_key).await? {
        return rows::by_id(conn, id).await;
    }
    let (live, kept) = rows::count(conn).await?;
    if live >= MAX_CUSTOM_EMOJI || kept >= MAX_KEPT_EMOJI {
        let detail = format!(
            "There can be {MAX_CUSTOM_EMOJI} custom emoji, and {MAX_KEPT_EMOJI} with the deleted ones that reactions show"
        );
        return Err(Error::Conflict { code: "too_many_emoji", detail: detail.into() });
    }
    Ok(None)
}

async fn insert(conn: &mut Conn, Creation { new, max_server_bytes }: &Creation) -> Result<(CustomEmoji, bool)> {
    if let Some(present) = present_or_room(conn, &new.name_key).await? {
        let is_repeated = is_same(&present, &new.name, new.created_by) && present.blob.id == new.blob.id;
        return if is_repeated { Ok((present, false)) } else { Err(name_taken()) };
    }
    uploads::add_references(conn, &[new.blob], *max_server_bytes).await?;
    let id = rows::insert(conn, new).await?;
    let NewEmoji { name, blob, content_type, created_by, created_at, .. } = new.clone();
    Ok((CustomEmoji { id, name, blob, content_type, created_by, created_at, deleted_at: None }, true))
}

fn check_picture(picture: &Inspected) -> Result<()> {
    if !PICTURE_TYPES.contains(&picture.content_type.as_str()) {
        return Err(Error::Unusable {
            code: "unsupported_image_type",
            detail: "The picture must be a PNG, a GIF or a WebP file".into(),
        });
    }
    let side = picture.width.max(picture.height).ok_or_else(|| Error::Unusable {
        code: "damaged_file",
        detail: "The picture has no width and height".into(),
    })?;
    if side > MAX_SIDE_PIXELS {
        return Err(Error::Unusable {
            code: "image_too_large",
            detail: format!("The picture must be at most {MAX_SIDE_PIXELS} pixels wide and high").into(),
        });
    }
    Ok(())
}

/// Renames an emoji.
///
/// # Errors
/// 403 `admin_required`, `insufficient_scope`, `not_your_emoji`; 404 `emoji_not_found`; 409 `emoji_name_taken`; 422 for `name`.
pub async fn rename(app: &App, principal: &Principal, name: &str, new_name: &str) -> Result<CustomEmoji> {
    let editor = Editor::new(app, principal)?;
    check_name(new_name)?;
    app.db
        .write((editor, name.to_owned(), new_name.to_owned()), |conn, (editor, name, new_name)| {
            Box::pin(async move {
                let emoji = editor.lock(conn, name).await?;
                rows::rename(conn, emoji.id, new_name, &fold_ascii(new_name)).await?;
                Ok(CustomEmoji { name: new_name.clone(), ..emoji })
            })
        })
        .await
        .map_err(taken)
}

/// Deletes an emoji.
///
/// # Errors
/// 403 `admin_required`, `insufficient_scope`, `not_your_emoji`; 404 `emoji_not_found`.
pub async fn delete(app: &App, principal: &Principal, name: &str) -> Result<()> {
    let editor = Editor::new(app, principal)?;
    let now: Timestamp = app.clock.now();
    app.db
        .write((editor, name.to_owned(), now), |conn, (editor, name, now)| {
            Box::pin(async move {
                let emoji = editor.lock(conn, name).await?;
                rows::delete(conn, emoji.id, *now).await
            })
        })
        .await
}

/// The picture of an emoji, also of a deleted one that reactions show.
///
/// # Errors
/// 404 `emoji_not_found`.
pub async fn content(app: &App, id: i64) -> Result<Content> {
    let emoji = app.db.read(id, |conn, id| Box::pin(rows::by_id(conn, EmojiId(*id)))).await?;
    let CustomEmoji { blob, content_type, .. } = emoji.ok_or_else(not_found)?;
    Ok(Content { blob, content_type, file_name: None })
}

fn check_name(name: &str) -> Result<()> {
    if !is_custom_name(name) {
        let detail = "must have 1 to 64 characters: A to Z, a to z, 0 to 9, _ and -";
        return Err(Error::invalid("name", "invalid_emoji_name", detail));
    }
    match emoji_catalog::by_shortcode(&fold_ascii(name)) {
        Some(_) => Err(name_taken()),
        None => Ok(()),
    }
}

fn taken(error: Error) -> Error {
    match error {
        Error::Duplicate { constraint } if constraint == "custom_emoji_name_key" => name_taken(),
        error => error,
    }
}

fn name_taken() -> Error {
    Error::Conflict { code: "emoji_name_taken", detail: "An emoji with this name exists".into() }
}

fn not_found() -> Error {
    Error::NotFound { code: "emoji_not_found", detail: "Emoji not found".into() }
}
