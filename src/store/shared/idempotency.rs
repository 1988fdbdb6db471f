//! Rows of `messaging.idempotency_keys`.
//!
//! Invariant: rows are clustered by day, so that new keys, which are random, change only the pages of the current day. A
//! look-up therefore names every day whose keys are still stored.

use crate::base::error::{Error, Result};
use crate::base::ids::UserId;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// Identifies an idempotency key in its scope: the first 16 bytes of the SHA-256 of both.
pub type Digest = [u8; 16];

/// The answer to a request, stored so that a repeated request gets the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The `Location` header.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// An idempotency key, with its request and the answer to it.
#[derive(Clone, Debug)]
pub struct Record {
    /// The digest of the scope and the key.
    pub digest: Digest,
    /// The hash of the method, the path and the body.
    pub request_hash: [u8; 32],
    /// The answer.
    pub answer: StoredAnswer,
    /// The user whom the answer is about, if it is not about a message.
    pub subject_id: Option<UserId>,
}

columns! {
    Record {
        digest: "digest",
        request_hash: "request_hash",
        status: "status",
        location: "location",
        body: "body",
        subject_id: "subject_id",
    } => Record {
        digest: fixed(digest, "idempotency_keys.digest")?,
        request_hash: fixed(request_hash, "idempotency_keys.request_hash")?,
        answer: StoredAnswer { status: http_status(status)?, location, body },
        subject_id,
    }
}

/// Reads bytes of a fixed length.
fn fixed<const LENGTH: usize>(bytes: &[u8], column: &'static str) -> Result<[u8; LENGTH]> {
    bytes.try_into().map_err(|_| Error::unknown_value(column, format!("{} bytes", bytes.len())))
}

fn http_status(number: i64) -> Result<u16> {
    let status = u16::try_from(number).ok().filter(|status| (100..1_000).contains(status));
    status.ok_or_else(|| Error::unknown_value("idempotency_keys.status", number.to_string()))
}

/// The idempotency key of the send of a message, from the two columns of the message.
pub(in crate::store) fn key(day: Option<i64>, digest: Option<&[u8]>) -> Option<(i64, Digest)> {
    day.zip(digest.and_then(|digest| digest.try_into().ok()))
}

/// The records of keys that were used on one of `days`. Unused keys are left out.
pub async fn find(conn: &mut Conn, days: &[i64], digests: &[&[u8]]) -> Result<Vec<Record>> {
    conn.rows(
        sql!("SELECT ", Record::COLUMNS, " FROM messaging.idempotency_keys WHERE day = ANY($1) AND digest = ANY($2)"),
        &[Value::I64s(days), Value::ByteSlices(digests)],
        read,
    )
    .await
}

/// The newest day that has a key, if it is later than `after`.
pub async fn newest_day(conn: &mut Conn, after: i64) -> Result<Option<i64>> {
    let sql = "SELECT max(day) FROM messaging.idempotency_keys WHERE day > $1";
    conn.one(sql, &[Value::I64(after)], |row| row.option_i64(0)).await
}

/// Stores answers. `records` must be sorted by digest, so that two transactions with the same keys never deadlock.
///
/// # Errors
/// [`crate::base::error::Error::Duplicate`] with `idempotency_keys_pkey` when another transaction has stored one of the
/// keys.
pub async fn insert(conn: &mut Conn, day: i64, records: &[&Record]) -> Result<()> {
    if let Conn::Sqlite(_) = conn {
        for record in records {
            conn.execute(
                "INSERT INTO messaging.idempotency_keys (day, digest, request_hash, status, location, body, subject_id)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
                &[
                    Value::I64(day),
                    Value::Bytes(&record.digest),
                    Value::Bytes(&record.request_hash),
                    Value::I64(i64::from(record.answer.status)),
                    Value::OptionText(record.answer.location.as_deref()),
                    Value::Bytes(&record.answer.body),
                    Value::OptionI64(record.subject_id.map(|id| id.0)),
                ],
            )
            .await?;
        }
        return Ok(());
    }
    let digests: Vec<&[u8]> = records.iter().map(|record| record.digest.as_slice()).collect();
    let hashes: Vec<&[u8]> = records.iter().map(|record| record.request_hash.as_slice()).collect();
    let statuses: Vec<i64> = records.iter().map(|record| i64::from(record.answer.status)).collect();
    let locations: Vec<Option<&str>> = records.iter().map(|record| record.answer.location.as_deref()).collect();
    let subjects: Vec<Option<i64>> = records.iter().map(|record| record.subject_id.map(|id| id.0)).collect();
    let bodies: Vec<&[u8]> = records.iter().map(|record| record.answer.body.as_slice()).collect();
    conn.execute(
        "INSERT INTO messaging.idempotency_keys (day, digest, request_hash, status, location, body, subject_id)
         SELECT $1, * FROM unnest($2::bytea[], $3::bytea[], $4::bigint[], $5::text[], $6::bytea[], $7::bigint[])",
        &[
            Value::I64(day),
            Value::ByteSlices(&digests),
            Value::ByteSlices(&hashes),
            Value::I64s(&statuses),
            Value::OptionTexts(&locations),
            Value::ByteSlices(&bodies),
            Value::OptionI64s(&subjects),
        ],
    )
    .await?;
    Ok(())
}

/// Deletes up to `limit` keys of days before `day`. Returns how many.
pub async fn delete_before(conn: &mut Conn, day: i64, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.idempotency_keys WHERE (day, digest) IN (
             SELECT day, digest FROM messaging.idempotency_keys WHERE day < $1 ORDER BY day, digest LIMIT $2)",
        &[Value::I64(day), Value::I64(limit)],
    )
    .await
}

/// Removes the bodies of stored answers. The rows stay, so that a repeat still has no further effect.
pub async fn blank(conn: &mut Conn, keys: &[(i64, Digest)]) -> Result<()> {
    for (day, digest) in keys {
        conn.execute(
            "UPDATE messaging.idempotency_keys SET body = $3 WHERE day = $1 AND digest = $2",
            &[Value::I64(*day), Value::Bytes(digest), Value::Bytes(b"")],
        )
        .await?;
    }
    Ok(())
}

/// Removes the bodies and locations of all stored answers that are about a user and not about a message.
pub async fn blank_of(conn: &mut Conn, subject: UserId) -> Result<()> {
    conn.execute(
        "UPDATE messaging.idempotency_keys SET body = $2, location = NULL WHERE subject_id = $1",
        &[Value::I64(subject.0), Value::Bytes(b"")],
    )
    .await?;
    Ok(())
}
