//! Rows of `messaging.blobs`: the bytes of files, each stored once.
//!
//! Invariants:
//! - An upload inserts the row of a blob before it writes the bytes. The row is deleted after the bytes. Only a restore writes bytes
//!   before their row.
//! - A blob in the state `deleting` gets no new reference, so its bytes can be deleted at any time.
//! - A blob in the state `claimed` becomes `deleting` only when its upload must have ended.
//! - A blob in the state `lost` had no bytes when its backup was made or restored. The next upload of equal bytes stores them again.

use super::usage;
use crate::base::error::Result;
use crate::base::ids::BlobId;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// SHA-256 of the bytes of a blob.
pub type Hash = [u8; 32];

/// A blob: the id, the hash and the number of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Assigned by the database. Part of the name of the stored object.
    pub id: BlobId,
    /// SHA-256 of its bytes.
    pub sha256: Hash,
    /// The number of its bytes.
    pub size_bytes: i64,
}

columns! {
    Blob {
        id: "b.id",
        sha256: "b.sha256",
        size_bytes: "b.size_bytes",
    }
}

/// Finds or inserts the blob with these bytes, and sets `touched_at`, so that the sweep does not take the claim for abandoned. Returns
/// the blob and whether its bytes are already stored.
pub async fn claim(conn: &mut Conn, sha256: &Hash, size_bytes: i64, now: Timestamp) -> Result<(Blob, bool)> {
    conn.one(
        "INSERT INTO messaging.blobs (sha256, size_bytes, state, reference_count, touched_at)
         VALUES ($1, $2, 'claimed', 0, $3)
         ON CONFLICT (sha256) WHERE state <> 'deleting' DO UPDATE SET touched_at = excluded.touched_at
         RETURNING id, sha256, size_bytes, state = 'stored'",
        &[Value::Bytes(sha256), Value::I64(size_bytes), Value::Time(now)],
        read,
    )
    .await
}

/// Locks blobs until the transaction ends, and returns whether all of them can get references. Otherwise one of them is being
/// deleted, and its bytes must be claimed and stored again.
pub async fn lock(conn: &mut Conn, blobs: &[Blob]) -> Result<bool> {
    let ids: Vec<i64> = blobs.iter().map(|blob| blob.id.0).collect();
    let locked = conn
        .rows(
            "SELECT id FROM messaging.blobs WHERE id = ANY($1) AND state <> 'deleting' ORDER BY id FOR UPDATE",
            &[Value::I64s(&ids)],
            |row| row.i64(0),
        )
        .await?;
    Ok(ids.iter().all(|id| locked.contains(id)))
}

/// Adds a reference to a locked blob, whose bytes are stored now. Returns whether the blobs of the server stay within the limit. If
/// they do not, the caller must roll the transaction back.
pub async fn add_reference(conn: &mut Conn, blob: Blob, limit_bytes: i64) -> Result<bool> {
    let sql = "UPDATE messaging.blobs SET state = 'stored', reference_count = reference_count + 1
                WHERE id = $1 RETURNING reference_count";
    let count = conn.one(sql, &[Value::I64(blob.id.0)], |row| row.i64(0)).await?;
    if count > 1 {
        return Ok(true);
    }
    usage::add(conn, usage::SERVER, blob.size_bytes, limit_bytes).await
}

/// Removes one reference for each id in `blobs`. A blob without references becomes `deleting`.
pub async fn remove_references(conn: &mut Conn, blobs: &[BlobId]) -> Result<()> {
    let mut blobs = blobs.to_vec();
    blobs.sort_unstable();
    let mut freed_bytes = 0;
    for blob in blobs {
        let freed = conn
            .first(
                "UPDATE messaging.blobs
                    SET reference_count = reference_count - 1,
                        state = CASE WHEN reference_count <= 1 THEN 'deleting' ELSE state END
                  WHERE id = $1 AND reference_count > 0
                  RETURNING CASE WHEN reference_count = 0 THEN size_bytes END",
                &[Value::I64(blob.0)],
                |row| row.option_i64(0),
            )
            .await?;
        freed_bytes += freed.flatten().unwrap_or_default();
    }
    // Last, because uploads lock their blobs before this row too.
    usage::remove(conn, usage::SERVER, freed_bytes).await
}

/// Whether there are blobs for [`give_up_claims`].
pub async fn has_old_claims(conn: &mut Conn, before: Timestamp) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM messaging.blobs
                               WHERE reference_count = 0 AND touched_at < $1 AND state = 'claimed')";
    conn.one(sql, &[Value::Time(before)], |row| row.bool(0)).await
}

/// Marks the blobs that were claimed before `before`, and whose uploads never ended, as `deleting`.
pub async fn give_up_claims(conn: &mut Conn, before: Timestamp) -> Result<u64> {
    let sql = "UPDATE messaging.blobs SET state = 'deleting'
                WHERE reference_count = 0 AND touched_at < $1 AND state = 'claimed'";
    conn.execute(sql, &[Value::Time(before)]).await
}

/// Up to `limit` blobs whose bytes are to be deleted.
pub async fn deleting(conn: &mut Conn, limit: i64) -> Result<Vec<Blob>> {
    conn.rows(
        sql!(
            "SELECT ",
            Blob::COLUMNS,
            " FROM messaging.blobs b WHERE b.reference_count = 0 AND b.state = 'deleting'
              ORDER BY b.touched_at, b.id LIMIT $1"
        ),
        &[Value::I64(limit)],
        read,
    )
    .await
}

/// Deletes the rows of blobs whose bytes have been deleted.
pub async fn delete(conn: &mut Conn, blobs: &[i64]) -> Result<()> {
    let sql = "DELETE FROM messaging.blobs WHERE id = ANY($1) AND state = 'deleting'";
    conn.execute(sql, &[Value::I64s(blobs)]).await.map(drop)
}

/// Moves blobs whose bytes could not be deleted behind the others.
pub async fn postpone(conn: &mut Conn, blobs: &[i64], now: Timestamp) -> Result<()> {
    let sql = "UPDATE messaging.blobs SET touched_at = $2 WHERE id = ANY($1) AND state = 'deleting'";
    conn.execute(sql, &[Value::I64s(blobs), Value::Time(now)]).await.map(drop)
}

/// The next blobs after an id, in the order of their ids, whose bytes should exist.
pub async fn list_stored(conn: &mut Conn, after: BlobId, limit: i64) -> Result<Vec<Blob>> {
    conn.rows(
        sql!(
            "SELECT ",
            Blob::COLUMNS,
            " FROM messaging.blobs b WHERE b.id > $1 AND b.state = 'stored' ORDER BY b.id LIMIT $2"
        ),
        &[Value::I64(after.0), Value::I64(limit)],
        read,
    )
    .await
}

/// The blobs among `ids` that have a row, in any state.
pub async fn existing(conn: &mut Conn, ids: &[i64]) -> Result<Vec<Blob>> {
    conn.rows(sql!("SELECT ", Blob::COLUMNS, " FROM messaging.blobs b WHERE b.id = ANY($1)"), &[Value::I64s(ids)], read)
        .await
}

/// The blobs among `ids` whose bytes should exist.
pub async fn stored_among(conn: &mut Conn, ids: &[i64]) -> Result<Vec<Blob>> {
    conn.rows(
        sql!("SELECT ", Blob::COLUMNS, " FROM messaging.blobs b WHERE b.id = ANY($1) AND b.state = 'stored'"),
        &[Value::I64s(ids)],
        read,
    )
    .await
}

/// Inserts a row in the state `deleting` for each stored object without one, so that the sweep deletes the object and no upload
/// gets its id. An object whose id belongs to another blob gets no row.
pub async fn adopt_orphans(conn: &mut Conn, orphans: &[Blob], now: Timestamp) -> Result<()> {
    for Blob { id, sha256, size_bytes } in orphans {
        conn.execute(
            "INSERT INTO messaging.blobs (id, sha256, size_bytes, state, reference_count, touched_at)
             VALUES ($1, $2, $3, 'deleting', 0, $4)
             ON CONFLICT (id) DO NOTHING",
            &[Value::I64(id.0), Value::Bytes(sha256), Value::I64(*size_bytes), Value::Time(now)],
        )
        .await?;
    }
    // SQLite never assigns an id below one that was inserted.
    if let (Conn::Postgres(_), Some(last)) = (&*conn, orphans.iter().map(|orphan| orphan.id.0).max()) {
        conn.first(
            "SELECT setval('messaging.blobs_id_seq', $1)::text FROM messaging.blobs_id_seq WHERE last_value < $1",
            &[Value::I64(last)],
            |_| Ok(()),
        )
        .await?;
    }
    Ok(())
}

/// Numbers of blobs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Blobs whose bytes should exist.
    pub stored: i64,
    /// Their bytes.
    pub stored_size_bytes: i64,
    /// Blobs in the state `lost`.
    pub lost: i64,
}

columns! {
    Totals {
        stored: "CAST(coalesce(sum(CASE WHEN b.state = 'stored' THEN 1 ELSE 0 END), 0) AS BIGINT)",
        stored_size_bytes: "CAST(coalesce(sum(CASE WHEN b.state = 'stored' THEN b.size_bytes ELSE 0 END), 0) AS BIGINT)",
        lost: "CAST(coalesce(sum(CASE WHEN b.state = 'lost' THEN 1 ELSE 0 END), 0) AS BIGINT)",
    }
}

/// Counts all blobs. The cost grows with their number.
pub async fn totals(conn: &mut Conn) -> Result<Totals> {
    conn.one(sql!("SELECT ", Totals::COLUMNS, " FROM messaging.blobs b"), &[], read).await
}

/// Marks stored blobs as lost: their bytes are not there.
///
/// # Errors
/// Errors of the database.
pub async fn mark_lost(conn: &mut Conn, blobs: &[i64]) -> Result<()> {
    if blobs.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE messaging.blobs SET state = 'lost' WHERE id = ANY($1) AND state = 'stored'";
    conn.execute(sql, &[Value::I64s(blobs)]).await.map(drop)
}
