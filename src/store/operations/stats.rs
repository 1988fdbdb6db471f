//! Counts over the tables.
//!
//! Invariant: what is counted row by row grows with people, devices and conversations, never with messages or events.

use crate::base::error::Result;
use crate::base::time::Timestamp;
use crate::store::db::Conn;
use crate::store::db::columns::{columns, read, sql};
use crate::store::driver::values::Value;

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// People who are not erased.
    pub users: i64,
    /// People who are kept out.
    pub banned_users: i64,
    /// Devices that are logged in.
    pub sessions: i64,
    /// API keys.
    pub api_keys: i64,
    /// Conversations.
    pub conversations: i64,
    /// Messages ever sent.
    pub messages_sent: i64,
    /// Events ever logged.
    pub events: i64,
    /// What the data takes on disk.
    pub database_bytes: i64,
}

// $1 is the time, $2 the size of the database.
columns! {
    Stats {
        users: "(SELECT count(*) FROM messaging.users)",
        banned_users: "(SELECT count(*) FROM messaging.users WHERE banned_at IS NOT NULL)",
        sessions: "(SELECT count(*) FROM messaging.sessions WHERE expires_at > $1)",
        api_keys: "(SELECT count(*) FROM messaging.api_keys)",
        conversations: "(SELECT count(*) FROM messaging.conversations)",
        // seq has no gaps, so this counts messages. The sequence of their ids has: a refused send takes one too.
        messages_sent: "(SELECT CAST(coalesce(sum(last_seq), 0) AS BIGINT) FROM messaging.conversations)",
        events: "(SELECT last_position FROM messaging.event_log WHERE id = 1)",
        database_bytes: "CAST($2 AS BIGINT)",
    }
}

/// Counts.
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
