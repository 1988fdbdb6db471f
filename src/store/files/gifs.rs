//! Rows of `messaging.gifs` and `messaging.gif_words`: the GIFs of the server itself, and the words by which they are found.
//!
//! Invariant: each GIF holds one reference to its blob.

use super::blobs::{self, Blob};
use crate::base::error::Result;
use crate::base::ids::{BlobId, GifId};
use crate::base::text::past_prefix;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::db::words;
use crate::store::driver::values::Value;

/// For which audience a GIF is suitable. Ordered from the widest audience to the narrowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rating {
    /// Suitable for everybody.
    G,
    /// Parental guidance is advised.
    Pg,
    /// Not suitable under the age of 13.
    Pg13,
    /// For adults.
    R,
}

impl Rating {
    /// All ratings, the widest audience first.
    pub const ALL: [Self; 4] = [Self::G, Self::Pg, Self::Pg13, Self::R];

    /// The word in the database, in JSON and in the options.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::G => "g",
            Self::Pg => "pg",
            Self::Pg13 => "pg-13",
            Self::R => "r",
        }
    }

    /// The rating with this word.
    ///
    /// # Errors
    /// [`Error::UnknownValue`](crate::base::error::Error::UnknownValue).
    pub fn parse(word: &str) -> Result<Self> {
        words::parse("gifs.rating", &Self::ALL, Self::as_str, word)
    }
}

/// A GIF of the server itself.
#[derive(Clone, Debug)]
pub struct StoredGif {
    /// Assigned by the database.
    pub id: GifId,
    /// The name of its pack.
    pub pack: String,
    /// What it shows.
    pub title: String,
    /// Its tags, separated by commas.
    pub tags: String,
    /// For which audience it is suitable.
    pub rating: Rating,
    /// Its bytes.
    pub blob: Blob,
    /// The media type of the bytes.
    pub content_type: String,
    /// Width in pixels.
    pub width: i64,
    /// Height in pixels.
    pub height: i64,
    /// When it was added.
    pub created_at: Timestamp,
}

columns! {
    StoredGif {
        id: "g.id",
        pack: "g.pack",
        title: "g.title",
        tags: "g.tags",
        word: "g.rating",
        content_type: "g.content_type",
        width: "g.width",
        height: "g.height",
        created_at: "g.created_at",
        blob: Blob::COLUMNS,
    } => {
        let word: &str = word;
        StoredGif { id, pack, title, tags, rating: Rating::parse(word)?, blob, content_type, width, height, created_at }
    }
}

/// Inserts a GIF whose blob has its reference, with the words by which it is found. `id` is ignored.
pub async fn insert(conn: &mut Conn, new: &StoredGif, words: &[String]) -> Result<GifId> {
    let id: GifId = conn
        .one(
            "INSERT INTO messaging.gifs (pack, title, tags, rating, blob_id, content_type, width, height, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id",
            &[
                Value::Text(&new.pack),
                Value::Text(&new.title),
                Value::Text(&new.tags),
                Value::Text(new.rating.as_str()),
                Value::I64(new.blob.id.0),
                Value::Text(&new.content_type),
                Value::I64(new.width),
                Value::I64(new.height),
                Value::Time(new.created_at),
            ],
            read,
        )
        .await?;
    for word in words {
        let sql = "INSERT INTO messaging.gif_words (word, gif_id) VALUES ($1, $2)";
        conn.execute(sql, &[Value::Text(word), Value::I64(id.0)]).await?;
    }
    Ok(id)
}

/// The number of GIFs, and the number of packs.
pub async fn count(conn: &mut Conn) -> Result<(i64, i64)> {
    conn.one("SELECT count(*), count(DISTINCT pack) FROM messaging.gifs", &[], read).await
}

/// Whether a pack has a GIF.
pub async fn pack_exists(conn: &mut Conn, pack: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM messaging.gifs WHERE pack = $1)";
    conn.one(sql, &[Value::Text(pack)], |row| row.bool(0)).await
}

/// A GIF by its id.
pub async fn by_id(conn: &mut Conn, id: GifId) -> Result<Option<StoredGif>> {
    Ok(by_ids(conn, &[id.0]).await?.pop())
}

/// GIFs by their ids, in no particular order.
pub async fn by_ids(conn: &mut Conn, ids: &[i64]) -> Result<Vec<StoredGif>> {
    let sql = sql!(
        "SELECT ",
        StoredGif::COLUMNS,
        " FROM messaging.gifs g JOIN messaging.blobs b ON b.id = g.blob_id WHERE g.id = ANY($1)"
    );
    conn.rows(sql, &[Value::I64s(ids)], read).await
}

/// The next GIFs with one of some ratings before an id, newest first.
pub async fn before(conn: &mut Conn, before: GifId, ratings: &[Rating], limit: i64) -> Result<Vec<StoredGif>> {
    let ratings: Vec<&str> = ratings.iter().map(|rating| rating.as_str()).collect();
    let sql = sql!(
        "SELECT ",
        StoredGif::COLUMNS,
        " FROM messaging.gifs g JOIN messaging.blobs b ON b.id = g.blob_id
          WHERE g.id < $1 AND g.rating = ANY($2) ORDER BY g.id DESC LIMIT $3"
    );
    conn.rows(sql, &[Value::I64(before.0), Value::Texts(&ratings), Value::I64(limit)], read).await
}

/// The ids of the GIFs with a word that begins with `prefix`.
pub async fn with_prefix(conn: &mut Conn, prefix: &str) -> Result<Vec<i64>> {
    let end = past_prefix(prefix);
    let sql = "SELECT DISTINCT gif_id FROM messaging.gif_words WHERE word >= $1 AND word < $2";
    conn.rows(sql, &[Value::Text(prefix), Value::Text(&end)], |row| row.i64(0)).await
}

/// Deletes a GIF. Returns whether it existed.
pub async fn delete(conn: &mut Conn, id: GifId) -> Result<bool> {
    let sql = "DELETE FROM messaging.gifs WHERE id = $1 RETURNING blob_id";
    let blobs: Vec<BlobId> = conn.rows(sql, &[Value::I64(id.0)], read).await?;
    conn.execute("DELETE FROM messaging.gif_words WHERE gif_id = $1", &[Value::I64(id.0)]).await?;
    blobs::remove_references(conn, &blobs).await?;
    Ok(!blobs.is_empty())
}

/// The ids of the first GIFs of a pack.
pub async fn of_pack(conn: &mut Conn, pack: &str, limit: i64) -> Result<Vec<GifId>> {
    let sql = "SELECT id FROM messaging.gifs WHERE pack = $1 ORDER BY id LIMIT $2";
    conn.rows(sql, &[Value::Text(pack), Value::I64(limit)], read).await
}
