//! Two nodes on one database, and the faults that happen to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use posthaste::base::ids::Rng;

use super::World;
use crate::faults::proxy::{Flow, Proxy};
use crate::support::cluster::Cluster;
use crate::support::nats::NatsServer;
use crate::support::place::{Kind, Place};
use crate::support::process::{Process, Wrapping};
use crate::support::random;

const NODES: usize = 2;
/// The longest time between two faults.
const BETWEEN_MS: u64 = 1_000;
/// The longest time that a temporary fault lasts.
const LASTS_MS: u64 = 2_500;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGSTOP and SIGCONT.
    Pause,
    /// All connections of a node to the database break.
    Cut,
    /// For some time nothing passes between a node and the database, not even over new connections.
    Stall,
    /// The open connections of a node to the database go silent. New connections work.
    HalfOpen,
    /// An administrator terminates backends.
    Terminate,
    /// The database is stopped as in a crash and started again.
    DatabaseOutage,
    BusOutage,
}

const EVERYWHERE: &[Fault] = &[Fault::Kill, Fault::Pause];
const ON_POSTGRES: &[Fault] =
    &[Fault::Kill, Fault::Pause, Fault::Cut, Fault::Stall, Fault::HalfOpen, Fault::Terminate, Fault::Terminate];

/// A node, and the proxy between it and PostgreSQL.
struct Node {
    process: Process,
    proxy: Option<Proxy>,
}

pub struct Injector<'a> {
    place: &'a Place,
    nodes: Vec<Node>,
    cluster: Option<Cluster>,
    nats: Option<NatsServer>,
    rng: Rng,
}

impl<'a> Injector<'a> {
    pub async fn start(place: &'a Place, cluster: Option<Cluster>, nats: Option<NatsServer>, rng: Rng) -> Self {
        let mut injector = Self { place, nodes: Vec::new(), cluster, nats, rng };
        for _ in 0..NODES {
            let proxy = match place.kind {
                Kind::Sqlite => None,
                Kind::Postgres => Some(Proxy::start(&place.postgres_url()).await),
            };
            let process = injector.start_process(proxy.as_ref()).await;
            injector.nodes.push(Node { process, proxy });
        }
        injector
    }

    async fn start_process(&self, proxy: Option<&Proxy>) -> Process {
        let database_url = proxy.map(|proxy| proxy.url(&self.place.postgres_url()));
        let arguments = match &self.nats {
            Some(nats) => ["--bus", "nats", "--nats-url", &nats.url()].map(str::to_owned).into(),
            None => Vec::new(),
        };
        Process::start_wrapped(self.place, Wrapping { database_url, arguments, ..Wrapping::default() }).await
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.process.address).collect()
    }

    /// Makes faults happen for some time. Returns how many of each.
    pub async fn inject(&mut self, world: &World, during: Duration) -> BTreeMap<String, usize> {
        let mut kinds = if self.place.kind == Kind::Postgres { ON_POSTGRES } else { EVERYWHERE }.to_vec();
        if self.cluster.is_some() {
            kinds.extend([Fault::DatabaseOutage, Fault::BusOutage]);
        }
        let (begun, mut counts) = (Instant::now(), BTreeMap::new());
        while begun.elapsed() < during {
            tokio::time::sleep(Duration::from_millis(random(&self.rng, BETWEEN_MS))).await;
            let fault = kinds[random(&self.rng, kinds.len() as u64) as usize];
            let node = random(&self.rng, NODES as u64) as usize;
            self.happen(world, fault, node).await;
            *counts.entry(format!("{fault:?}")).or_insert(0) += 1;
        }
        counts
    }

    async fn happen(&mut self, world: &World, fault: Fault, at: usize) {
        let lasts = Duration::from_millis(random(&self.rng, LASTS_MS));
        match fault {
            Fault::Kill => {
                let process = self.start_process(self.nodes[at].proxy.as_ref());
                // Clients continue to use the address of the killed node until the new process has an address.
                let old = self.nodes[at].process.id();
                crate::support::process::signal("KILL", old.expect("the server must be running"));
                let process = process.await;
                world.nodes.lock().unwrap()[at] = process.address;
                self.nodes[at].process = process;
            }
            Fault::Pause => {
                self.nodes[at].process.pause();
                tokio::time::sleep(lasts).await;
                self.nodes[at].process.resume();
            }
            Fault::Cut | Fault::HalfOpen | Fault::Stall => {
                let proxy = self.nodes[at].proxy.as_ref().expect("this fault needs a proxy");
                match fault {
                    Fault::Cut => proxy.set_existing(Flow::Cut),
                    Fault::HalfOpen => proxy.set_existing(Flow::Stall),
                    _ => {
                        proxy.set(Flow::Stall);
                        tokio::time::sleep(lasts).await;
                        proxy.set(Flow::Pass);
                    }
                }
            }
            Fault::Terminate => {
                let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                            WHERE datname = current_database() AND application_name LIKE 'posthaste%'
                              AND random() < 0.3";
                self.place.numbers(sql).await;
            }
            Fault::DatabaseOutage => {
                let cluster = self.cluster.as_mut().expect("this fault needs a cluster of its own");
                cluster.stop_immediately().await;
                tokio::time::sleep(lasts).await;
                cluster.start_again().await;
            }
            Fault::BusOutage => {
                let nats = self.nats.as_mut().expect("this fault needs a bus of its own");
                nats.stop();
                tokio::time::sleep(lasts).await;
                nats.start_again().await;
            }
        }
    }

    pub async fn end(self) {
        for node in self.nodes {
            node.process.terminate().await;
        }
    }
}
