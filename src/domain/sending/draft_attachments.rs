//! The attachments that drafts name.
//!
//! Invariant: a message gets an attachment only if its sender may see the attachment: as the uploader, or because a message that
//! the sender may see holds it. The attachments stay locked until the transaction ends, so that none is deleted meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::drafts::MAX_ATTACHMENTS;
use crate::base::error::{Error, Result};
use crate::base::ids::{AttachmentId, UserId};
use crate::store;
use crate::store::db::Conn;
use crate::store::files::attachments::{AttachmentList, Description, Held};
use crate::store::messages::messages::Message;

/// Locked attachments by id, and who may see them.
#[derive(Default)]
pub struct LockedAttachments {
    descriptions: HashMap<i64, Description>,
    visible: BTreeSet<(UserId, i64)>,
}

impl LockedAttachments {
    /// Locks all attachments that the senders name. `wanted` has the ids of each draft with its sender.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn lock<'a>(conn: &mut Conn, wanted: impl Iterator<Item = (UserId, &'a [i64])>) -> Result<Self> {
        let mut by_sender: BTreeMap<UserId, BTreeSet<i64>> = BTreeMap::new();
        for (sender, ids) in wanted.filter(|(_, ids)| !ids.is_empty()) {
            by_sender.entry(sender).or_default().extend(ids);
        }
        if by_sender.is_empty() {
            return Ok(Self::default());
        }
        let all: BTreeSet<i64> = by_sender.values().flatten().copied().collect();
        let all: Vec<i64> = all.into_iter().collect();
        let locked = store::files::attachments::lock(conn, &all).await?;
        let found = store::files::attachments::by_ids(conn, &locked).await?;
        let mut visible = BTreeSet::new();
        for (sender, ids) in by_sender {
            let ids: Vec<i64> = ids.into_iter().collect();
            let seen = store::files::attachments::visible_among(conn, sender, &ids).await?;
            visible.extend(seen.into_iter().map(|id| (sender, id)));
        }
        let descriptions = found.into_iter().map(|found| (found.description.id, found.description)).collect();
        Ok(Self { descriptions, visible })
    }

    /// The attachments of a message, in the order of `ids`.
    ///
    /// # Errors
    /// 422 `attachment_not_found` if one of them does not exist or the sender may not see it.
    pub fn list(&self, sender: UserId, ids: &[i64]) -> Result<AttachmentList> {
        let described = |id: &i64| match self.descriptions.get(id) {
            Some(description) if self.visible.contains(&(sender, *id)) => Ok(description.clone()),
            _ => Err(Error::invalid("attachment_ids", "attachment_not_found", "no attachment has this id")),
        };
        debug_assert!(ids.len() <= MAX_ATTACHMENTS, "the draft was checked");
        AttachmentList::new(ids.iter().map(described).collect::<Result<_>>()?)
    }
}

/// Locks and loads the attachments of drafts. Each draft is given as its index, its sender and the ids. The result has an entry for
/// each draft with attachments.
///
/// # Errors
/// Errors of the database. The error of one draft is in its entry.
pub async fn lists<'a>(
    conn: &mut Conn,
    drafts: impl Iterator<Item = (usize, UserId, &'a [i64])> + Clone,
) -> Result<HashMap<usize, Result<AttachmentList>>> {
    let locked = LockedAttachments::lock(conn, drafts.clone().map(|(_, sender, ids)| (sender, ids))).await?;
    let with_attachments = drafts.filter(|(.., ids)| !ids.is_empty());
    Ok(with_attachments.map(|(index, sender, ids)| (index, locked.list(sender, ids))).collect())
}

/// The rows that say which attachments a message holds.
pub fn rows(message: &Message) -> impl Iterator<Item = Held> + '_ {
    message.attachments.list().iter().map(|attachment| Held {
        conversation: message.conversation_id,
        seq: message.seq,
        attachment: AttachmentId(attachment.id),
    })
}
