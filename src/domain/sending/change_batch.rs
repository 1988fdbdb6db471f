//! A batch of changes (reactions and receipts), checked and written together.
//!
//! Invariants:
//! - Each change is checked against the state that the earlier changes of the batch produce. So a batch has the same
//!   result as its changes one after another. A change that is not allowed fails alone.
//! - Locks are taken in the same order as everywhere else: users (by id), custom emoji (by id), conversations (by id), the
//!   counter of the event log. So there are no deadlocks.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, EmojiId, UserId};
use crate::base::request_id::RequestId;
use crate::base::time::Timestamp;
use crate::domain::access::membership::{RECEIPTS_MEMBER_LIMIT, conversation_not_found};
use crate::domain::messages::emoji::unknown_emoji;
use crate::domain::messages::message_reads::{message_deleted, message_not_found};
use crate::domain::messages::tallies;
use crate::domain::messages::watermarks::{self, ReadState, Report, Standing, Watermarks};
use crate::store;
use crate::store::batches::changes::{Found, Member, Outcome, Place, Spot, Step};
use crate::store::db::Conn;
use crate::store::events::events::{Kind, NewEvent};
use crate::store::files::custom_emoji;
use crate::store::messages::reactions::Tally;
use crate::store::messages::unread::Span;

/// A reaction or a receipt that is to be written to the database.
#[derive(Clone, Debug)]
pub struct Change {
    /// The user whose reaction or receipt it is.
    pub person: UserId,
    /// The conversation.
    pub conversation: ConversationId,
    /// The kind of change, with its details.
    pub kind: ChangeKind,
    /// The time of the change.
    pub now: Timestamp,
    /// The request that caused the change.
    pub request_id: Option<RequestId>,
}

/// The kinds of change.
#[derive(Clone, Debug)]
pub enum ChangeKind {
    /// Adds a reaction with this emoji to the message with this seq. A custom emoji has the form `custom:ID`.
    React(i64, Arc<str>),
    /// Removes that reaction.
    Unreact(i64, Arc<str>),
    /// Reports how far the user has received or read messages.
    Report(Report),
}

/// The answer to a change.
#[derive(Clone, Debug)]
pub enum ChangeAnswer {
    /// The count of this emoji under the message, and whether the reaction is new.
    Reacted(Tally, bool),
    /// The reaction was removed.
    Unreacted,
    /// The watermarks of the user, and the number of unread messages and mentions.
    Reported(Standing),
}

impl Change {
    fn spot(&self) -> Option<Spot<'_>> {
        let (ChangeKind::React(seq, emoji) | ChangeKind::Unreact(seq, emoji)) = &self.kind else { return None };
        Some(Spot { conversation: self.conversation, seq: *seq, user: self.person, emoji })
    }

    /// The custom emoji with which this change adds a reaction.
    fn added_custom_emoji(&self) -> Option<EmojiId> {
        let ChangeKind::React(_, emoji) = &self.kind else { return None };
        custom_emoji::id_of(emoji)
    }

    fn event(&self, kind: Kind, at: Timestamp) -> NewEvent<'_> {
        let event = NewEvent::of_conversation(kind, self.conversation, self.person, at);
        self.spot().map_or(event, |spot| NewEvent { detail: Some(spot.emoji), ..event.message(spot.seq) })
    }
}

/// Checks the changes and writes those that are allowed. Returns one answer for each change, in their order.
///
/// # Errors
/// Only errors that affect the whole batch. Then nothing was written.
pub async fn change_all(conn: &mut Conn, changes: &[Change]) -> Result<Vec<Result<ChangeAnswer>>> {
    let mut state = BatchState::read(conn, changes).await?;
    let mut answers: Vec<Result<ChangeAnswer>> = changes.iter().map(|change| state.apply(change)).collect();
    count_unread(conn, &state.spans, &mut answers).await?;
    let outcome = state.outcome();
    if !outcome.is_empty() {
        store::batches::changes::write(conn, &outcome).await?;
    }
    Ok(answers)
}

/// Sets in each answer to a receipt how many messages are unread, and how many of them mention the user. `spans` has one
/// entry for each receipt that was accepted.
async fn count_unread(conn: &mut Conn, spans: &[Span], answers: &mut [Result<ChangeAnswer>]) -> Result<()> {
    let counts = store::messages::unread::counts(conn, spans).await?;
    let standings = answers.iter_mut().filter_map(|answer| match answer {
        Ok(ChangeAnswer::Reported(standing)) => Some(standing),
        _ => None,
    });
    for (standing, counts) in standings.zip(counts) {
        standing.unread_count = counts.unread;
        standing.mention_count = counts.mentions;
    }
    Ok(())
}

/// A message with its counts of reactions.
struct MessageState {
    deleted: bool,
    tallies: Vec<Tally>,
    changed: bool,
}

/// Whether a user's reaction existed before the batch, and when the present one was added; `now` is `None` if there is
/// none.
#[derive(Clone, Copy)]
struct ReactionState {
    before: bool,
    now: Option<Timestamp>,
}

/// The rows that the changes of the batch concern. They start as they were read from the database, and each change
/// updates them.
struct BatchState<'a> {
    /// Users who exist. They are locked, so they cannot be erased before the transaction ends.
    people: BTreeSet<i64>,
    /// Custom emoji that are not deleted. They are locked too.
    custom_emoji: Vec<EmojiId>,
    places: HashMap<ConversationId, Place>,
    members: HashMap<(ConversationId, UserId), Member>,
    messages: HashMap<(ConversationId, i64), MessageState>,
    spots: HashMap<Spot<'a>, ReactionState>,
    advanced: BTreeSet<(ConversationId, UserId)>,
    steps: Vec<Step>,
    /// What is unread after each receipt.
    spans: Vec<Span>,
    changed: BTreeSet<ConversationId>,
    events: Vec<NewEvent<'a>>,
}

impl<'a> BatchState<'a> {
    async fn read(conn: &mut Conn, changes: &'a [Change]) -> Result<Self> {
        let at: BTreeSet<Spot<'a>> = changes.iter().filter_map(Change::spot).collect();
        let at: Vec<Spot<'a>> = at.into_iter().collect();
        let reacting: BTreeSet<i64> = at.iter().map(|spot| spot.user.0).collect();
        let people = match reacting.is_empty() {
            true => reacting,
            false => store::identity::users::lock_shared(conn, &Vec::from_iter(reacting)).await?,
        };
        let custom: BTreeSet<i64> = changes.iter().filter_map(Change::added_custom_emoji).map(|id| id.0).collect();
        let custom_emoji = match custom.is_empty() {
            true => Vec::new(),
            false => custom_emoji::lock_shared(conn, &Vec::from_iter(custom)).await?,
        };
        let ids: BTreeSet<i64> = changes.iter().map(|change| change.conversation.0).collect();
        let places = store::batches::changes::lock(conn, &Vec::from_iter(ids)).await?;
        let pairs: BTreeSet<_> = changes.iter().map(|change| (change.conversation, change.person)).collect();
        let members = store::batches::changes::members(conn, &Vec::from_iter(pairs)).await?;
        let found = if at.is_empty() { Vec::new() } else { store::batches::changes::spots(conn, &at).await? };
        let mut messages = HashMap::new();
        let mut spots = HashMap::with_capacity(at.len());
        for (spot, found) in at.into_iter().zip(found) {
            let Some(Found { deleted, tallies, there }) = found else { continue };
            // The time of a reaction that existed before is not needed, because the reaction is not written again.
            spots.insert(spot, ReactionState { before: there, now: there.then_some(Timestamp::from_micros(0)) });
            messages.entry((spot.conversation, spot.seq)).or_insert(MessageState { deleted, tallies, changed: false });
        }
        let (advanced, steps, spans, changed, events) = Default::default();
        Ok(Self { people, custom_emoji, places, members, messages, spots, advanced, steps, spans, changed, events })
    }

    fn apply(&mut self, change: &'a Change) -> Result<ChangeAnswer> {
        match &change.kind {
            ChangeKind::React(..) => self.react(change),
            ChangeKind::Unreact(..) => self.unreact(change),
            ChangeKind::Report(report) => self.report(change, report).map(ChangeAnswer::Reported),
        }
    }

    /// The time of a change. It is not before the messages that it can be about, even if the clock was set back.
    fn time_of(&self, change: &Change) -> Timestamp {
        self.places.get(&change.conversation).map_or(change.now, |place| change.now.max(place.last_sent_at))
    }

    /// The conversation of a change, and the `seq` of the first message that the member may see.
    fn conversation_of(&self, change: &Change) -> Option<(Place, i64)> {
        let place = *self.places.get(&change.conversation)?;
        let member = self.members.get(&(change.conversation, change.person))?;
        Some((place, place.history.first_seq(member.joined_seq)))
    }

    /// The message and the reaction that a change concerns.
    fn message_of(&mut self, change: &'a Change) -> Result<(Spot<'a>, &mut MessageState, &mut ReactionState)> {
        let spot = change.spot().ok_or_else(message_not_found)?;
        if !self.people.contains(&change.person.0) {
            return Err(Error::Unauthenticated);
        }
        let (place, first_seq) = self.conversation_of(change).ok_or_else(message_not_found)?;
        if !(first_seq..=place.last_seq).contains(&spot.seq) {
            return Err(message_not_found());
        }
        let message = self.messages.get_mut(&(spot.conversation, spot.seq)).ok_or_else(message_not_found)?;
        match self.spots.entry(spot) {
            Entry::Occupied(reaction) => Ok((spot, message, reaction.into_mut())),
            Entry::Vacant(_) => Err(message_not_found()),
        }
    }

    fn react(&mut self, change: &'a Change) -> Result<ChangeAnswer> {
        let is_usable = change.added_custom_emoji().is_none_or(|id| self.custom_emoji.contains(&id));
        let at = self.time_of(change);
        let (spot, message, reaction) = self.message_of(change)?;
        if message.deleted {
            return Err(message_deleted());
        }
        if !is_usable {
            return Err(unknown_emoji());
        }
        let new = reaction.now.is_none();
        let tally = if new {
            let tally = tallies::add_one(&mut message.tallies, spot.emoji)?;
            message.changed = true;
            reaction.now = Some(at);
            tally
        } else {
            tallies::tally_of(&message.tallies, spot.emoji)
        };
        if new {
            self.add_event(change, Kind::ReactionAdded);
        }
        Ok(ChangeAnswer::Reacted(tally, new))
    }

    fn unreact(&mut self, change: &'a Change) -> Result<ChangeAnswer> {
        let (spot, message, reaction) = self.message_of(change)?;
        if reaction.now.take().is_none() {
            let detail = "You have not added this emoji to the message".into();
            return Err(Error::NotFound { code: "reaction_not_found", detail });
        }
        tallies::remove_one(&mut message.tallies, spot.emoji);
        message.changed = true;
        self.add_event(change, Kind::ReactionRemoved);
        Ok(ChangeAnswer::Unreacted)
    }

    fn add_event(&mut self, change: &'a Change, kind: Kind) {
        self.changed.insert(change.conversation);
        self.events.push(change.event(kind, self.time_of(change)));
    }

    /// Applies a receipt. Unread messages and mentions are counted afterwards.
    fn report(&mut self, change: &'a Change, report: &Report) -> Result<Standing> {
        let (place, first_seq) = self.conversation_of(change).ok_or_else(conversation_not_found)?;
        watermarks::assert_within(report, 1, place.last_seq, first_seq)?;
        let &Change { person: user, conversation, now, .. } = change;
        let member = self.members.get_mut(&(conversation, user)).ok_or_else(conversation_not_found)?;
        let hidden_below_seq = member.hidden_below_seq;
        let (after, steps) = watermarks::step(member.watermarks, report, place.last_seq);
        if after != member.watermarks {
            member.watermarks = after;
            self.advanced.insert((conversation, user));
        }
        if !steps.is_empty() {
            // A message must not appear as read before it was sent.
            let at = now.max(place.last_sent_at);
            self.steps.extend(steps.into_iter().map(|(kind, seq)| Step { conversation, user, kind, seq, at }));
            if place.member_count <= RECEIPTS_MEMBER_LIMIT {
                self.changed.insert(conversation);
            }
            self.events.push(change.event(Kind::ReceiptUpdated, at));
        }
        let Watermarks { read_seq, unread_from, .. } = after;
        let state = ReadState { read_seq, unread_from, hidden_below_seq, first_seq };
        self.spans.push(state.span(conversation, user, place.last_seq));
        Ok(Standing { watermarks: after, unread_count: 0, mention_count: 0 })
    }

    /// The rows to write. A reaction that is removed and added again within the batch keeps its row.
    fn outcome(self) -> Outcome<'a> {
        let Self { members, messages, spots, advanced, steps, changed, events, .. } = self;
        let mut outcome = Outcome { steps, changed: changed.into_iter().collect(), events, ..Outcome::default() };
        for (spot, ReactionState { before, now }) in spots {
            match now {
                Some(at) if !before => outcome.added.push((spot, at)),
                None if before => outcome.removed.push(spot),
                Some(_) | None => {}
            }
        }
        let changed = messages.into_iter().filter(|(_, message)| message.changed);
        outcome.tallies = changed.map(|((conversation, seq), message)| (conversation, seq, message.tallies)).collect();
        let advanced = advanced.into_iter().filter_map(|(conversation, user)| {
            Some((conversation, user, members.get(&(conversation, user))?.watermarks))
        });
        outcome.watermarks = advanced.collect();
        outcome
    }
}
