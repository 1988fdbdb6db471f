//! What the server is made of, handed to everyone who needs it.
//!
//! Invariant: time and randomness come from here and nowhere else.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::base::error::{Error, Result};
use crate::base::ids::{Rng, hex};
use crate::base::metrics::Metrics;
use crate::base::request_id::RequestIds;
use crate::base::time::{Clock, DatabaseClock};
use crate::domain::access::principal::Access;
use crate::domain::conversations::typing_throttle::TypingThrottle;
use crate::domain::identity::jwt::{JwtSettings, JwtVerifier};
use crate::domain::identity::known_callers::KnownCallers;
use crate::domain::identity::password_hashing::PasswordHashing;
use crate::domain::messages::tails::Tails;
use crate::domain::operations::database_clock;
use crate::domain::operations::write_probe::WriteProbe;
use crate::domain::sending::change_queue::ChangeQueue;
use crate::domain::sending::recent_sends::Fresh;
use crate::domain::sending::send_queue::SendQueue;
use crate::domain::shared::idempotency::KeyDays;
use crate::domain::shared::rendering::Renderer;
use crate::mail::{MailSettings, Mailer};
use crate::store;
use crate::store::db::Db;
use crate::store::db::migrations::{self, Report};
use crate::store::driver::environment::{Commits, Environment, Location};
use crate::store::identity::users::DirectMessagesFrom;

/// Days for which events are kept where the operator chose nothing.
pub const EVENT_RETENTION_DAYS: i64 = 30;

/// What the operator chose, as far as the rules need to know it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who is let in.
    pub access: Access,
    /// Whether the demo's data is there.
    pub demo: bool,
    /// Whether callers are slowed down, those who try to log in included.
    pub rate_limits: bool,
    /// Whether people may register by themselves.
    pub registration_open: bool,
    /// From whom direct messages are taken by who has not chosen.
    pub direct_messages_from: DirectMessagesFrom,
    /// Days for which events are kept.
    pub event_retention_days: i64,
    /// Whether SQLite goes on without what cannot be read of its write-ahead log.
    pub accept_lost_tail: bool,
    /// Whether webhooks may call private addresses, and plain http.
    pub webhook_allow_private: bool,
    /// The URL under which people reach the server.
    pub public_url: Option<String>,
    /// Whether storage that can lose acknowledged data is accepted.
    pub allow_unsafe_storage: bool,
    /// Whose JWTs let people in.
    pub jwt: Option<JwtSettings>,
    /// How mail leaves.
    pub mail: Option<MailSettings>,
}

impl Default for Settings {
    /// As without any option.
    fn default() -> Self {
        Self {
            access: Access::Secured,
            demo: false,
            rate_limits: true,
            registration_open: false,
            direct_messages_from: DirectMessagesFrom::Everyone,
            event_retention_days: EVENT_RETENTION_DAYS,
            accept_lost_tail: false,
            webhook_allow_private: false,
            public_url: None,
            allow_unsafe_storage: false,
            jwt: None,
            mail: None,
        }
    }
}

/// The server's parts. Shared by `Arc`.
pub struct App {
    /// The data.
    pub db: Db,
    /// Limits how often it is published that somebody writes.
    pub typing: TypingThrottle,
    /// Finds out whether writing works.
    pub write_probe: WriteProbe,
    /// What tells of commits.
    pub commits: Commits,
    /// The time.
    pub clock: Clock,
    /// The days under which idempotency keys are stored.
    pub key_days: KeyDays,
    /// Randomness.
    pub rng: Rng,
    /// Ids for requests that bring none.
    pub request_ids: RequestIds,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the operator chose.
    pub settings: Settings,
    /// Where sends wait for each other.
    pub sends: SendQueue,
    /// Where small changes of conversations do.
    pub changes: ChangeQueue,
    /// That somebody has searched.
    pub searched: Notify,
    /// What was sent a moment ago.
    pub fresh: Arc<Fresh>,
    /// What was rendered of the newest messages.
    pub tails: Tails,
    /// Renders messages and events.
    pub renderer: Renderer,
    /// What is remembered of callers.
    pub callers: KnownCallers,
    /// Where passwords are hashed.
    pub passwords: PasswordHashing,
    /// Who verifies the JWTs of the operator's backend.
    pub jwt: Option<JwtVerifier>,
    /// How mail leaves.
    pub mailer: Option<Mailer>,
    /// The key under which names are hashed.
    pub name_key: [u8; 32],
}

impl App {
    /// Opens the database and brings its schema up to date. In place of the machine's clock the database's is used, where it
    /// has one.
    ///
    /// # Errors
    /// When the database cannot be reached or its schema cannot be used, or a setting cannot be used.
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
        // Nothing above has asked for the time.
        database_clock::read(&db, &clock).await?;
        let jwt = match &settings.jwt {
            Some(jwt) => Some(JwtVerifier::open(jwt.clone(), clock.now()).await.map_err(Error::internal)?),
            None => None,
        };
        let context = migration_context(&clock, &rng)?;
        let report = migrations::migrate(&db, context).await?;
        let name_key = db.read((), |conn, ()| Box::pin(store::identity::revocations::name_key(conn))).await?;
        let key_days = KeyDays::default();
        key_days.learn(&db).await?;
        let callers = KnownCallers::default();
        let revocations = Arc::clone(&callers.revocations);
        let fresh = Arc::new(Fresh::default());
        let app = Self {
            sends: SendQueue::new(
                db.clone(),
                clock.clone(),
                Arc::clone(&metrics),
                revocations,
                Arc::clone(&fresh),
                settings.direct_messages_from,
            ),
            searched: Notify::new(),
            fresh,
            changes: ChangeQueue::new(db.clone(), Arc::clone(&metrics)),
            request_ids: RequestIds::new(&rng).map_err(Error::internal)?,
            passwords: PasswordHashing::new(&rng, Arc::clone(&metrics))?,
            name_key: name_key.try_into().map_err(|_| Error::internal("the key for names has a wrong length"))?,
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
        };
        Ok((app, report))
    }
}

/// What a migration needs: the moment, a new name for an event log (so that cursors of another one are told apart), a new key.
///
/// # Errors
/// When there is no randomness to be had.
pub fn migration_context(clock: &Clock, rng: &Rng) -> Result<migrations::Context> {
    let epoch = hex(&rng.bytes::<8>().map_err(Error::internal)?);
    Ok(migrations::Context { now: clock.now(), epoch, name_key: rng.bytes().map_err(Error::internal)? })
}
