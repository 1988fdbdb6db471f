//! The server under test, which the library runs on a real socket, and a client for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use posthaste::app::{App, Settings};
use posthaste::base::ids::Rng;
use posthaste::base::time::Clock;
use posthaste::blobs;
use posthaste::domain::access::principal::Access;
use posthaste::domain::files::demo_gifs;
use posthaste::domain::files::files::{FileSettings, MAX_FILE_BYTES, MAX_USER_BYTES};
use posthaste::domain::files::gif_search::{GifSettings, GifSource};
use posthaste::domain::identity::jwt::JwtSettings;
use posthaste::domain::identity::users::{self, DirectMessagesFrom};
use posthaste::domain::operations::demo;
use posthaste::http::access::client_address::TrustedProxies;
use posthaste::http::access::origin::OriginRules;
use posthaste::http::server;
use posthaste::http::state::{CONNECTION_LIMIT, HttpSettings, HttpState, RENDERER, Timeouts};
use posthaste::live::Live;
use posthaste::live::bus::BusSettings;
use posthaste::mail::MailSettings;
use posthaste::outbound::addresses::Reach;
use posthaste::store;
use posthaste::workers::supervisor::RECOVERY_TIME;
use posthaste::workers::{TaskStates, Workers};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::{Place, contract};

#[derive(Clone)]
pub struct Options {
    pub access: Access,
    pub demo: bool,
    pub clock: Clock,
    pub origins: OriginRules,
    pub trusted_proxies: TrustedProxies,
    /// Rate limits are off in most tests, because all requests of a test come from one address.
    pub rate_limits: bool,
    pub registration_open: bool,
    pub direct_messages_from: DirectMessagesFrom,
    pub webhook_allow_private: bool,
    pub link_previews: Option<Reach>,
    pub jwt: Option<JwtSettings>,
    pub mail: Option<MailSettings>,
    /// Where the bytes of files are stored, if not in the folder of the place.
    pub blobs: Option<blobs::Location>,
    pub members_add_emoji: bool,
    /// Where GIFs are searched, if anywhere.
    pub gifs: Option<GifSettings>,
    pub max_file_bytes: u64,
    pub max_user_bytes: i64,
    pub timeouts: Timeouts,
    pub connection_limit: usize,
    pub bus: BusSettings,
    /// The URL of the database if it is not the place's own, for example to go through a proxy.
    pub database_url: Option<String>,
    /// Names of tasks that the server does not run. The test runs their steps itself, or tests the server without them.
    pub without_tasks: &'static [&'static str],
    /// How long a task that kept failing must run before the server is ready again.
    pub recovery_time: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            access: Access::Open,
            demo: true,
            clock: Clock::System,
            origins: OriginRules::default(),
            trusted_proxies: TrustedProxies::default(),
            rate_limits: false,
            registration_open: false,
            direct_messages_from: DirectMessagesFrom::Everyone,
            webhook_allow_private: false,
            link_previews: None,
            jwt: None,
            mail: None,
            blobs: None,
            members_add_emoji: false,
            gifs: None,
            max_file_bytes: MAX_FILE_BYTES,
            max_user_bytes: MAX_USER_BYTES,
            timeouts: Timeouts::default(),
            connection_limit: CONNECTION_LIMIT,
            bus: BusSettings::Local,
            database_url: None,
            without_tasks: &[],
            recovery_time: RECOVERY_TIME,
        }
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub app: Arc<App>,
    pub live: Arc<Live>,
    pub tasks: TaskStates,
    pub client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    stopped: tokio::task::JoinHandle<()>,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The target of `Link: <…>; rel="next"`.
    pub fn next(&self) -> Option<String> {
        let link = self.header("link")?;
        let (target, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
        assert_eq!(rest, "; rel=\"next\"");
        Some(target.to_owned())
    }

    /// Asserts that the answer is an RFC 9457 document with this status and code, and returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let text = String::from_utf8_lossy(&self.bytes);
        assert_eq!(self.status.as_u16(), status, "{text}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let document = self.json();
        assert_eq!(document["status"], status);
        assert_eq!(document["code"], code, "{text}");
        assert_eq!(document["request_id"].as_str(), self.header("x-request-id"));
        for field in ["type", "title", "detail"] {
            assert!(document[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {text}");
        }
        document
    }

    /// Asserts a 422 with exactly these fields.
    #[track_caller]
    pub fn invalid(&self, fields: &[&str]) -> Value {
        let document = self.problem(422, "invalid_fields");
        let named: Vec<&str> =
            document["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
        assert_eq!(named, fields, "{document}");
        document
    }
}

impl Server {
    /// Starts with the demo's data and open access.
    pub async fn start(place: &Place) -> Self {
        Self::start_with(place, Options::default()).await
    }

    pub async fn start_with(place: &Place, options: Options) -> Self {
        let settings = Settings {
            access: options.access,
            demo: options.demo,
            rate_limits: options.rate_limits,
            registration_open: options.registration_open,
            direct_messages_from: options.direct_messages_from,
            members_add_emoji: options.members_add_emoji,
            event_retention_days: posthaste::app::EVENT_RETENTION_DAYS,
            accept_lost_tail: false,
            webhook_allow_private: options.webhook_allow_private,
            link_previews: options.link_previews,
            public_url: options.origins.public_origin.clone(),
            allow_unsafe_storage: false,
            jwt: options.jwt,
            mail: options.mail,
            files: Some(FileSettings {
                location: options.blobs.unwrap_or_else(|| blobs::Location::Folder(place.folder.path().join("files"))),
                spool: place.folder.path().join("uploads"),
                max_file_bytes: options.max_file_bytes,
                max_user_bytes: options.max_user_bytes,
                max_server_bytes: MAX_USER_BYTES,
            }),
            gifs: options.gifs,
        };
        // Only tests of GIFs need them.
        let with_gifs = matches!(&settings.gifs, Some(gifs) if matches!(gifs.source, GifSource::Local));
        let location = match &options.database_url {
            Some(url) => store::driver::environment::Location::parse(url).unwrap(),
            None => place.location(),
        };
        let (app, _) = App::open(&location, settings, options.clock, Rng::System, RENDERER).await.unwrap();
        let app = Arc::new(app);
        if options.demo && demo::fill(&app).await.unwrap() && with_gifs {
            demo_gifs::fill(&app).await.unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings = HttpSettings {
            origins: options.origins,
            trusted_proxies: options.trusted_proxies,
            timeouts: options.timeouts,
            connection_limit: options.connection_limit,
            ..HttpSettings::default()
        };
        let live = Live::new(Arc::clone(&app));
        // A fatal fault ends the process of a real server. Here the closure does nothing, because this is the process of the
        // tests.
        let mut workers = Workers::new(&app, &live, &options.bus, |_| {}).unwrap();
        let tasks = workers.states().clone();
        let state = HttpState::new(Arc::clone(&app), Arc::clone(&live), tasks.clone(), settings);
        let (stop, stopping) = oneshot::channel::<()>();
        let served = Arc::clone(&app);
        workers.set_recovery_time(options.recovery_time);
        workers.start_without(options.without_tasks);
        let stopped = tokio::spawn(async move {
            server::serve(state, listener, None, async { drop(stopping.await) }).await.unwrap();
            workers.stop().await;
            served.db.close().await;
        });
        let client = reqwest::Client::builder().no_proxy().no_gzip().timeout(Duration::from_secs(30)).build().unwrap();
        Self { address, app, live, tasks, client, stop: Some(stop), stopped }
    }

    /// Stops the server as Ctrl-C does.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.stopped.await.unwrap();
    }

    pub fn request(&self, method: Method, target: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{target}", self.address))
    }

    pub async fn get(&self, target: &str) -> Answer {
        answer_of(self.request(Method::GET, target)).await
    }

    pub async fn post(&self, target: &str, body: &Value) -> Answer {
        answer_of(self.request(Method::POST, target).json(body)).await
    }

    /// Sends a message, which must be accepted.
    #[track_caller]
    pub fn send<'a>(&'a self, sender: &'a str, recipient: &'a str, body: &'a str) -> impl Future<Output = Value> + 'a {
        let request = json!({"sender_user_name": sender, "recipient_user_name": recipient, "body": body});
        async move {
            let answer = self.post("/api/messages", &request).await;
            assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.bytes));
            answer.json()
        }
    }

    /// All entries of a list, page by page.
    pub async fn all(&self, first: &str) -> Vec<Value> {
        let mut entries = Vec::new();
        let mut target = Some(first.to_owned());
        while let Some(page) = target {
            let answer = self.get(&page).await;
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
            entries.extend(answer.json().as_array().unwrap().iter().cloned());
            target = answer.next();
            assert!(entries.len() < 100_000, "the list does not end");
        }
        entries
    }

    /// Creates a user without a password, by calling the library instead of the API.
    pub async fn add_user(&self, user_name: &str, first_name: &str, last_name: &str) {
        let registration = users::Registration {
            user_name: user_name.into(),
            first_name: first_name.into(),
            last_name: last_name.into(),
            email: None,
            ..users::Registration::default()
        };
        let user = registration.validate(self.app.clock.now()).unwrap();
        self.app.db.write(user, |conn, user| Box::pin(store::identity::users::insert(conn, user))).await.unwrap();
    }
}

/// Sends a request, and asserts that the OpenAPI document describes its answer.
pub async fn answer_of(request: RequestBuilder) -> Answer {
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let (method, target) = (request.method().to_string(), request.url().path().to_owned());
    let mut response = client.execute(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    if headers.get("content-type").is_some_and(|kind| kind == "text/event-stream") {
        // A stream does not end by itself, so only its first part is read.
        let bytes = response.chunk().await.unwrap().unwrap_or_default().to_vec();
        return Answer { status, headers, bytes };
    }
    let answer = Answer { status, headers, bytes: response.bytes().await.unwrap().to_vec() };
    contract::check_answer(&method, &target, &answer);
    answer
}

/// Sends bytes, and reads until the server closes the connection or nothing arrives for a second.
pub async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and close the connection before it has read all bytes, so errors are ignored.
    drop(stream.write_all(request).await);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buffer)).await {
        if count == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}
