//! The rule that decides who may see an event exists twice: in Rust for online readers, and in SQL for readers that continue
//! from a cursor. On generated event logs both must give the same result, and so must the Rust rule when it is applied to one
//! user alone.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use posthaste::app::{App, Settings};
use posthaste::base::ids::{ConversationId, Rng, UserId};
use posthaste::base::time::Clock;
use posthaste::domain::events::audience::{Audience, for_each_viewer, sees};
use posthaste::domain::events::events;
use posthaste::http::state::RENDERER;
use posthaste::store;
use posthaste::store::events::events::Kind;

use crate::both;
use crate::support::{Place, many, random, seeded};

const PEOPLE: i64 = 6;
const CONVERSATIONS: i64 = 3;
const EVENTS: i64 = 120;
const TIMES: [&str; 3] = ["2026-01-01 00:00:00+00", "2026-01-02 00:00:00+00", "2026-01-03 00:00:00+00"];
/// How many times each result occurred. The counts show whether the generator creates only invisible events.
#[derive(Debug, Default)]
struct Counts {
    seen: usize,
    unseen: usize,
    own_removals: usize,
    own_ends: usize,
}

/// Generates rows, also combinations that no server would write. The two rules must agree on these as well.
fn world(rng: &Rng, place: &Place) -> String {
    let number = |below: i64| random(rng, below as u64) as i64;
    let maybe = |number: i64, one_in: i64| {
        if random(rng, one_in as u64) == 0 { "NULL".to_owned() } else { number.to_string() }
    };
    let micros = |index: i64| match place.kind {
        crate::support::place::Kind::Postgres => format!("'{}'", TIMES[index as usize]),
        crate::support::place::Kind::Sqlite => (1_767_225_600_000_000 + index * 86_400_000_000).to_string(),
    };
    let mut sql = String::from(
        "DELETE FROM messaging.events; DELETE FROM messaging.members; DELETE FROM messaging.former_members;
         DELETE FROM messaging.conversations;",
    );
    for conversation in 1..=CONVERSATIONS {
        let history = ["all", "since_joined"][number(2) as usize];
        let at = micros(0);
        write!(
            sql,
            "INSERT INTO messaging.conversations (id, kind, created_at, created_by, last_seq, last_sent_at,
                                                  last_message_id, history)
             VALUES ({conversation}, 'group', {at}, 1, 9, {at}, 9, '{history}');"
        )
        .unwrap();
        for person in 1..=PEOPLE {
            if number(3) == 0 {
                let joined_seq = number(6);
                write!(
                    sql,
                    "INSERT INTO messaging.members (conversation_id, user_id, joined_at, joined_seq)
                     VALUES ({conversation}, {person}, {at}, {joined_seq});"
                )
                .unwrap();
            }
            if number(2) == 0 {
                let left_at = micros(number(3));
                write!(
                    sql,
                    "INSERT INTO messaging.former_members (user_id, conversation_id, left_at)
                     VALUES ({person}, {conversation}, {left_at});"
                )
                .unwrap();
            }
        }
    }
    for position in 1..=EVENTS {
        // Removals and ends of groups have rules of their own, so they are drawn more often.
        let kind = match number(4) {
            0 => Kind::MemberRemoved,
            1 => Kind::ConversationDeleted,
            _ => Kind::ALL[number(Kind::ALL.len() as i64) as usize],
        };
        let kind = kind.as_str();
        let (conversation, seq) = (maybe(1 + number(CONVERSATIONS), 4), maybe(1 + number(8), 2));
        let (actor, subject, at) = (1 + number(PEOPLE), maybe(1 + number(PEOPLE), 3), micros(number(3)));
        write!(
            sql,
            "INSERT INTO messaging.events (position, type, conversation_id, seq, actor_id, subject_id, at)
             VALUES ({position}, '{kind}', {conversation}, {seq}, {actor}, {subject}, {at});"
        )
        .unwrap();
    }
    write!(sql, "UPDATE messaging.event_log SET last_position = {EVENTS}, trimmed_position = 0;").unwrap();
    sql
}

/// Compares the three results for every user and event of one generated database.
async fn compare(app: &App, rng: &Rng, counts: &mut Counts) {
    let (_, stretch) = events::tail(app, Some(0)).await.unwrap();
    assert_eq!(stretch.events.len() as i64, EVENTS);
    let mut members: HashMap<ConversationId, Vec<(UserId, i64)>> = HashMap::new();
    for (conversation, person, behind) in events::audiences(app, (1..=CONVERSATIONS).collect()).await.unwrap() {
        members.entry(conversation).or_default().push((person, behind));
    }
    let audiences: HashMap<ConversationId, Audience> =
        members.into_iter().map(|(id, members)| (id, Audience::new(members))).collect();
    let everybody: Vec<UserId> = (1..=PEOPLE).map(UserId).collect();
    let mut by_sql: HashMap<UserId, BTreeSet<i64>> = HashMap::new();
    for person in &everybody {
        let read = app.db.read(*person, |conn, person| {
            Box::pin(store::events::events::visible_between(conn, *person, 0, EVENTS, EVENTS + 1))
        });
        let positions = read.await.unwrap().events.into_iter().map(|event| event.position).collect();
        by_sql.insert(*person, positions);
    }
    let nobody = Audience::default();
    for event in &stretch.events {
        let audience = event.conversation_id.and_then(|id| audiences.get(&id)).unwrap_or(&nobody);
        let last_members = match (event.kind, event.conversation_id) {
            (Kind::ConversationDeleted, Some(id)) => events::last_members(app, id, event.at).await.unwrap(),
            _ => BTreeSet::new(),
        };
        // All or some users are online, so a group may have more members than there are users online.
        let online: HashMap<UserId, UserId> =
            everybody.iter().filter(|_| random(rng, 3) > 0).map(|person| (*person, *person)).collect();
        let mut delivered = Vec::new();
        for_each_viewer(event, audience, &last_members, &online, |person| delivered.push(*person));
        delivered.sort_unstable();
        let expected: Vec<UserId> = everybody
            .iter()
            .copied()
            .filter(|person| online.contains_key(person) && by_sql[person].contains(&event.position))
            .collect();
        assert_eq!(delivered, expected, "{event:?} of {audience:?}, left by {last_members:?}");
        for person in &everybody {
            let behind = audience.behind(*person);
            let seen = sees(event, *person, behind, &last_members);
            assert_eq!(seen, by_sql[person].contains(&event.position), "{person:?}: {event:?}");
            counts.seen += usize::from(seen);
            counts.unseen += usize::from(!seen);
            let as_other = seen && event.conversation_id.is_some() && behind.is_none();
            counts.own_removals += usize::from(as_other && event.kind == Kind::MemberRemoved);
            counts.own_ends += usize::from(as_other && event.kind == Kind::ConversationDeleted);
        }
    }
}

both!(sql_and_rust_agree_who_sees_an_event, async |place| {
    let (app, _) =
        App::open(&place.location(), Settings::default(), Clock::System, Rng::System, RENDERER).await.unwrap();
    let (_, rng) = seeded();
    let mut counts = Counts::default();
    for _ in 0..many(10, 200) {
        place.sql(&world(&rng, place)).await;
        compare(&app, &rng, &mut counts).await;
    }
    let Counts { seen, unseen, own_removals, own_ends } = counts;
    assert!(seen > 0 && unseen > 0 && own_removals > 0 && own_ends > 0, "{counts:?}");
    app.db.close().await;
});
