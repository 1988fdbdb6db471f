//! The messages whose links wait for a preview, and the pages that were fetched in the last hour.
//!
//! Invariants:
//! - Offering a message never waits. If the queue is full, the message gets no preview.
//! - At most `MAX_JOBS` previews are made at a time, and at most one of them for each host.
//! - A user causes at most [`MAX_FETCHES`] fetches in `FETCH_WINDOW`. A page that is still known needs no fetch.
//! - Everything is in memory only. A message whose server stops before its preview is made stays without one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use tokio::sync::Notify;
use url::Url;

use crate::base::ids::{ConversationId, UserId};
use crate::base::links::previewed_url;
use crate::base::metrics::Metrics;
use crate::domain::files::files::NewAttachment;
use crate::outbound::addresses::Reach;
use crate::store::messages::messages::{Kind, Message};

/// Maximum number of messages that wait.
const QUEUE_LIMIT: usize = 1_000;
/// Maximum number of previews that are made at a time.
const MAX_JOBS: usize = 4;
/// Maximum number of pages that are remembered.
const CACHE_PAGES: usize = 1_024;
/// How long a page is remembered.
const PAGE_LIFETIME: Duration = Duration::from_secs(3_600);
/// How long it is remembered that a URL has no page with a preview.
const FAILURE_LIFETIME: Duration = Duration::from_secs(600);
/// Maximum number of fetches for the messages of one user in `FETCH_WINDOW`.
pub const MAX_FETCHES: u32 = 20;
/// The time in which the fetches of a user are counted.
const FETCH_WINDOW: Duration = Duration::from_secs(60);
/// If more users than this are counted, those whose time has passed are forgotten.
const COUNTED_USERS: usize = 10_000;

/// A message that waits for the preview of its first link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The conversation of the message.
    pub conversation: ConversationId,
    /// The `seq` of the message.
    pub seq: i64,
    /// The sender of the message.
    pub sender: UserId,
    /// The URL as it is in the text.
    pub url: String,
}

/// What a page says about itself.
pub struct Page {
    /// Its title. `None` if the URL leads to an image without a name.
    pub title: Option<String>,
    /// Its description.
    pub description: Option<String>,
    /// Its image. Each message that shows it gets an attachment with the same bytes.
    pub image: Option<NewAttachment>,
}

/// What is known about a URL. `None` if it leads to nothing with a preview.
pub type Known = Option<Arc<Page>>;

/// The queue of messages and the pages that were fetched.
pub struct LinkPreviews {
    /// Which addresses may be called.
    pub reach: Reach,
    state: Mutex<State>,
    changed: Notify,
    pages: Cache<String, (Instant, Known)>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    jobs: usize,
    /// The hosts of the running jobs.
    hosts: HashSet<String>,
    /// The number of fetches of each user, and when the first of them began.
    fetches: HashMap<UserId, (Instant, u32)>,
}

impl LinkPreviews {
    /// An empty queue. `reach` says which addresses may be called.
    pub fn new(reach: Reach, metrics: Arc<Metrics>) -> Self {
        let (state, changed, pages) = (Mutex::default(), Notify::new(), Cache::new(CACHE_PAGES));
        Self { reach, state, changed, pages, metrics }
    }

    /// Puts a message into the queue, if its text has a link and it has no preview and may get one. Call this after the commit.
    pub fn offer(&self, message: &Message) {
        let is_open = message.kind == Kind::Text && message.deleted_at.is_none();
        if !is_open || message.link_preview.stored().is_some() {
            return;
        }
        let Some(url) = previewed_url(&message.body) else { return };
        let Message { conversation_id: conversation, seq, sender_id: sender, .. } = *message;
        let mut state = self.lock();
        if state.waiting.len() >= QUEUE_LIMIT {
            self.metrics.link_previews("dropped").inc();
            return;
        }
        state.waiting.push_back(Request { conversation, seq, sender, url: url.to_owned() });
        drop(state);
        self.changed.notify_one();
    }

    /// Takes the next message whose preview may be made now. Waits until there is one.
    pub async fn next(self: &Arc<Self>) -> Job {
        loop {
            if let Some(job) = self.take() {
                return job;
            }
            // A notification that comes between these two lines is kept.
            self.changed.notified().await;
        }
    }

    fn take(self: &Arc<Self>) -> Option<Job> {
        let mut state = self.lock();
        if state.jobs >= MAX_JOBS {
            return None;
        }
        let may_run =
            |request: &Request| !state.hosts.contains(&host(&request.url)) || self.known(&request.url).is_some();
        let place = state.waiting.iter().position(may_run)?;
        let request = state.waiting.remove(place)?;
        state.jobs += 1;
        let host = host(&request.url);
        let host = state.hosts.insert(host.clone()).then_some(host);
        Some(Job { request, host, queue: Arc::clone(self) })
    }

    /// What is known about a URL. The outer `None` means that it must be fetched.
    pub fn known(&self, url: &str) -> Option<Known> {
        let (until, known) = self.pages.get(&key(url))?;
        (Instant::now() < until).then_some(known)
    }

    /// Remembers what a URL leads to.
    pub fn remember(&self, url: &str, known: Known) {
        let lifetime = if known.is_some() { PAGE_LIFETIME } else { FAILURE_LIFETIME };
        self.pages.insert(key(url), (Instant::now() + lifetime, known));
    }

    /// Forgets what a URL leads to.
    pub fn forget(&self, url: &str) {
        self.pages.remove(&key(url));
    }

    /// Counts a fetch for a message of a user. Returns `false` if the user has reached the limit.
    pub fn may_fetch(&self, sender: UserId) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        if state.fetches.len() >= COUNTED_USERS {
            state.fetches.retain(|_, (since, _)| now.duration_since(*since) < FETCH_WINDOW);
        }
        let (since, count) = state.fetches.entry(sender).or_insert((now, 0));
        if now.duration_since(*since) >= FETCH_WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= MAX_FETCHES
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message whose preview is being made. Its host can be called by another job after this one is dropped, even by a panic.
pub struct Job {
    /// The message.
    pub request: Request,
    /// The host, unless another job has it. Then the page is known, and this job does not call the host.
    host: Option<String>,
    queue: Arc<LinkPreviews>,
}

impl Drop for Job {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.jobs -= 1;
        if let Some(host) = &self.host {
            state.hosts.remove(host);
        }
        drop(state);
        self.queue.changed.notify_one();
    }
}

/// The host of a URL. Empty if it has none.
fn host(url: &str) -> String {
    Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

/// The URL as it is fetched: without its fragment.
fn key(url: &str) -> String {
    Url::parse(url).map_or_else(
        |_| url.to_owned(),
        |mut url| {
            url.set_fragment(None);
            url.into()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Arc<LinkPreviews> {
        Arc::new(LinkPreviews::new(Reach::PublicWeb, Arc::new(Metrics::new())))
    }

    fn add(queue: &LinkPreviews, url: &str) {
        let request = Request { conversation: ConversationId(1), seq: 1, sender: UserId(1), url: url.into() };
        queue.lock().waiting.push_back(request);
    }

    #[test]
    fn a_host_is_called_once_at_a_time_and_does_not_delay_others() {
        let queue = queue();
        for url in ["http://a/1", "http://a/2", "http://b/", "http://A/#3"] {
            add(&queue, url);
        }
        let first = queue.take().unwrap();
        assert_eq!(first.request.url, "http://a/1");
        let second = queue.take().unwrap();
        assert_eq!(second.request.url, "http://b/");
        assert!(queue.take().is_none());
        // A known page needs no call.
        queue.remember("http://a/", None);
        let third = queue.take().unwrap();
        assert_eq!(third.request.url, "http://A/#3");
        drop(third);
        assert!(queue.take().is_none(), "the host still belongs to the first job");
        drop(first);
        assert_eq!(queue.take().unwrap().request.url, "http://a/2");
    }

    #[test]
    fn only_so_many_jobs_run() {
        let queue = queue();
        for host in 0..=MAX_JOBS {
            add(&queue, &format!("http://h{host}/"));
        }
        let mut jobs: Vec<Job> = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!(jobs.len(), MAX_JOBS);
        jobs.pop();
        assert!(queue.take().is_some());
    }

    #[test]
    fn the_fetches_of_each_user_are_limited() {
        let queue = queue();
        assert!((0..MAX_FETCHES).all(|_| queue.may_fetch(UserId(1))));
        assert!(!queue.may_fetch(UserId(1)));
        assert!(queue.may_fetch(UserId(2)));
    }
}
