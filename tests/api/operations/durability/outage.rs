//! PostgreSQL stops under load and starts again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Load, assert_kept, last_message, repeat_lost};
use crate::messages::messages::assert_dense;
use crate::support::cluster::Cluster;
use crate::support::server::Answer;
use crate::support::watch::Follower;
use crate::support::wire::{Wire, get_request};
use crate::support::{Place, Server, many};

/// The number of outages in a test and in a soak.
const OUTAGES: (usize, usize) = (2, 10);
const REFUSALS: usize = 100;
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(15);

#[test]
fn the_server_survives_an_outage_of_postgres() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start().await;
        let place = Place::in_cluster(&cluster.url()).await;
        let server = Server::start(&place).await;
        let before = last_message(&place).await;
        let follower = Follower::start(server.address).await;
        let load = Load::start(server.address, "outage");
        let outages = many(OUTAGES.0, OUTAGES.1);
        for _ in 0..outages {
            load.accepts_more(100).await;
            let refused = load.refused();
            cluster.stop_immediately().await;
            load.wait_for("sends are refused", |load| load.refused() >= refused + REFUSALS).await;
            get(server.address, "/readyz").await.problem(503, "unavailable");
            assert_eq!(get(server.address, "/healthz").await.status, 200);
            let listed = get(server.address, "/api/messages/bugs").await;
            listed.problem(503, "unavailable");
            assert!(listed.header("retry-after").is_some());
            cluster.start_again().await;
            wait_until_ready(server.address).await;
        }
        load.accepts_more(100).await;
        let mut attempts = load.stop().await;
        for answer in attempts.iter().filter_map(|attempt| attempt.refused()) {
            answer.problem(503, "unavailable");
            assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
        }
        let repeated = repeat_lost(server.address, &mut attempts).await;
        assert_kept(&place, &attempts).await;
        assert_dense(&place).await;
        follower.assert_delivered(&place, before).await;
        println!("{} sends over {outages} outages, {repeated} repeated with their keys", attempts.len());
        server.stop().await;
    });
}

async fn get(address: SocketAddr, target: &str) -> Answer {
    Wire::connect(address).await.unwrap().exchange(&get_request(target)).await.unwrap()
}

async fn wait_until_ready(address: SocketAddr) {
    let deadline = Instant::now() + RECOVERY_TIMEOUT;
    while get(address, "/readyz").await.status != 200 {
        assert!(Instant::now() < deadline, "the server does not reconnect to its database");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
