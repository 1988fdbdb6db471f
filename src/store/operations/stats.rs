//! Counts over the tables.
//!
//! Invariant: the cost of counting rows grows with users, sessions, conversations and files, but never with messages or events.

use crate::base::error::Result;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// Numbers of rows, and the size of the data.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// Users who are not erased.
    pub users: i64,
    /// Banned users.
    pub banned_users: i64,
    /// Sessions that have not expired.
    pub sessions: i64,
    /// API keys.
    pub api_keys: i64,
    /// Conversations.
    pub conversations: i64,
    /// Messages sent since the database was created.
    pub messages_sent: i64,
    /// Events logged since the database was created.
    pub events: i64,
    /// Stored files, thumbnails included. Equal files count once.
    pub files: i64,
    /// Their bytes.
    pub files_size_bytes: i64,
    /// The size of the database on disk, in bytes.
    pub database_bytes: i64,
}

// $1 is the current time, $2 the size of the database.
columns! {
    Stats {
        users: "(SELECT count(*) FROM messaging.users)",
        banned_users: "(SELECT count(*) FROM messaging.users WHERE banned_at IS NOT NULL)",
        sessions: "(SELECT count(*) FROM messaging.sessions WHERE expires_at > $1)",
        api_keys: "(SELECT count(*) FROM messaging.api_keys)",
        conversations: "(SELECT count(*) FROM messaging.conversations)",
        // `seq` has no gaps, so this counts messages. The sequence of message ids has gaps, because a refused send takes an
        // id too.
        messages_sent: "(SELECT CAST(coalesce(sum(last_seq), 0) AS BIGINT) FROM messaging.conversations)",
        events: "(SELECT last_position FROM messaging.event_log WHERE id = 1)",
        files: "(SELECT count(*) FROM messaging.blobs WHERE state = 'stored')",
        files_size_bytes: "(SELECT CAST(coalesce(sum(size_bytes), 0) AS BIGINT) FROM messaging.blobs
                             WHERE state = 'stored')",
        database_bytes: "CAST($2 AS BIGINT)",
    }
}

/// Reads the counts and the size.
pub async fn get(conn: &mut Conn, now: Timestamp) -> Result<Stats> {
    let sizes = match conn {
        Conn::Sqlite(_) => "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        Conn::Postgres(_) => {
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'messaging' AND c.relkind IN ('r', 'S')"
        }
    };
    let database_bytes = conn.one(sizes, &[], |row| row.i64(0)).await?;
    conn.one(sql!("SELECT ", Stats::COLUMNS), &[Value::Time(now), Value::I64(database_bytes)], read).await
}
