//! Failover: the primary fails, and its standby is promoted.
//!
//! Promise: writes work again within 5 s after the promotion. The URL may name both servers, or an address that moves to the
//! new primary. The promise also holds if the old primary comes back as a standby while a node is connected to it. With
//! synchronous replication no acknowledged write is lost. `/readyz` is 503 while nothing can be written.

use std::time::{Duration, Instant};

use super::assert_refused_for_now;
use super::proxy::{Flow, Proxy, target_of};
use super::samples::readiness;
use crate::messages::messages::assert_dense;
use crate::operations::durability::{Load, assert_kept, repeat_lost};
use crate::support::Place;
use crate::support::cluster::Cluster;
use crate::support::place::connect;
use crate::support::process::{Process, Wrapping};

/// The longest time from the promotion until sends work again. It is longer than the promised 5 s, because the machine also
/// runs other tests.
const RECOVERY_LIMIT: Duration = Duration::from_secs(8);
/// How long the test leaves the node without a PostgreSQL server that accepts writes.
const OUTAGE: Duration = Duration::from_secs(4);

/// A primary whose commits wait for its standby, and a database on the primary.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    place: Place,
}

impl Pair {
    async fn start() -> Self {
        let primary = Cluster::start().await;
        let standby = primary.standby().await;
        let administrator = connect(&primary.url()).await;
        let settings = "ALTER SYSTEM SET synchronous_standby_names = '*'";
        administrator.batch_execute(settings).await.unwrap();
        administrator.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let place = Place::in_cluster(&primary.url()).await;
        Self { primary, standby, place }
    }

    /// Promotes the standby and uses its database from now on. Returns the time of the promotion.
    async fn promote(&mut self) -> Instant {
        let promoted = connect(&self.standby.url()).await;
        let row = promoted.query_one("SELECT pg_promote(true, 30)", &[]).await.unwrap();
        assert!(row.get::<_, bool>(0), "the standby was not promoted");
        self.place.move_to(&self.standby.url());
        Instant::now()
    }
}

fn run(test: impl AsyncFnOnce(Pair)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { test(Pair::start().await).await });
}

async fn start(place: &Place, url: String) -> Process {
    Process::start_wrapped(place, Wrapping { database_url: Some(url), ..Wrapping::default() }).await
}

/// Waits until sends work again after the promotion, and asserts the promise.
async fn assert_recovered(pair: &Pair, node: &Process, load: Load, promoted: Instant) {
    load.accepts_more(100).await;
    let recovery = promoted.elapsed();
    let mut attempts = load.stop().await;
    let refused = assert_refused_for_now(&attempts);
    println!("sends again {recovery:?} after the promotion, {refused} of {} refused", attempts.len());
    assert!(recovery < RECOVERY_LIMIT, "{recovery:?}");
    repeat_lost(node.address, &mut attempts).await;
    assert_kept(&pair.place, &attempts).await;
    assert_dense(&pair.place).await;
}

#[test]
fn a_node_follows_an_address_that_moves_to_the_promoted_standby() {
    run(async |mut pair| {
        let proxy = Proxy::start(&pair.primary.url()).await;
        let node = start(&pair.place, proxy.url(&pair.place.postgres_url())).await;
        let load = Load::start(node.address, "moves");
        load.accepts_more(100).await;
        pair.primary.stop_immediately().await;
        tokio::time::sleep(OUTAGE).await;
        let promoted = pair.promote().await;
        proxy.retarget(&pair.standby.url());
        assert_recovered(&pair, &node, load, promoted).await;
    });
}

#[test]
fn a_primary_that_comes_back_as_a_standby_does_not_keep_the_node() {
    run(async |mut pair| {
        let proxy = Proxy::start(&pair.primary.url()).await;
        let node = start(&pair.place, proxy.url(&pair.place.postgres_url())).await;
        let load = Load::start(node.address, "comes back");
        load.accepts_more(100).await;
        pair.primary.stop_immediately().await;
        pair.primary.make_standby();
        pair.primary.start_again().await;
        let ready = readiness(node.address);
        let refused = load.refused();
        load.wait_for("sends are refused", |load| load.refused() > refused + 10).await;
        tokio::time::sleep(OUTAGE).await;
        let samples = ready.end().await;
        let promoted = pair.promote().await;
        proxy.retarget(&pair.standby.url());
        assert_recovered(&pair, &node, load, promoted).await;
        let last = samples.last().unwrap().1;
        println!("/readyz is {last} while the server has only a standby");
        assert_eq!(last, 503, "/readyz reports ready while nothing can be written");
    });
}

#[test]
fn a_url_with_both_servers_finds_the_promoted_one() {
    run(async |mut pair| {
        let (one, other) = (target_of(&pair.primary.url()), target_of(&pair.standby.url()));
        let both = pair.place.postgres_url().replacen(&one.to_string(), &format!("{other},{one}"), 1);
        let node = start(&pair.place, format!("{both}&target_session_attrs=read-write")).await;
        let load = Load::start(node.address, "both");
        load.accepts_more(100).await;
        pair.primary.stop_immediately().await;
        tokio::time::sleep(OUTAGE).await;
        let promoted = pair.promote().await;
        assert_recovered(&pair, &node, load, promoted).await;
    });
}

#[test]
fn a_node_follows_an_address_whose_old_primary_is_silent() {
    run(async |mut pair| {
        let proxy = Proxy::start(&pair.primary.url()).await;
        let node = start(&pair.place, proxy.url(&pair.place.postgres_url())).await;
        let load = Load::start(node.address, "silent");
        load.accepts_more(100).await;
        // Simulates that the machine of the primary loses power: its connections stay open and carry nothing.
        proxy.set_existing(Flow::Stall);
        proxy.set_new(Flow::Stall);
        pair.primary.stop_immediately().await;
        tokio::time::sleep(OUTAGE).await;
        let promoted = pair.promote().await;
        proxy.retarget(&pair.standby.url());
        proxy.set_new(Flow::Pass);
        load.accepts_more(100).await;
        // A node notices a dead connection only because it stays silent for some time. An error would be noticed sooner.
        let recovery = promoted.elapsed();
        println!("sends again {recovery:?} after the promotion");
        assert!(recovery < RECOVERY_LIMIT + Duration::from_secs(10), "{recovery:?}");
        let mut attempts = load.stop().await;
        assert_refused_for_now(&attempts);
        repeat_lost(node.address, &mut attempts).await;
        assert_kept(&pair.place, &attempts).await;
    });
}
