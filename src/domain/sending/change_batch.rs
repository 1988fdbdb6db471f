//! A batch of small changes of conversations, reactions and receipts, decided and written together.
//!
//! Invariants:
//! - Each is decided by what those before it in the batch left behind, so a batch does what its changes would do one after
//!   the other, and one that may not be fails alone.
//! - Locks are taken as everywhere: people (by id), conversations (by id), the event log's counter. So nothing deadlocks.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use crate::base::error::{Error, Result};
use crate::base::ids::{ConversationId, UserId};
use crate::base::request_id::RequestId;
use crate::base::time::Timestamp;
use crate::domain::access::membership::{RECEIPTS_MEMBER_LIMIT, conversation_not_found};
use crate::domain::messages::message_reads::{message_deleted, message_not_found};
use crate::domain::messages::tallies;
use crate::domain::messages::watermarks::{self, Report, Standing};
use crate::store;
use crate::store::batches::changes::{Found, Member, Outcome, Place, Spot, Step};
use crate::store::db::Conn;
use crate::store::events::events::{Kind, NewEvent};
use crate::store::messages::reactions::Tally;

/// A small change of a conversation.
#[derive(Clone, Debug)]
pub struct Change {
    /// Who.
    pub person: UserId,
    /// Where.
    pub conversation: ConversationId,
    /// What.
    pub act: Act,
    /// When.
    pub now: Timestamp,
    /// The request that makes it.
    pub request_id: Option<RequestId>,
}

/// What somebody does.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// They put an emoji under the message of this seq.
    React(i64, &'static str),
    /// They take it away.
    Unreact(i64, &'static str),
    /// They say how far they are.
    Report(Report),
}

/// What became of a change.
#[derive(Clone, Debug)]
pub enum Changed {
    /// How often the emoji is there, and whether it is new.
    Reacted(Tally, bool),
    /// The emoji is gone.
    Unreacted,
    /// How far they are.
    Reported(Standing),
}

impl Change {
    fn spot(&self) -> Option<Spot> {
        let (Act::React(seq, emoji) | Act::Unreact(seq, emoji)) = self.act else { return None };
        Some(Spot { conversation: self.conversation, seq, user: self.person, emoji })
    }

    fn event(&self, kind: Kind, at: Timestamp) -> NewEvent<'static> {
        let event = NewEvent::of_conversation(kind, self.conversation, self.person, at);
        self.spot().map_or(event, |spot| NewEvent { detail: Some(spot.emoji), ..event.message(spot.seq) })
    }
}

/// Makes every change that may be made; one answer a change, in their order.
///
/// # Errors
/// Only what fails all of them; then nothing was written.
pub async fn change_all(conn: &mut Conn, changes: &[Change]) -> Result<Vec<Result<Changed>>> {
    let mut state = State::read(conn, changes).await?;
    let mut answers: Vec<Result<Changed>> = changes.iter().map(|change| state.decide(change)).collect();
    count_mentions(conn, changes, &mut answers).await?;
    let outcome = state.outcome();
    if !outcome.is_empty() {
        store::batches::changes::write(conn, &outcome).await?;
    }
    Ok(answers)
}

/// How often those who reported are mentioned in what is left for them.
async fn count_mentions(conn: &mut Conn, changes: &[Change], answers: &mut [Result<Changed>]) -> Result<()> {
    let mut standings = Vec::new();
    let mut behind = Vec::new();
    for (change, answer) in changes.iter().zip(answers) {
        if let Ok(Changed::Reported(standing)) = answer {
            behind.push((change.conversation, change.person, standing.watermarks.read_seq));
            standings.push(standing);
        }
    }
    if behind.is_empty() {
        return Ok(());
    }
    let counts = store::batches::changes::mention_counts(conn, &behind).await?;
    for (standing, count) in standings.into_iter().zip(counts) {
        standing.mention_count = count;
    }
    Ok(())
}

/// What is under a message.
struct Under {
    deleted: bool,
    tallies: Vec<Tally>,
    changed: bool,
}

/// Whether an emoji of somebody was there before the batch, and since when it is there now.
#[derive(Clone, Copy)]
struct Mark {
    before: bool,
    now: Option<Timestamp>,
}

/// What a batch is about, as it was found and as the changes decided so far leave it.
struct State {
    /// Those who are not erased before the transaction ends.
    people: BTreeSet<i64>,
    places: HashMap<ConversationId, Place>,
    members: HashMap<(ConversationId, UserId), Member>,
    messages: HashMap<(ConversationId, i64), Under>,
    spots: HashMap<Spot, Mark>,
    moved: BTreeSet<(ConversationId, UserId)>,
    steps: Vec<Step>,
    changed: BTreeSet<ConversationId>,
    events: Vec<NewEvent<'static>>,
}

impl State {
    async fn read(conn: &mut Conn, changes: &[Change]) -> Result<Self> {
        let at: BTreeSet<Spot> = changes.iter().filter_map(Change::spot).collect();
        let at: Vec<Spot> = at.into_iter().collect();
        let reacting: BTreeSet<i64> = at.iter().map(|spot| spot.user.0).collect();
        let people = match reacting.is_empty() {
            true => reacting,
            false => store::identity::users::lock_shared(conn, &Vec::from_iter(reacting)).await?,
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
            // The time of one that was there before is not needed: it stays as it is.
            spots.insert(spot, Mark { before: there, now: there.then_some(Timestamp::from_micros(0)) });
            messages.entry((spot.conversation, spot.seq)).or_insert(Under { deleted, tallies, changed: false });
        }
        let (moved, steps, changed, events) = Default::default();
        Ok(Self { people, places, members, messages, spots, moved, steps, changed, events })
    }

    fn decide(&mut self, change: &Change) -> Result<Changed> {
        match change.act {
            Act::React(..) => self.react(change),
            Act::Unreact(..) => self.unreact(change),
            Act::Report(report) => self.report(change, &report).map(Changed::Reported),
        }
    }

    /// The conversation of a member, and the first message that they see.
    fn place_of(&self, change: &Change) -> Option<(Place, i64)> {
        let place = *self.places.get(&change.conversation)?;
        let member = self.members.get(&(change.conversation, change.person))?;
        Some((place, place.history.first_seq(member.joined_seq)))
    }

    /// The message that an emoji is about, and whether the emoji is there.
    fn message_of(&mut self, change: &Change) -> Result<(Spot, &mut Under, &mut Mark)> {
        let spot = change.spot().ok_or_else(message_not_found)?;
        if !self.people.contains(&change.person.0) {
            return Err(Error::Unauthenticated);
        }
        let (place, first_seq) = self.place_of(change).ok_or_else(message_not_found)?;
        if !(first_seq..=place.last_seq).contains(&spot.seq) {
            return Err(message_not_found());
        }
        let under = self.messages.get_mut(&(spot.conversation, spot.seq)).ok_or_else(message_not_found)?;
        match self.spots.entry(spot) {
            Entry::Occupied(mark) => Ok((spot, under, mark.into_mut())),
            Entry::Vacant(_) => Err(message_not_found()),
        }
    }

    fn react(&mut self, change: &Change) -> Result<Changed> {
        let (spot, under, mark) = self.message_of(change)?;
        if under.deleted {
            return Err(message_deleted());
        }
        let new = mark.now.is_none();
        let tally = if new {
            let tally = tallies::with(&mut under.tallies, spot.emoji)?;
            under.changed = true;
            mark.now = Some(change.now);
            tally
        } else {
            tallies::tally_of(&under.tallies, spot.emoji)
        };
        if new {
            self.note(change, Kind::ReactionAdded);
        }
        Ok(Changed::Reacted(tally, new))
    }

    fn unreact(&mut self, change: &Change) -> Result<Changed> {
        let (spot, under, mark) = self.message_of(change)?;
        if mark.now.take().is_none() {
            let detail = "the caller has not put this emoji under this message".into();
            return Err(Error::NotFound { code: "reaction_not_found", detail });
        }
        tallies::without(&mut under.tallies, spot.emoji);
        under.changed = true;
        self.note(change, Kind::ReactionRemoved);
        Ok(Changed::Unreacted)
    }

    fn note(&mut self, change: &Change, kind: Kind) {
        self.changed.insert(change.conversation);
        self.events.push(change.event(kind, change.now));
    }

    /// Takes a report; the mentions are counted afterwards.
    fn report(&mut self, change: &Change, report: &Report) -> Result<Standing> {
        let (place, first_seq) = self.place_of(change).ok_or_else(conversation_not_found)?;
        watermarks::assert_within(report, 1, place.last_seq, first_seq)?;
        let Change { person: user, conversation, now, .. } = *change;
        let member = self.members.get_mut(&(conversation, user)).ok_or_else(conversation_not_found)?;
        let (after, steps) = watermarks::step(member.watermarks, report, place.last_seq);
        if after != member.watermarks {
            member.watermarks = after;
            self.moved.insert((conversation, user));
        }
        if !steps.is_empty() {
            // A clock that was set back must not let anything be read before it was sent.
            let at = now.max(place.last_sent_at);
            self.steps.extend(steps.into_iter().map(|(kind, seq)| Step { conversation, user, kind, seq, at }));
            if place.member_count <= RECEIPTS_MEMBER_LIMIT {
                self.changed.insert(conversation);
            }
            self.events.push(change.event(Kind::ReceiptUpdated, at));
        }
        let unread_count = watermarks::unread_count(place.last_seq, after.read_seq, after.unread_from);
        Ok(Standing { watermarks: after, unread_count, mention_count: 0 })
    }

    /// What is to be written. An emoji that is taken away and put back stands as it stood before.
    fn outcome(self) -> Outcome {
        let Self { members, messages, spots, moved, steps, changed, events, .. } = self;
        let mut outcome = Outcome { steps, changed: changed.into_iter().collect(), events, ..Outcome::default() };
        for (spot, Mark { before, now }) in spots {
            match now {
                Some(at) if !before => outcome.added.push((spot, at)),
                None if before => outcome.removed.push(spot),
                Some(_) | None => {}
            }
        }
        let changed = messages.into_iter().filter(|(_, under)| under.changed);
        outcome.tallies = changed.map(|((conversation, seq), under)| (conversation, seq, under.tallies)).collect();
        let moved = moved.into_iter().filter_map(|(conversation, user)| {
            Some((conversation, user, members.get(&(conversation, user))?.watermarks))
        });
        outcome.watermarks = moved.collect();
        outcome
    }
}
