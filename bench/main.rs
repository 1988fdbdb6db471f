//! trial
mod client;
mod data;
mod limits;
mod postgres;
mod process;
mod server;
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
use std::sync::Arc;
use std::time::{Duration, Instant};
fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    if a.first().is_some_and(|x| x == limits::ROLE) {
        if let Err(e) = limits::run(&a[1..]) {
            eprintln!("{e}");
            std::process::exit(1);
        }
        return;
    }
    if let Err(e) = go(&a) {
        eprintln!("ERR {e}");
        std::process::exit(1)
    }
}
fn go(a: &[String]) -> process::Outcome<()> {
    process::watch_for_interrupt()?;
    let folder = process::ScratchFolder::create()?;
    match a[0].as_str() {
        "bytes" => {
            let page = client::Page {
                status: 200,
                content_type: "application/json".into(),
                body: vec![b'x'; a[1].parse().unwrap()],
            };
            let l = limits::Limit::same_bytes(folder.path(), &page)?;
            let reqs = (1..=1000)
                .map(|u| {
                    client::Request::get(
                        l.address,
                        &format!("/api/messages/{}?limit=50&order=desc", data::user_name(u)),
                    )
                })
                .collect();
            let load = client::Load {
                address: l.address,
                requests: Arc::new(reqs),
                expected_status: 200,
                warm_up: Duration::from_secs(1),
                duration: Duration::from_secs(5),
            };
            for _ in 0..3 {
                let m = load.run()?;
                println!("{} {} {}", m.rate, m.p50_us, m.p99_us);
            }
        }
        "group" => {
            let db = std::path::Path::new(&a[1]);
            let t = Instant::now();
            data::fill_sqlite(db, a[2].parse().unwrap())?;
            println!("fill {:?} {}", t.elapsed(), std::fs::metadata(db).unwrap().len());
            let l = limits::Limit::group_commit(folder.path(), db)?;
            let mut r = data::Random::fixed(1);
            let reqs = data::busy_conversations()
                .map(|c| {
                    let (s, t) = data::members(c);
                    client::Request::post(
                        l.address,
                        "/api/messages",
                        &format!(
                            "{{\"sender_user_name\":\"{}\",\"recipient_user_name\":\"{}\",\"body\":\"{}\"}}",
                            data::user_name(s),
                            data::user_name(t),
                            data::body(&mut r)
                        ),
                        a.len() > 3,
                    )
                })
                .collect();
            let load = client::Load {
                address: l.address,
                requests: Arc::new(reqs),
                expected_status: 201,
                warm_up: Duration::from_secs(1),
                duration: Duration::from_secs(5),
            };
            for _ in 0..3 {
                let m = load.run()?;
                println!("{} {} {}", m.rate, m.p50_us, m.p99_us);
            }
        }
        "pg" => {
            let c = postgres::Cluster::start(folder.path())?;
            println!("{} {}", c.url(), c.version()?);
            c.execute("CREATE SCHEMA messaging; CREATE SEQUENCE messaging.messaging_sequence")?;
            c.execute(&std::fs::read_to_string("/work/main/migrations/0001_initial.sql").unwrap())?;
            let t = Instant::now();
            c.fill(a[1].parse().unwrap())?;
            println!("fill {:?}", t.elapsed());
            std::thread::sleep(Duration::from_secs(a[2].parse().unwrap()));
        }
        _ => {}
    }
    Ok(())
}
