//! The GIFs of the server itself, which administrators add in packs.
//!
//! Invariant: every term of a search must be the beginning of a word of the title or of the tags. Differences of case and accents
//! do not matter.

use std::collections::{BTreeSet, HashSet};

use super::attachments::{Content, files};
use super::gif_search::{GIF_TYPES, not_found};
use super::uploads::{self, Incoming, Received};
use crate::app::App;
use crate::base::error::{Error, Result};
use crate::base::ids::{GifId, MAX_ID};
use crate::domain::access::principal::Principal;
use crate::domain::messages::emoji_catalog::words_of;
use crate::domain::shared::pagination::{self, Limit, Page};
use crate::media::Inspected;
use crate::store;
use crate::store::db::Conn;
use crate::store::files::gifs as rows;
pub use crate::store::files::gifs::{Rating, StoredGif};

/// Maximum number of GIFs.
pub const MAX_GIFS: i64 = 5_000;
/// Maximum number of packs.
pub const MAX_PACKS: i64 = 100;
/// Maximum number of bytes of a GIF.
pub const MAX_GIF_BYTES: u64 = 8 * 1_024 * 1_024;
/// Maximum number of tags of a GIF.
pub const MAX_TAGS: usize = 20;
/// Maximum number of characters of the name of a pack, of a title and of a tag.
pub const MAX_TEXT_CHARACTERS: usize = 64;
/// GIFs that one transaction deletes.
const GIFS_PER_BATCH: i64 = 100;
/// The name of the list in cursors.
const LIST: &str = "gifs";

/// What an administrator says about a new GIF.
#[derive(Clone, Debug)]
pub struct NewGif {
    /// The name of the pack.
    pub pack: String,
    /// What it shows.
    pub title: String,
    /// Further words by which it is found.
    pub tags: Vec<String>,
    /// For which audience it is suitable.
    pub rating: Rating,
}

impl NewGif {
    fn check(&self) -> Result<()> {
        let detail = "must have 1 to 64 characters";
        for (field, text) in [("pack", &self.pack), ("title", &self.title)] {
            if text.trim().is_empty() || text.chars().count() > MAX_TEXT_CHARACTERS {
                return Err(Error::invalid(field, "out_of_range", detail));
            }
        }
        if self.tags.len() > MAX_TAGS {
            return Err(Error::invalid("tags", "too_many", format!("must be at most {MAX_TAGS}")));
        }
        if self.tags.iter().any(|tag| tag.trim().is_empty() || tag.chars().count() > MAX_TEXT_CHARACTERS) {
            return Err(Error::invalid("tags", "out_of_range", "must each have 1 to 64 characters"));
        }
        Ok(())
    }

    fn words(&self) -> BTreeSet<String> {
        words_of(&self.title).chain(self.tags.iter().flat_map(|tag| words_of(tag))).collect()
    }
}

/// Begins the upload of a GIF.
///
/// # Errors
/// 422 for the fields of `new`; those of [`uploads::begin_for_server`].
pub async fn begin(app: &App, principal: &Principal, new: &NewGif, announced_bytes: Option<u64>) -> Result<Incoming> {
    new.check()?;
    let owner = principal.person().map_or(store::files::usage::SERVER, |person| person.id);
    uploads::begin_for_server(app, owner, announced_bytes, MAX_GIF_BYTES).await
}

struct Creation {
    gif: StoredGif,
    words: Vec<String>,
    max_server_bytes: i64,
}

/// Adds a GIF that has arrived.
///
/// # Errors
/// 409 `too_many_gifs`; 422 `unsupported_image_type`, `image_too_large`, `damaged_file`; 503 and 507 if the bytes cannot be stored.
pub async fn create(app: &App, new: NewGif, received: Received) -> Result<StoredGif> {
    uploads::stored(&app.metrics, create_uncounted(app, new, received).await)
}

async fn create_uncounted(app: &App, new: NewGif, received: Received) -> Result<StoredGif> {
    let words = Vec::from_iter(new.words());
    let (blob, inspected) = uploads::store_picture(app, received, |inspected, _| check_type(inspected)).await?;
    let gif = StoredGif {
        id: GifId(0),
        pack: new.pack,
        title: new.title,
        tags: new.tags.join(","),
        rating: new.rating,
        blob,
        content_type: inspected.content_type,
        width: inspected.width.map_or(0, i64::from),
        height: inspected.height.map_or(0, i64::from),
        created_at: app.clock.now(),
    };
    let creation = Creation { gif, words, max_server_bytes: files(app)?.settings.max_server_bytes };
    app.db.write(creation, |conn, creation| Box::pin(insert(conn, creation))).await
}

fn check_type(picture: &Inspected) -> Result<()> {
    if GIF_TYPES.contains(&picture.content_type.as_str()) && picture.width.is_some() && picture.height.is_some() {
        return Ok(());
    }
    Err(Error::Unusable { code: "unsupported_image_type", detail: "The file must be a GIF or a WebP image".into() })
}

async fn insert(conn: &mut Conn, Creation { gif, words, max_server_bytes }: &Creation) -> Result<StoredGif> {
    let (gifs, packs) = rows::count(conn).await?;
    if gifs >= MAX_GIFS {
        return Err(too_many(format!("There are {gifs} GIFs; delete some first")));
    }
    if packs >= MAX_PACKS && !rows::pack_exists(conn, &gif.pack).await? {
        return Err(too_many(format!("There are {packs} packs; add the GIF to one of them")));
    }
    uploads::add_references(conn, &[gif.blob], *max_server_bytes).await?;
    let id = rows::insert(conn, gif, words).await?;
    Ok(StoredGif { id, ..gif.clone() })
}

fn too_many(detail: String) -> Error {
    Error::Conflict { code: "too_many_gifs", detail: detail.into() }
}

/// Lists all GIFs, newest first.
///
/// # Errors
/// 422 for `cursor`.
pub async fn list(app: &App, limit: Limit, cursor: Option<&str>) -> Result<Page<Vec<StoredGif>>> {
    newest(app, Rating::R, limit, cursor).await
}

/// The GIFs that a search finds, newest first, as far as `rating` allows.
///
/// # Errors
/// 422 for `cursor`.
pub(super) async fn search(
    app: &App,
    q: &str,
    rating: Rating,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<StoredGif>>> {
    let before = pagination::begin(LIST, cursor, MAX_ID)?;
    let terms: BTreeSet<String> = words_of(q).collect();
    let read = app.db.read((terms, before), |conn, (terms, before)| Box::pin(found(conn, terms, *before))).await?;
    Ok(suitable(read, rating, limit))
}

/// The newest GIFs, as far as `rating` allows.
///
/// # Errors
/// 422 for `cursor`.
pub(super) async fn newest(
    app: &App,
    rating: Rating,
    limit: Limit,
    cursor: Option<&str>,
) -> Result<Page<Vec<StoredGif>>> {
    let before = pagination::begin(LIST, cursor, MAX_ID)?;
    let ratings: Vec<Rating> = Rating::ALL.into_iter().filter(|other| *other <= rating).collect();
    let read = app
        .db
        .read((before, ratings, limit), |conn, (before, ratings, limit)| {
            Box::pin(rows::before(conn, GifId(*before), ratings, limit.to_read()))
        })
        .await?;
    Ok(Page::new(LIST, read, limit, |gif| [gif.id.0]))
}

async fn found(conn: &mut Conn, terms: &BTreeSet<String>, before: i64) -> Result<Vec<StoredGif>> {
    let mut ids: Option<HashSet<i64>> = None;
    for term in terms {
        let with_term: HashSet<i64> = rows::with_prefix(conn, term).await?.into_iter().collect();
        ids = Some(match ids {
            None => with_term,
            Some(ids) => ids.intersection(&with_term).copied().collect(),
        });
    }
    let ids: Vec<i64> = ids.unwrap_or_default().into_iter().filter(|id| *id < before).collect();
    rows::by_ids(conn, &ids).await
}

fn suitable(mut read: Vec<StoredGif>, rating: Rating, limit: Limit) -> Page<Vec<StoredGif>> {
    read.retain(|gif| gif.rating <= rating);
    read.sort_unstable_by_key(|gif| std::cmp::Reverse(gif.id));
    Page::new(LIST, read, limit, |gif| [gif.id.0])
}

/// A GIF by its id.
///
/// # Errors
/// 404 `gif_not_found`.
pub(super) async fn by_id(app: &App, id: &str) -> Result<StoredGif> {
    // Only the form in which ids are written, without signs and leading zeros.
    let number = id.parse().ok().filter(|number: &i64| *number > 0 && number.to_string() == id);
    let id = GifId(number.ok_or_else(not_found)?);
    app.db.read(id, |conn, id| Box::pin(rows::by_id(conn, *id))).await?.ok_or_else(not_found)
}

/// The bytes of a GIF.
pub(super) fn content(gif: StoredGif) -> Content {
    Content { blob: gif.blob, content_type: gif.content_type, file_name: None }
}

/// Deletes a GIF. Attachments that were made of it stay.
///
/// # Errors
/// 404 `gif_not_found`.
pub async fn delete(app: &App, id: i64) -> Result<()> {
    let existed = app.db.write(GifId(id), |conn, id| Box::pin(rows::delete(conn, *id))).await?;
    if existed { Ok(()) } else { Err(not_found()) }
}

/// Deletes all GIFs of a pack.
///
/// # Errors
/// 404 `gif_not_found` for a pack without GIFs.
pub async fn delete_pack(app: &App, pack: &str) -> Result<()> {
    let mut deleted = 0;
    loop {
        let batch = app.db.write(pack.to_owned(), |conn, pack| Box::pin(delete_batch(conn, pack))).await?;
        match batch {
            0 if deleted == 0 => return Err(not_found()),
            0 => return Ok(()),
            batch => deleted += batch,
        }
    }
}

async fn delete_batch(conn: &mut Conn, pack: &str) -> Result<usize> {
    let ids = rows::of_pack(conn, pack, GIFS_PER_BATCH).await?;
    for id in &ids {
        rows::delete(conn, *id).await?;
    }
    Ok(ids.len())
}
