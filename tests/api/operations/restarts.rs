//! What tasks do after they were restarted, and what happens while they cannot work.

use std::pin::pin;
use std::time::{Duration, Instant};

use posthaste::base::tasks::PanicPoint;
use posthaste::domain::identity::credentials::{Credentials, authenticate};
use posthaste::domain::messages::{messages, reactions};
use posthaste::domain::sending::drafts::NewMessage;
use posthaste::domain::shared::idempotency::Once;
use posthaste::live::EphemeralDelivery;
use serde_json::{Value, json};

use super::workers::{LIMIT, bus_of, metric, panic_once, wait_until};
use crate::both;
use crate::support::nats::NatsServer;
use crate::support::people::{get, group, post_once};
use crate::support::place::Kind;
use crate::support::process::{Process, Wrapping};
use crate::support::watch::Socket;
use crate::support::{Answer, Options, Place, Server, answer_of, run};

/// Ephemeral events are published with this pause until one arrives.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// Longer than the interval of a task that looks for work once a second.
const SEVERAL_INTERVALS: Duration = Duration::from_secs(4);

/// Publishes an ephemeral event on one server until a socket on the other one receives it.
async fn bus_delivers(one: &Server, there: &mut Socket, to: i64, word: &str) {
    let event = json!({"type": "test.whisper", "data": {"word": word}});
    let publishing = async {
        loop {
            one.live.publish_ephemeral(EphemeralDelivery { to: vec![to], event: event.to_string() });
            tokio::time::sleep(PUBLISH_INTERVAL).await;
        }
    };
    let receiving = async { while there.event().await != event {} };
    tokio::select! {
        () = publishing => {}
        received = tokio::time::timeout(LIMIT, receiving) => received.expect("the bus does not deliver"),
    }
}

both!(the_bus_delivers_after_a_restart_at_either_end, async |place| {
    let nats = NatsServer::start().await;
    let options = || Options { bus: bus_of(place, &nats), ..Options::default() };
    let (one, other) = (Server::start_with(place, options()).await, Server::start_with(place, options()).await);
    let duck = place.numbers("SELECT id FROM messaging.users WHERE user_name = 'duck'").await[0][0];
    let mut there = Socket::of(&other, "duck").await;
    bus_delivers(&one, &mut there, duck, "before").await;
    panic_once(&one, "bus").await;
    bus_delivers(&one, &mut there, duck, "after the sender's restart").await;
    panic_once(&other, "bus").await;
    bus_delivers(&one, &mut there, duck, "after the receiver's restart").await;
});

both!(the_clock_is_compared_after_a_restart, async |place| {
    let server = Server::start(place).await;
    panic_once(&server, "clock").await;
    let wrong = 1e6;
    server.app.metrics.clock_skew_seconds.set(wrong);
    wait_until("the clocks are not compared", async || server.app.metrics.clock_skew_seconds.get() < wrong).await;
});

both!(housekeeping_deletes_after_a_restart, async |place| {
    let server = Server::start(place).await;
    let new = json!({"recipient_user_name": "duck", "body": "once"});
    assert_eq!(post_once(&server, "bugs", "/api/messages", "key", new).await.status, 201);
    // The restarted task looks for work immediately and then only after ten minutes. So the old key is deleted soon only if the
    // second restart looks again.
    panic_once(&server, "housekeeping").await;
    wait_until("the key is lost", async || keys(place).await == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    place.sql("UPDATE messaging.idempotency_keys SET day = day - 100").await;
    panic_once(&server, "housekeeping").await;
    wait_until("the old key stays", async || keys(place).await == 0).await;
});

async fn keys(place: &Place) -> i64 {
    place.numbers("SELECT count(*) FROM messaging.idempotency_keys").await[0][0]
}

/// Sends a message and waits. Then counts the pages of pending index entries, which also sorts these entries into PostgreSQL's
/// index.
async fn pages_waiting(server: &Server, place: &Place) -> i64 {
    server.send("bugs", "duck", "to be sorted").await;
    tokio::time::sleep(SEVERAL_INTERVALS).await;
    place.numbers("SELECT gin_clean_pending_list('messaging.search_entries_terms')").await[0][0]
}

#[test]
fn search_is_sorted_after_a_restart() {
    run(Kind::Postgres, async |place: &Place| {
        let options = Options { without_tasks: &["search-sorting"], ..Options::default() };
        let server = Server::start_with(place, options).await;
        assert!(pages_waiting(&server, place).await > 0);
        server.stop().await;
        let server = Server::start(place).await;
        panic_once(&server, "search-sorting").await;
        wait_until("pending entries are not sorted into the index", async || pages_waiting(&server, place).await == 0)
            .await;
    });
}

async fn is_online(server: &Server, person: &str) -> bool {
    get(server, "bugs", &format!("/api/users/{person}/presence")).await.json()["state"] == "online"
}

both!(presence_keeps_its_name_when_its_task_fails, async |place| {
    let server = Server::start(place).await;
    group(&server, "bugs", &["duck", "rdibari", "porky"], "all").await;
    // The task panics after its first write, before it has noted that the server's name is stored.
    server.tasks.make_panic_at("presence", PanicPoint::PresenceWritten);
    let duck = Socket::of(&server, "duck").await;
    wait_until("presence is not written", async || server.tasks.has_panicked("presence")).await;
    let rdibari = Socket::of(&server, "rdibari").await;
    wait_until("rdibari is not online", async || is_online(&server, "rdibari").await).await;
    panic_once(&server, "presence").await;
    let porky = Socket::of(&server, "porky").await;
    wait_until("porky is not online", async || is_online(&server, "porky").await).await;
    // The users go offline long before the rows of a silent server would be removed.
    drop((duck, rdibari, porky));
    for person in ["duck", "rdibari", "porky"] {
        wait_until("a user without a socket stays online", async || !is_online(&server, person).await).await;
    }
    assert_eq!(place.numbers("SELECT count(*) FROM messaging.presence_servers").await, [[1]]);
});

both!(the_queue_length_does_not_count_callers_who_have_gone, async |place| {
    // The queues have no tasks, so a send or a change waits until its caller goes away.
    let options = Options { without_tasks: &["send-queue", "change-queue"], ..Options::default() };
    let server = Server::start_with(place, options).await;
    let address = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let caller = Credentials { token: None, act_as: Some("bugs".into()), address };
    let principal = authenticate(&server.app, caller).await.unwrap();
    let length = async |work: &str| metric(&server, &format!("posthaste_store_queue_length{{work=\"{work}\"}}")).await;
    {
        let new = NewMessage { recipient_user_name: Some("duck".into()), body: "lost".into(), ..NewMessage::default() };
        let mut sending = pin!(messages::send(&server.app, &principal, new, Once::without_key()));
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut sending).await.is_err());
        assert_eq!(length("send").await, 1);
    }
    assert_eq!(length("send").await, 0);
    if place.kind == Kind::Postgres {
        {
            let mut reacting = pin!(reactions::add(&server.app, &principal, 1, 1, "👍"));
            assert!(tokio::time::timeout(Duration::from_millis(100), &mut reacting).await.is_err());
            assert_eq!(length("change").await, 1);
        }
        assert_eq!(length("change").await, 0);
    }
});

both!(a_server_without_certificates_serves_everything_but_webhooks, async |place| {
    let certificates = place.folder.path().join("no-certificates.pem");
    std::fs::write(&certificates, "").unwrap();
    let environment = vec![("SSL_CERT_FILE", certificates.display().to_string()), ("SSL_CERT_DIR", String::new())];
    let server = Process::start_wrapped(place, Wrapping { environment, ..Wrapping::default() }).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let target = |path: &str| format!("http://{}{path}", server.address);
    let post = async |path: &str, body: Value| answer_of(client.post(target(path)).json(&body)).await;
    let hook = json!({"url": "https://example.org/hook", "event_types": ["message.created"]});
    assert_eq!(post("/api/webhooks", hook).await.status, 201);
    let complaints = || server.log().matches("webhooks are not delivered").count();
    wait_until("nothing is logged", async || complaints() > 0).await;
    let new = json!({"sender_user_name": "bugs", "recipient_user_name": "duck", "body": "all the same"});
    assert_eq!(post("/api/messages", new).await.status, 201);
    let begun = Instant::now();
    while begun.elapsed() < SEVERAL_INTERVALS {
        let ready: Answer = answer_of(client.get(target("/readyz"))).await;
        assert_eq!(ready.status, 200);
        tokio::time::sleep(PUBLISH_INTERVAL).await;
    }
    // The failure was logged once, and the task was not restarted.
    assert_eq!(complaints(), 1, "{}", server.log());
    let metrics = String::from_utf8(answer_of(client.get(target("/metrics"))).await.bytes).unwrap();
    assert!(metrics.contains("posthaste_task_restarts_total{task=\"webhooks\"} 0"), "{metrics}");
    server.terminate().await;
});
