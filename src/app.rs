//! [`App`]: the database, the clock, the queues, the caches and the settings that the rules of the domain use.
//!
//! Invariant: the domain takes time and randomness only from here, so a test can control both.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::base::error::{Error, Result};
use crate::base::ids::{Rng, hex};
use crate::base::metrics::Metrics;
use crate::base::request_id::RequestIds;
use crate::base::time::{Clock, DatabaseClock};
use crate::domain::access::principal::Access;
use crate::domain::conversations::typing_throttle::TypingThrottle;
use crate::domain::files::files::{FileSettings, Files};
use crate::domain::files::gif_search::{GifSearch, GifSettings};
use crate::domain::identity::jwt::{JwtSettings, JwtVerifier};
use crate::domain::identity::known_callers::KnownCallers;
use crate::domain::identity::password_hashing::PasswordHashing;
use crate::domain::messages::tails::Tails;
use crate::domain::operations::database_clock;
use crate::domain::operations::write_probe::WriteProbe;
use crate::domain::previews::queue::LinkPreviews;
use crate::domain::sending::change_queue::ChangeQueue;
use crate::domain::sending::recent_sends::RecentSends;
use crate::domain::sending::send_queue::SendQueue;
use crate::domain::shared::idempotency::KeyDays;
use crate::domain::shared::rendering::Renderer;
use crate::mail::{MailSettings, Mailer};
use crate::outbound::addresses::Reach;
use crate::store;
use crate::store::db::Db;
use crate::store::db::migrations::{self, Report};
use crate::store::driver::environment::{Commits, Environment, Location};
use crate::store::identity::users::DirectMessagesFrom;

/// Days for which events are kept by default.
pub const EVENT_RETENTION_DAYS: i64 = 30;

/// The settings that the domain needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether requests need credentials.
    pub access: Access,
    /// Whether the server runs with `--demo`.
    pub demo: bool,
    /// Whether rate limits apply, those on log-in attempts included.
    pub rate_limits: bool,
    /// Whether people may create their own accounts.
    pub registration_open: bool,
    /// Default for users who have not set `direct_messages_from`.
    pub direct_messages_from: DirectMessagesFrom,
    /// Whether all users may add custom emoji, and not only administrators.
    pub members_add_emoji: bool,
    /// Days for which events are kept.
    pub event_retention_days: i64,
    /// Whether SQLite starts without the unreadable end of its write-ahead log.
    pub accept_lost_tail: bool,
    /// Whether webhooks may use private addresses and plain http.
    pub webhook_allow_private: bool,
    /// Which addresses the server calls for previews of links. `None` if it makes no previews.
    pub link_previews: Option<Reach>,
    /// The public URL of the server.
    pub public_url: Option<String>,
    /// Whether storage that can lose acknowledged data is accepted.
    pub allow_unsafe_storage: bool,
    /// How JWTs are verified. `None` if JWTs are not accepted.
    pub jwt: Option<JwtSettings>,
    /// How mail is sent. `None` if the server sends no mail.
    pub mail: Option<MailSettings>,
    /// Where files are stored. `None` if this process works with no files.
    pub files: Option<FileSettings>,
    /// How GIFs are searched. `None` if they are not.
    pub gifs: Option<GifSettings>,
}

impl Default for Settings {
    /// The settings of a server that is started without options.
    fn default() -> Self {
        Self {
            access: Access::Secured,
            demo: false,
            rate_limits: true,
            registration_open: false,
            direct_messages_from: DirectMessagesFrom::Everyone,
            members_add_emoji: false,
            event_retention_days: EVENT_RETENTION_DAYS,
            accept_lost_tail: false,
            webhook_allow_private: false,
            link_previews: None,
            public_url: None,
            allow_unsafe_storage: false,
            jwt: None,
            mail: None,
            files: None,
            gifs: None,
        }
    }
}

/// The shared parts of the server, in an `Arc`.
pub struct App {
    /// The database.
    pub db: Db,
    /// Limits how often `typing` events are published.
    pub typing: TypingThrottle,
    /// Checks that the database accepts writes.
    pub write_probe: WriteProbe,
    /// Notifies of commits.
    pub commits: Commits,
    /// The clock.
    pub clock: Clock,
    /// The days under which idempotency keys are stored and looked up.
    pub key_days: KeyDays,
    /// The source of randomness.
    pub rng: Rng,
    /// Generates ids for requests that come without one.
    pub request_ids: RequestIds,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The settings.
    pub settings: Settings,
    /// The queue of sends. Its task writes them in batches.
    pub sends: SendQueue,
    /// The queue of changes: reactions and receipts. On PostgreSQL, its task writes them in batches.
    pub changes: ChangeQueue,
    /// Each search notifies it.
    pub searched: Notify,
    /// Messages that this process has sent in the last moments.
    pub recent_sends: Arc<RecentSends>,
    /// The tails of conversations: their newest messages, rendered as JSON.
    pub tails: Tails,
    /// The functions that render messages and events.
    pub renderer: Renderer,
    /// The cache of verified credentials.
    pub callers: KnownCallers,
    /// Hashes and verifies passwords, a few at a time.
    pub passwords: PasswordHashing,
    /// Verifies the JWTs of the operator's backend.
    pub jwt: Option<JwtVerifier>,
    /// Sends mail.
    pub mailer: Option<Mailer>,
    /// Stores and inspects files.
    pub files: Option<Files>,
    /// Searches GIFs.
    pub gifs: Option<GifSearch>,
    /// The messages whose links wait for a preview. `None` if the server makes no previews.
    pub link_previews: Option<Arc<LinkPreviews>>,
    /// The secret of the database: the key for the hashes of user names. The keys of the bus are derived from it.
    pub name_key: [u8; 32],
}

impl App {
    /// Opens the database and upgrades its schema. On PostgreSQL, the clock of the database replaces [`Clock::System`].
    ///
    /// # Errors
    /// The database cannot be reached, its schema cannot be used, or a setting is invalid.
    pub async fn open(
        location: &Location,
        settings: Settings,
        clock: Clock,
        rng: Rng,
        renderer: Renderer,
    ) -> Result<(Self, Report)> {
        let clock = match (clock, location) {
            (Clock::System, Location::Postgres(_)) => Clock::Database(Arc::new(DatabaseClock::default())),
            (clock, _) => clock,
        };
        let environment = Environment {
            accept_lost_tail: settings.accept_lost_tail,
            allow_unsafe_storage: settings.allow_unsafe_storage,
            ..Environment::new(clock.clone())
        };
        let (metrics, commits) = (Arc::clone(&environment.metrics), environment.commits.clone());
        let mailer = match &settings.mail {
            Some(mail) => Some(Mailer::new(mail, clock.clone(), &rng, Arc::clone(&metrics)).map_err(Error::internal)?),
            None => None,
        };
        let db = Db::open(location, environment).await?;
        // The code above this line does not use the time.
        database_clock::read(&db, &clock).await?;
        let jwt = match &settings.jwt {
            Some(jwt) => Some(JwtVerifier::open(jwt.clone(), clock.now()).await.map_err(Error::internal)?),
            None => None,
        };
        let files = match &settings.files {
            Some(files) => Some(Files::open(files.clone()).await?),
            None => None,
        };
        let gifs = settings.gifs.clone().map(GifSearch::new);
        let context = migration_context(&clock, &rng)?;
        let report = migrations::migrate(&db, context).await?;
        let name_key = db.read((), |conn, ()| Box::pin(store::identity::revocations::name_key(conn))).await?;
        let key_days = KeyDays::default();
        key_days.learn(&db).await?;
        let callers = KnownCallers::default();
        let revocations = Arc::clone(&callers.revocations);
        let recent_sends = Arc::new(RecentSends::default());
        let link_previews =
            settings.link_previews.map(|reach| Arc::new(LinkPreviews::new(reach, Arc::clone(&metrics))));
        let app = Self {
            sends: SendQueue::new(
                db.clone(),
                clock.clone(),
                Arc::clone(&metrics),
                revocations,
                Arc::clone(&recent_sends),
                link_previews.clone(),
                settings.direct_messages_from,
            ),
            searched: Notify::new(),
            recent_sends,
            changes: ChangeQueue::new(db.clone(), Arc::clone(&metrics)),
            request_ids: RequestIds::new(&rng).map_err(Error::internal)?,
            passwords: PasswordHashing::new(&rng, Arc::clone(&metrics))?,
            name_key: name_key
                .try_into()
                .map_err(|_| Error::internal("the key for the hashes of user names has a wrong length"))?,
            callers,
            tails: Tails::new(renderer.message),
            renderer,
            typing: TypingThrottle::default(),
            write_probe: WriteProbe::default(),
            commits,
            db,
            clock,
            key_days,
            rng,
            metrics,
            settings,
            jwt,
            mailer,
            files,
            gifs,
            link_previews,
        };
        Ok((app, report))
    }
}

/// The inputs of a migration: the time, the epoch for a new event log, and a new key for the hashes of user names. The epoch makes
/// cursors of other event logs invalid.
///
/// # Errors
/// When the operating system cannot provide random bytes.
pub fn migration_context(clock: &Clock, rng: &Rng) -> Result<migrations::Context> {
    let epoch = hex(&rng.bytes::<8>().map_err(Error::internal)?);
    Ok(migrations::Context { now: clock.now(), epoch, name_key: rng.bytes().map_err(Error::internal)? })
}
