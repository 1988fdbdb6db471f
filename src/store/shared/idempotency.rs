//! Rows of `messaging.idempotency_keys`.
//!
//! Invariant: rows are clustered by day, so that random keys touch only today's pages; a look-up asks for each day kept.

use crate::base::error::{Error, Result};
use crate::base::ids::UserId;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// What identifies a key in its scope: the first 16 bytes of a SHA-256.
pub type Digest = [u8; 16];

/// An answer that was given, to be given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// HTTP status.
    pub status: u16,
    /// The `Location` header.
    pub location: Option<String>,
    /// The bytes of the body.
    pub body: Vec<u8>,
}

/// A key with the request it came with and its answer.
#[derive(Clone, Debug)]
pub struct Record {
    /// Scope and key.
    pub digest: Digest,
    /// Method, path and body.
    pub request_hash: [u8; 32],
    /// What was answered.
    pub answer: StoredAnswer,
    /// The person whom the answer is about, where it is no message.
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

/// Bytes of a fixed length.
fn fixed<const LENGTH: usize>(bytes: &[u8], column: &'static str) -> Result<[u8; LENGTH]> {
    bytes.try_into().map_err(|_| Error::unknown_value(column, format!("{} bytes", bytes.len())))
}

fn http_status(number: i64) -> Result<u16> {
    let status = u16::try_from(number).ok().filter(|status| (100..1_000).contains(status));
    status.ok_or_else(|| Error::unknown_value("idempotency_keys.status", number.to_string()))
}

/// The key of a message's send, from the message's two columns.
pub(in crate::store) fn key(day: Option<i64>, digest: Option<&[u8]>) -> Option<(i64, Digest)> {
    day.zip(digest.and_then(|digest| digest.try_into().ok()))
}

/// Those of the keys that were used on one of `days`.
pub async fn find(conn: &mut Conn, days: &[i64], digests: &[&[u8]]) -> Result<Vec<Record>> {
    conn.rows(
        sql!("SELECT ", Record::COLUMNS, " FROM messaging.idempotency_keys WHERE day = ANY($1) AND digest = ANY($2)"),
        &[Value::I64s(days), Value::ByteSlices(digests)],
        read,
    )
    .await
}

/// The newest day with a key, if it is after a day that is known.
pub async fn newest_day(conn: &mut Conn, after: i64) -> Result<Option<i64>> {
    let sql = "SELECT max(day) FROM messaging.idempotency_keys WHERE day > $1";
    conn.one(sql, &[Value::I64(after)], |row| row.option_i64(0)).await
}

/// Keeps answers. `records` are sorted by digest, so that two transactions with the same keys never wait for each other.
///
/// # Errors
/// [`crate::base::error::Error::Duplicate`] with `idempotency_keys_pkey` when another transaction had one of them first.
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

/// Forgets up to `limit` keys of days before `day`; how many it were.
pub async fn delete_before(conn: &mut Conn, day: i64, limit: i64) -> Result<u64> {
    conn.execute(
        "DELETE FROM messaging.idempotency_keys WHERE (day, digest) IN (
             SELECT day, digest FROM messaging.idempotency_keys WHERE day < $1 ORDER BY day, digest LIMIT $2)",
        &[Value::I64(day), Value::I64(limit)],
    )
    .await
}

/// Takes the content out of stored answers. Their keys go on to stand for what was done.
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

/// Takes the content out of every stored answer about a person that is no message.
pub async fn blank_of(conn: &mut Conn, subject: UserId) -> Result<()> {
    conn.execute(
        "UPDATE messaging.idempotency_keys SET body = $2, location = NULL WHERE subject_id = $1",
        &[Value::I64(subject.0), Value::Bytes(b"")],
    )
    .await?;
    Ok(())
}
