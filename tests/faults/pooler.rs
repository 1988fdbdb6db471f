//! A pooler in transaction mode that does not separate the prepared statements of its clients (PgBouncer before 1.21). When one
//! connection executes a prepared statement by its name, a statement that another connection prepared under this name may run.
//!
//! Promise: a server refuses to start behind such a pooler and says why. If the pooler is put between the server and the
//! database later, every request is refused with 503. No request gets a 500 or a row of another statement.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::proxy::{Flow, Proxy, target_of};
use super::{assert_refused_for_now, assert_unavailable, call};
use crate::messages::messages::assert_dense;
use crate::operations::durability::{Load, assert_kept, repeat_lost};
use crate::support::cluster::{as_os_user, free_port, own};
use crate::support::place::{Kind, cluster_url};
use crate::support::process::{Process, Wrapping, signal, start, wait};
use crate::support::{Place, run};

const END_TIMEOUT: Duration = Duration::from_secs(30);
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the test sends requests through the pooler.
const DURING: Duration = Duration::from_secs(4);

/// PgBouncer in transaction mode, in front of the cluster of the run.
struct Pooler {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Pooler {
    async fn start(place: &Place) -> Self {
        let folder = tempfile::Builder::new().prefix("posthaste-pooler.").tempdir().unwrap();
        let (port, target) = (free_port(), target_of(&cluster_url()));
        let config = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={} port={} user=posthaste\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 200\n\
             ignore_startup_parameters = extra_float_digits,options\nunix_socket_dir =\n",
            target.ip(),
            target.port()
        );
        std::fs::write(&config, text).unwrap();
        own(&folder);
        let open = Command::new("chmod").arg("644").arg(&config).status();
        assert!(open.is_ok_and(|status| status.success()));
        let mut words = as_os_user();
        words.extend([program(), config.display().to_string()]);
        let mut pooler = Self { port, child: start(&words, &folder.path().join("log")), folder };
        let deadline = Instant::now() + START_TIMEOUT;
        let url = pooler.url(place);
        while tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err() {
            let ended = pooler.child.try_wait().unwrap().is_some();
            assert!(!ended && Instant::now() < deadline, "PgBouncer does not answer:\n{}", pooler.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        pooler
    }

    fn url(&self, place: &Place) -> String {
        let target = target_of(&cluster_url()).to_string();
        place.postgres_url().replacen(&target, &format!("127.0.0.1:{}", self.port), 1)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    async fn stop(mut self) {
        signal("INT", self.child.id());
        assert!(wait(&mut self.child, END_TIMEOUT).await.is_some(), "PgBouncer did not stop:\n{}", self.log());
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Debian installs PgBouncer in a folder that is only in root's PATH.
fn program() -> String {
    let known = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
    let found = known.into_iter().find(|path| std::path::Path::new(path).exists());
    found.expect("PgBouncer is needed for this test: run scripts/setup test").to_owned()
}

#[test]
fn a_server_refuses_to_start_behind_a_pooler_that_confuses_statements() {
    run(Kind::Postgres, async |place| {
        let pooler = Pooler::start(place).await;
        // Creates the schema first, so that only the pooler can be the reason of the refused start.
        Process::start(place).await.terminate().await;
        let wrapping = Wrapping { database_url: Some(pooler.url(place)), ..Wrapping::default() };
        let process = Process::spawn(place, wrapping);
        let log = process.log_file();
        let status = process.ended(END_TIMEOUT).await;
        let log = std::fs::read_to_string(log).unwrap();
        println!("{}", log.lines().last().unwrap_or_default());
        assert!(!status.success(), "{log}");
        assert!(log.contains("PgBouncer") && log.contains("1.21"), "{log}");
        pooler.stop().await;
    });
}

#[test]
fn requests_are_refused_for_now_behind_a_pooler_that_is_added_later() {
    run(Kind::Postgres, async |place| {
        let pooler = Pooler::start(place).await;
        let proxy = Proxy::start(&place.postgres_url()).await;
        let database_url = Some(proxy.url(&place.postgres_url()));
        let node = Process::start_wrapped(place, Wrapping { database_url, ..Wrapping::default() }).await;
        let load = Load::start(node.address, "pooled");
        load.accepts_more(100).await;
        proxy.retarget(&pooler.url(place));
        proxy.set_existing(Flow::Cut);
        let begun = Instant::now();
        let mut refused = 0;
        while begun.elapsed() < DURING {
            let answer = call(node.address, "bugs", reqwest::Method::GET, "/api/messages/bugs?order=desc", None).await;
            if answer.status != 200 {
                assert_unavailable(&answer);
                refused += 1;
            }
        }
        proxy.retarget(&cluster_url());
        proxy.set_existing(Flow::Cut);
        load.accepts_more(100).await;
        let mut attempts = load.stop().await;
        println!("{refused} reads and {} sends refused", assert_refused_for_now(&attempts));
        assert!(refused > 0, "no request was refused behind the pooler");
        repeat_lost(node.address, &mut attempts).await;
        assert_kept(place, &attempts).await;
        assert_dense(place).await;
        pooler.stop().await;
    });
}
