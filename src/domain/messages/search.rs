//! Full-text search for messages.
//!
//! Invariants:
//! - Only messages that the caller may see are searched. The query to the index names the caller's conversations. If a
//!   group hides earlier messages from the caller, the query begins at the first message that the caller may see.
//! - A query is read as words, phrases and prefixes of words. Everything else in it is ignored, so there are no syntax
//!   errors. A query is refused only for its length, its number of words, a prefix that is too short, or because it has
//!   no words.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::message_reads::complete_for;
use crate::app::App;
use crate::base::error::{Error, FieldError, Result};
use crate::base::ids::{ConversationId, MAX_ID};
use crate::base::terms::{Shape, Term, terms};
use crate::base::text::fold_ascii;
use crate::base::time::Timestamp;
use crate::domain::access::membership::membership;
use crate::domain::access::principal::Principal;
use crate::domain::access::viewer::Viewer;
use crate::domain::identity::names::Names;
use crate::domain::shared::pagination::{Limit, Page, begin};
use crate::store;
use crate::store::db::Conn;
use crate::store::messages::messages::{Message, Range};
use crate::store::messages::search::{self, ATTACHMENT_MARK, Bounds, Expression, Hit, LINK_MARK, Phrase};

/// Longest query, in characters.
pub const MAX_QUERY_CHARACTERS: usize = 500;
/// Maximum number of words in a query. A run of a script without spaces counts as one word.
pub const MAX_QUERY_WORDS: usize = 20;
/// Shortest prefix of a word, in characters.
pub const MIN_PREFIX_CHARACTERS: usize = 2;
/// Longest snippet, in characters, without the marks where it was cut.
pub const SNIPPET_CHARACTERS: usize = 160;
/// If the beginning of a snippet is cut off, the snippet shows at least this many characters before the first hit.
pub const SNIPPET_LEAD_CHARACTERS: usize = 40;
/// Maximum number of groups that one query to the index names.
const GROUPS_PER_QUERY: usize = 256;
/// How long new messages wait before PostgreSQL merges them into its index. Searches find them meanwhile, too. Each
/// merge writes every word once, however often the word occurs, so rare merges save work.
const SORTING_INTERVAL: Duration = Duration::from_secs(1);
/// The same interval while users search.
const SEARCHED_SORTING_INTERVAL: Duration = Duration::from_millis(200);
/// How long to wait after a merge that failed.
const SORTING_PAUSE: Duration = Duration::from_secs(5);
const LIST: &str = "search";
/// Marks where a snippet was cut.
const CUT: char = '…';

/// Whether the search index collects new entries in a list before it merges them. If so, [`keep_sorted`] must run.
pub fn has_pending_entries(app: &App) -> bool {
    search::has_pending_entries(&app.db)
}

/// Merges new entries into PostgreSQL's search index, as long as the server runs. This keeps the list of new entries
/// short. Every search reads that list, and a send that finds it full has to merge it.
pub async fn keep_sorted(app: Arc<App>) {
    if !search::has_pending_entries(&app.db) {
        return;
    }
    let mut commits = app.commits.listen();
    while commits.changed().await.is_ok() {
        let searched = async {
            app.searched.notified().await;
            tokio::time::sleep(SEARCHED_SORTING_INTERVAL).await;
        };
        drop(tokio::time::timeout(SORTING_INTERVAL, searched).await);
        commits.borrow_and_update();
        if let Err(error) = search::sort_in(&app.db).await {
            tracing::debug!(%error, "new messages could not be merged into the search index");
            tokio::time::sleep(SORTING_PAUSE).await;
        }
    }
}

/// A search, as the caller wrote it.
#[derive(Clone, Debug)]
pub struct SearchRequest {
    /// The text to search for.
    pub q: Option<String>,
    /// The user name of the sender.
    pub from: Option<String>,
    /// The conversation.
    pub conversation_id: Option<i64>,
    /// Messages sent before this time.
    pub before: Option<Timestamp>,
    /// Messages sent at or after this time.
    pub after: Option<Timestamp>,
    /// `attachment` or `link`.
    pub has: Option<String>,
    /// Entries on the page.
    pub limit: Limit,
    /// Where the page begins.
    pub cursor: Option<String>,
}

/// A message that matches.
#[derive(Clone, Debug)]
pub struct Found {
    /// The message.
    pub message: Message,
    /// The part of its text around the first hit.
    pub snippet: String,
    /// The hits in the snippet: start and end, in characters.
    pub ranges: Vec<[usize; 2]>,
}

/// A validated search.
struct Search {
    principal: Principal,
    phrases: Vec<Phrase>,
    from: Option<String>,
    conversation: Option<ConversationId>,
    since: Timestamp,
    until: Timestamp,
    mark: Option<&'static str>,
    limit: usize,
    before_id: i64,
}

/// Searches for messages. Returns them newest first, with the names of the users in them.
///
/// # Errors
/// 422 for a wrong or empty query, or an unknown `from`; 404 `conversation_not_found`; 403 `act_as_required` if `from`
/// is `me` and the caller acts as no user.
pub async fn messages(app: &App, principal: &Principal, question: SearchRequest) -> Result<(Page<Vec<Found>>, Names)> {
    let limit = question.limit;
    let search = check(principal, question)?;
    app.searched.notify_one();
    let (hits, entries, names) = app.db.read(search, |conn, search| Box::pin(run(conn, search))).await?;
    let Page { next, .. } = Page::new(LIST, hits, limit, |hit| [hit.id.0]);
    Ok((Page { entries, next }, names))
}

fn check(principal: &Principal, question: SearchRequest) -> Result<Search> {
    let mut errors = Vec::new();
    let phrases = phrases(question.q.as_deref()).unwrap_or_else(|error| {
        errors.push(error);
        Vec::new()
    });
    let mark = question.has.as_deref().and_then(|has| match has {
        "attachment" => Some(ATTACHMENT_MARK),
        "link" => Some(LINK_MARK),
        _ => {
            errors.push(FieldError::new("has", "wrong_value", "must be attachment or link"));
            None
        }
    });
    if question.conversation_id.is_some_and(|id| !(1..=MAX_ID).contains(&id)) {
        errors.push(FieldError::new("conversation_id", "out_of_range", "must be between 1 and 2^53 - 1"));
    }
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    let before_id = begin(LIST, question.cursor.as_deref(), i64::MAX)?;
    Ok(Search {
        phrases,
        from: question.from.as_deref().map(|name| principal.resolve(name).map(fold_ascii)).transpose()?,
        conversation: question.conversation_id.map(ConversationId),
        since: question.after.unwrap_or(Timestamp::MIN),
        until: question.before.unwrap_or(Timestamp::MAX),
        mark,
        limit: question.limit.get(),
        before_id,
        principal: principal.clone(),
    })
}

/// Parses a query. Quotes enclose phrases. A star after a word makes the word a prefix. Other characters separate
/// words. The words of a part without spaces form a phrase.
fn phrases(q: Option<&str>) -> Result<Vec<Phrase>, FieldError> {
    let wrong = |code, detail: String| FieldError::new("q", code, detail);
    let q = q.ok_or_else(|| wrong("required", "required".into()))?;
    if q.chars().count() > MAX_QUERY_CHARACTERS {
        return Err(wrong("too_long", format!("must have at most {MAX_QUERY_CHARACTERS} characters")));
    }
    let mut words = 0;
    let mut phrases: Vec<Phrase> = Vec::new();
    for (index, part) in q.split(['"', '“', '”', '„', '«', '»']).enumerate() {
        let quoted = index % 2 == 1;
        let pieces: Vec<&str> = if quoted { vec![part] } else { part.split_whitespace().collect() };
        for piece in pieces {
            let terms = terms(piece);
            words += terms.iter().filter(|term| term.shape != Shape::Pair).count();
            let Some(phrase) = phrase(&terms, !quoted && is_open(piece)) else { continue };
            if phrase.prefix && phrase.terms.last().is_some_and(|last| is_short(last, &terms)) {
                let detail = format!("a prefix needs at least {MIN_PREFIX_CHARACTERS} characters before *");
                return Err(wrong("prefix_too_short", detail));
            }
            if !phrases.contains(&phrase) {
                phrases.push(phrase);
            }
        }
    }
    if words > MAX_QUERY_WORDS {
        return Err(wrong("too_many_terms", format!("must have at most {MAX_QUERY_WORDS} words")));
    }
    if phrases.is_empty() {
        return Err(wrong("no_search_terms", "must contain at least one word".into()));
    }
    Ok(phrases)
}

/// Whether the piece ends with a star after a word.
fn is_open(piece: &str) -> bool {
    let piece = piece.trim_end_matches(|character: char| character != '*' && !character.is_alphanumeric());
    let stem = piece.trim_end_matches('*');
    stem.len() < piece.len() && stem.ends_with(char::is_alphanumeric)
}

fn is_short(last: &str, terms: &[Term]) -> bool {
    let is_word = terms.last().is_some_and(|term| term.shape == Shape::Word);
    is_word && last.chars().count() < MIN_PREFIX_CHARACTERS
}

/// Builds a phrase from terms. In a script without spaces, the terms of a run are its pairs of adjacent characters and
/// its last character. The run may continue in the text where the phrase ends, and then the text does not have this
/// last character as a term. If the run has several characters, its last character is not searched for, because the
/// last pair contains it. If the run has only one character, it is searched for as the beginning of a pair.
fn phrase(terms: &[Term], open: bool) -> Option<Phrase> {
    let last = terms.last()?;
    let mut kept = terms;
    let mut prefix = open;
    if last.shape == Shape::Last {
        let pair_before = terms.len() > 1 && terms[terms.len() - 2].shape == Shape::Pair;
        if pair_before {
            kept = &terms[..terms.len() - 1];
        }
        prefix = !pair_before;
    }
    Some(Phrase { terms: kept.iter().map(|term| term.text.clone()).collect(), prefix })
}

async fn run(conn: &mut Conn, search: &Search) -> Result<(Vec<Hit>, Vec<Found>, Names)> {
    let viewer = search.principal.viewer();
    let mut all: Vec<String> = search.mark.iter().map(|mark| (*mark).to_owned()).collect();
    if let Some(name) = &search.from {
        let found = store::identity::users::summaries_by_keys(conn, &[name.as_str()]).await?;
        let Some(sender) = found.first() else {
            return Err(Error::invalid("from", "user_not_found", "no user has this name"));
        };
        all.push(search::sender_mark(sender.id));
    }
    let index_queries = index_queries(conn, viewer, search.conversation).await?;
    let mut bounds = Bounds {
        least_id: 1,
        before_id: search.before_id,
        since: search.since,
        until: search.until,
        limit: search.limit as i64 + 1,
    };
    if search.since > Timestamp::MIN {
        bounds.least_id = search::first_id_since(conn, search.since).await?;
    }
    if search.until < Timestamp::MAX {
        bounds.before_id = bounds.before_id.min(search::last_id_before(conn, search.until).await?);
    }
    let mut hits: Vec<Hit> = Vec::new();
    for query in index_queries {
        let expression = Expression { phrases: search.phrases.clone(), all: all.clone(), any: query.any };
        let least_id = bounds.least_id.max(query.least_id);
        hits.extend(search::newest(conn, &expression, Bounds { least_id, ..bounds }).await?);
        hits.sort_unstable_by_key(|hit| std::cmp::Reverse(hit.id));
        hits.truncate(search.limit + 1);
        if let Some(last) = hits.get(search.limit) {
            // Messages older than those of a full page need not be searched.
            bounds.least_id = bounds.least_id.max(last.id.0 + 1);
        }
    }
    let (entries, names) = load(conn, search, &hits[..hits.len().min(search.limit)]).await?;
    Ok((hits, entries, names))
}

/// The part of the index that one query searches.
struct IndexQuery {
    /// Marks of which a message must have at least one; empty to search all messages.
    any: Vec<String>,
    least_id: i64,
}

async fn index_queries(
    conn: &mut Conn,
    viewer: Viewer,
    conversation: Option<ConversationId>,
) -> Result<Vec<IndexQuery>> {
    if let Some(id) = conversation {
        let first_seq = membership(conn, viewer, id).await?.first_seq;
        // If the caller may not see any message yet, nothing is found.
        let least_id = search::id_from(conn, id, first_seq).await?.unwrap_or(i64::MAX);
        return Ok(vec![IndexQuery { any: vec![search::conversation_mark(id)], least_id }]);
    }
    let Viewer::Person(person) = viewer else {
        return Ok(vec![IndexQuery { any: Vec::new(), least_id: 1 }]);
    };
    // The members of a direct conversation never change, so its messages carry a mark for each of them. One mark finds
    // all direct conversations of the caller.
    let mut marks = vec![search::participant_mark(person)];
    let mut index_queries = Vec::new();
    for group in search::groups_of(conn, person).await? {
        let mark = search::conversation_mark(group.conversation);
        if group.least_id == 0 {
            marks.push(mark);
        } else {
            index_queries.push(IndexQuery { any: vec![mark], least_id: group.least_id });
        }
    }
    index_queries.extend(marks.chunks(GROUPS_PER_QUERY).map(|any| IndexQuery { any: any.to_vec(), least_id: 1 }));
    Ok(index_queries)
}

async fn load(conn: &mut Conn, search: &Search, hits: &[Hit]) -> Result<(Vec<Found>, Names)> {
    let ranges: Vec<Range> = hits
        .iter()
        .map(|hit| Range { conversation_id: hit.conversation, first_seq: hit.seq, last_seq: hit.seq })
        .collect();
    let mut messages = store::messages::messages::in_ranges(conn, &ranges).await?;
    messages.sort_unstable_by_key(|message| std::cmp::Reverse(message.id));
    let ended: BTreeSet<i64> = store::conversations::conversations::deleted(conn, &conversations_of(hits)).await?;
    messages.retain(|message| !ended.contains(&message.conversation_id.0));
    let names = complete_for(conn, search.principal.viewer(), &mut messages).await?;
    let mut found = Vec::with_capacity(messages.len());
    for message in messages {
        // Without a hit, the message was edited after the index was searched.
        let Some(hits) = hits_in(&message.body, &search.phrases) else { continue };
        let (snippet, ranges) = snippet(&message.body, &hits);
        found.push(Found { message, snippet, ranges });
    }
    Ok((found, names))
}

fn conversations_of(hits: &[Hit]) -> Vec<i64> {
    let ids: BTreeSet<i64> = hits.iter().map(|hit| hit.conversation.0).collect();
    ids.into_iter().collect()
}

/// The places of the phrases in a text, in characters, ascending and without overlap; `None` if a phrase is missing.
fn hits_in(body: &str, phrases: &[Phrase]) -> Option<Vec<[usize; 2]>> {
    let terms = terms(body);
    let mut hits = Vec::new();
    for phrase in phrases {
        let before = hits.len();
        hits.extend(terms.windows(phrase.terms.len()).filter_map(|window| hit_in(window, phrase)));
        if hits.len() == before {
            return None;
        }
    }
    hits.sort_unstable();
    let mut merged: Vec<[usize; 2]> = Vec::with_capacity(hits.len());
    for [start, end] in hits {
        match merged.last_mut() {
            Some(last) if start < last[1] => last[1] = last[1].max(end),
            _ => merged.push([start, end]),
        }
    }
    Some(merged)
}

fn hit_in(window: &[Term], phrase: &Phrase) -> Option<[usize; 2]> {
    let (first, last) = (window.first()?, window.last()?);
    let (wanted, before) = phrase.terms.split_last()?;
    let same = before.iter().zip(window).all(|(wanted, term)| *wanted == term.text)
        && if phrase.prefix { last.text.starts_with(wanted.as_str()) } else { last.text == *wanted };
    // If only the first character of a pair was searched for, only that character is the hit.
    let end = if phrase.prefix && last.shape == Shape::Pair { last.first_end } else { last.end };
    same.then_some([first.start, end])
}

/// The part of a text around the first hit, and the hits in it.
fn snippet(body: &str, hits: &[[usize; 2]]) -> (String, Vec<[usize; 2]>) {
    let length = body.chars().count();
    let first = hits.first().map_or(0, |hit| hit[0]);
    let latest = length.saturating_sub(SNIPPET_CHARACTERS);
    let start = first.saturating_sub(SNIPPET_LEAD_CHARACTERS).min(latest);
    let end = (start + SNIPPET_CHARACTERS).min(length);
    let mut snippet = String::new();
    snippet.extend((start > 0).then_some(CUT));
    let lead = usize::from(start > 0);
    snippet.extend(body.chars().skip(start).take(end - start));
    snippet.extend((end < length).then_some(CUT));
    let ranges = hits
        .iter()
        .map(|[from, to]| [(*from).max(start), (*to).min(end)])
        .filter(|[from, to]| from < to)
        .map(|[from, to]| [from - start + lead, to - start + lead])
        .collect();
    (snippet, ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(q: &str) -> Vec<(String, bool)> {
        let phrases = phrases(Some(q)).unwrap_or_default();
        phrases.into_iter().map(|phrase| (phrase.terms.join(" "), phrase.prefix)).collect()
    }

    fn word(text: &str) -> (String, bool) {
        (text.to_owned(), false)
    }

    #[test]
    fn a_query_is_words_phrases_and_prefixes() {
        assert_eq!(parsed("Hello  world"), [word("hello"), word("world")]);
        assert_eq!(parsed("\"Hello, world\" don't"), [word("hello world"), word("don t")]);
        assert_eq!(phrases(Some("hel* c*")).unwrap_err().code, "prefix_too_short");
        assert_eq!(
            parsed("hel*, wo**) \"no star*\" ab*cd"),
            [("hel".to_owned(), true), ("wo".to_owned(), true), word("no star"), word("ab cd"),]
        );
        assert_eq!(
            parsed("東 東京 東京都 \"東 tower 東京 x\""),
            [("東".to_owned(), true), word("東京"), word("東京 京都"), word("東 tower 東京 京 x"),]
        );
        assert_eq!(parsed("NEAR(a AND -b) a A"), [word("near a"), word("and"), word("b"), word("a")]);
        for nothing in ["", " ", "*", "\"\"", "\"", "() {} : ^ - +", "👍"] {
            assert_eq!(phrases(Some(nothing)).unwrap_err().code, "no_search_terms", "{nothing}");
        }
    }

    #[test]
    fn a_snippet_surrounds_the_first_hit() {
        let hits = |body: &str, q: &str| hits_in(body, &phrases(Some(q)).unwrap()).unwrap();
        assert_eq!(hits("Foo bar foo, FOO-bar", "foo \"foo bar\""), [[0, 7], [8, 11], [13, 20]]);
        assert_eq!(hits("東東東", "東東"), [[0, 3]]);
        assert_eq!(hits("大東京 東", "東"), [[1, 2], [4, 5]]);
        assert_eq!(snippet("a b", &[[2, 3]]), ("a b".to_owned(), vec![[2, 3]]));
        let body = format!("{} hit {}", "é".repeat(100), "x ".repeat(100));
        let (text, ranges) = snippet(&body, &hits(&body, "hit"));
        assert_eq!(text.chars().count(), SNIPPET_CHARACTERS + 2);
        assert!(text.starts_with("…é") && text.ends_with('…'));
        assert_eq!(ranges, [[41, 44]]);
        let body = format!("{}hit", "y ".repeat(200));
        let (text, ranges) = snippet(&body, &hits(&body, "hit"));
        assert_eq!((text.chars().count(), ranges), (161, vec![[158, 161]]));
        let long = "z".repeat(500);
        assert_eq!(snippet(&long, &[[0, 500]]).1, [[0, 160]]);
    }
}
