//! A cache of the users and direct conversations that sends name.
//!
//! Invariants: a cached entry was committed when it was read. It is used only while `revocations` knows of no
//! revocation of its user since then. The batch that uses the entry checks again under its own locks (`send_batch`), so
//! an erasure that this server does not know of yet is not missed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;

use quick_cache::sync::Cache;

use super::draft_people;
use super::drafts::Draft;
use crate::base::error::Result;
use crate::base::ids::ConversationId;
use crate::domain::identity::revocations::{Mark, Revocations};
use crate::store;
use crate::store::conversations::conversations::Pair;
use crate::store::db::Db;
use crate::store::identity::revocations::Revoked;
use crate::store::identity::users::UserSummary;

/// Maximum number of users in the cache. The same limit applies to conversations.
const CAPACITY: usize = 100_000;

/// The cache.
pub struct Directory {
    people: Cache<String, (Mark, UserSummary)>,
    pairs: Cache<Pair, (Mark, ConversationId)>,
}

impl Default for Directory {
    fn default() -> Self {
        Self { people: Cache::new(CAPACITY), pairs: Cache::new(CAPACITY) }
    }
}

/// The entries that a batch needs.
#[derive(Debug, Default)]
pub struct DirectoryEntries {
    /// The last revocation that this server had read when the entries were looked up.
    pub mark: Mark,
    /// Users by folded name.
    pub people: HashMap<String, UserSummary>,
    /// The direct conversations that exist, by their pairs of users.
    pub pairs: HashMap<Pair, ConversationId>,
    /// Whether something was revoked since then. If so, the batch reads the users from the database again.
    pub recheck_users: AtomicBool,
}

impl Directory {
    /// Looks up the users and direct conversations that drafts name, in the cache and then in the database. A user who
    /// is missing from the result may have been created after the look-up.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn look_up(&self, db: &Db, revocations: &Revocations, drafts: &[Draft]) -> Result<DirectoryEntries> {
        let mark = revocations.current_mark(db).await?;
        let mut known = DirectoryEntries { mark, ..DirectoryEntries::default() };
        let mut missing = HashSet::new();
        for key in drafts.iter().flat_map(draft_people::keys) {
            if known.people.contains_key(key) || missing.contains(key) {
                continue;
            }
            match self.people.get(key) {
                Some((mark, person)) if revocations.holds(mark, Revoked::User(person.id)) => {
                    known.people.insert(key.to_owned(), person);
                }
                _ => {
                    missing.insert(key.to_owned());
                }
            }
        }
        if !missing.is_empty() {
            let missing: Vec<String> = missing.into_iter().collect();
            for person in read_people(db, missing).await? {
                self.people.insert(person.user_name_key.clone(), (mark, person.clone()));
                known.people.insert(person.user_name_key.clone(), person);
            }
        }
        let mut missing = HashSet::new();
        for pair in drafts.iter().filter_map(|draft| pair(draft, &known.people)) {
            match self.pairs.get(&pair) {
                Some((mark, id)) if revocations.holds(mark, Revoked::User(pair.lower)) => {
                    known.pairs.insert(pair, id);
                }
                _ => {
                    missing.insert(pair);
                }
            }
        }
        if !missing.is_empty() {
            for (pair, id) in read_pairs(db, missing.into_iter().collect()).await? {
                self.pairs.insert(pair, (mark, id));
                known.pairs.insert(pair, id);
            }
        }
        Ok(known)
    }
}

fn pair(draft: &Draft, people: &HashMap<String, UserSummary>) -> Option<Pair> {
    let mut ids = draft_people::keys(draft).map(|key| people.get(key).map(|person| person.id));
    Some(Pair::new(ids.next()??, ids.next()??))
}

async fn read_people(db: &Db, keys: Vec<String>) -> Result<Vec<UserSummary>> {
    db.read(keys, |conn, keys| {
        Box::pin(async move {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            store::identity::users::summaries_by_keys(conn, &keys).await
        })
    })
    .await
}

async fn read_pairs(db: &Db, pairs: Vec<Pair>) -> Result<Vec<(Pair, ConversationId)>> {
    db.read(pairs, |conn, pairs| {
        Box::pin(async move { store::conversations::conversations::direct(conn, pairs).await })
    })
    .await
}
