//! Features for operators: health, metrics, documents, commands, upgrades, encrypted connections.

use std::process::{Command, Output};

use posthaste::domain::access::principal::Access;
use reqwest::Method;
use serde_json::Value;

use crate::both;
use crate::messages::messages::assert_dense;
use crate::support::people::put;
use crate::support::place::{Kind, cluster_url, connect};
use crate::support::process::{Process, Wrapping};
use crate::support::{Options, Place, Server, answer_of};

pub fn posthaste(place: &Place, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(arguments)
        .env("POSTHASTE_DATABASE_URL", place.url())
        .env("POSTHASTE_DATA_DIR", place.folder.path())
        .output()
        .unwrap()
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

both!(healthz_and_readyz_answer, async |place| {
    let server = Server::start(place).await;
    assert_eq!(server.get("/healthz").await.json()["status"], "ok");
    assert_eq!(server.get("/readyz").await.json()["status"], "ready");
    server.app.db.close().await;
    assert_eq!(server.get("/healthz").await.status, 200);
    let gone = server.get("/readyz").await;
    gone.problem(503, "unavailable");
    assert!(gone.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    let refused = server.get("/api/users").await;
    refused.problem(503, "unavailable");
    assert!(refused.header("retry-after").is_some());
});

both!(metrics_are_counted_by_route_template, async |place| {
    let server = Server::start(place).await;
    for name in ["bugs", "duck", "nobody-secret"] {
        server.get(&format!("/api/messages/{name}?limit=3")).await;
    }
    server.get("/api/unknown-secret").await;
    server.send("bugs", "duck", "hey").await;
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200);
    let metrics = String::from_utf8(answer.bytes.clone()).unwrap();
    for line in [
        "posthaste_http_requests_total{method=\"GET\",route=\"/api/messages/{user_name}\",status=\"200\"} 2",
        "posthaste_http_requests_total{method=\"GET\",route=\"/api/messages/{user_name}\",status=\"404\"} 1",
        "posthaste_http_requests_total{method=\"POST\",route=\"/api/messages\",status=\"201\"} 1",
        "posthaste_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "posthaste_http_request_duration_seconds_count{route=\"/api/messages\"} 1",
        "posthaste_store_send_batch_size_count 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    for name in [
        "store_commit_duration_seconds_bucket",
        "store_commit_batch_size_bucket",
        "store_queue_length",
        "store_pool_in_use",
        "http_connections",
    ] {
        assert!(metrics.contains(&format!("posthaste_{name}")), "{name}\n{metrics}");
    }
    assert!(!metrics.contains("secret"), "{metrics}");
});

both!(the_document_describes_every_operation, async |place| {
    let server = Server::start(place).await;
    let document = server.get("/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            for status in ["422", "431", "500", "503"] {
                let response = match responses[status]["$ref"].as_str() {
                    Some(target) => document.pointer(target.trim_start_matches('#')).unwrap(),
                    None => &responses[status],
                };
                let content = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(content, "#/components/schemas/Problem", "{method} {path} {status}");
            }
            assert!(operation["operationId"].is_string() && operation["security"].is_array(), "{method} {path}");
        }
    }
    let printed = posthaste(place, &["openapi"]);
    assert!(printed.status.success());
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(printed["paths"].as_object().unwrap().len(), document["paths"].as_object().unwrap().len());
    assert_eq!(printed["components"], document["components"]);
});

both!(the_documentation_page_loads_nothing_from_other_hosts, async |place| {
    let server = Server::start(place).await;
    for (from, to) in [("/docs", "/docs/"), ("/redoc", "/docs/")] {
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let answer = answer_of(client.request(Method::GET, format!("http://{}{from}", server.address))).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (308, Some(to)));
    }
    let page = server.get("/docs/").await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("http"), "{policy}");
    let html = String::from_utf8(page.bytes.clone()).unwrap();
    let mut loaded = 0;
    for attribute in ["src=\"", "href=\""] {
        for target in html.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(!target.contains("//"), "{target}");
            assert_eq!(server.get(&format!("/docs/{}", target.trim_start_matches("./"))).await.status, 200, "{target}");
            loaded += 1;
        }
    }
    assert!(loaded >= 4, "{html}");
    let start = String::from_utf8(server.get("/docs/swagger-initializer.js").await.bytes).unwrap();
    assert!(start.contains("/openapi.json") && !start.contains("https://"), "{start}");
    assert!(html.contains("<title>Posthaste API</title>"), "{html}");
    for setting in ["persistAuthorization", "filter"] {
        assert!(start.contains(&format!("\"{setting}\": true")), "{setting}: {start}");
    }
});

both!(the_doctor_finds_each_kind_of_damage, async |place| {
    let fresh = posthaste(place, &["doctor"]);
    assert!(fresh.status.success(), "{}", text(&fresh));
    let server = Server::start(place).await;
    let id = server.send("bugs", "duck", "one").await["conversation_id"].clone();
    server.send("duck", "bugs", "two").await;
    for person in ["bugs", "duck"] {
        for reaction in ["1/reactions/%F0%9F%91%8D", "1/reactions/%F0%9F%8E%89", "2/reactions/%F0%9F%91%8D"] {
            assert_eq!(put(&server, person, &format!("/api/conversations/{id}/messages/{reaction}")).await.status, 201);
        }
    }
    let first = format!("conversation_id = {id} AND seq = 1");
    drop(server);
    let well = posthaste(place, &["doctor"]);
    assert!(well.status.success(), "{}", text(&well));
    assert!(text(&well).contains("conversations counted; message texts not compared (use --deep)"), "{}", text(&well));
    for (wrong, right) in [("👍 2 🎉 1", "👍 2 🎉 2"), ("👍 2", "👍 2 🎉 2"), ("👍 2 🎉 2 ❤️ 1", "👍 2 🎉 2")]
    {
        let set = |counts| format!("UPDATE messaging.messages SET reaction_counts = '{counts}' WHERE {first}");
        place.sql(&set(wrong)).await;
        let ill = posthaste(place, &["doctor"]);
        assert!(!ill.status.success(), "{wrong}: {}", text(&ill));
        assert!(text(&ill).contains("1 messages disagree with the reactions"), "{wrong}: {}", text(&ill));
        place.sql(&set(right)).await;
    }
    place.sql(&format!("UPDATE messaging.messages SET reaction_counts = NULL WHERE {first}")).await;
    assert!(!posthaste(place, &["doctor"]).status.success(), "the doctor misses reactions that are not counted");
    place.sql(&format!("DELETE FROM messaging.reactions WHERE {first}")).await;
    assert!(
        posthaste(place, &["doctor"]).status.success(),
        "the doctor reports a message without reactions and counts"
    );
    place.sql(&format!("UPDATE messaging.messages SET reaction_counts = '👍 2' WHERE {first}")).await;
    assert!(!posthaste(place, &["doctor"]).status.success(), "the doctor misses counts without reactions");
    place.sql(&format!("UPDATE messaging.messages SET reaction_counts = NULL WHERE {first}")).await;
    place.sql("UPDATE messaging.conversations SET last_seq = 99 WHERE id = 1").await;
    let ill = posthaste(place, &["doctor"]);
    assert!(!ill.status.success(), "{}", text(&ill));
    assert!(text(&ill).contains("1 conversations disagree"), "{}", text(&ill));
    assert!(!text(&ill).contains("posthaste@"), "the output shows the user of the database URL: {}", text(&ill));
});

both!(a_newer_or_changed_schema_is_refused, async |place| {
    Server::start(place).await.stop().await;
    place.sql("INSERT INTO messaging.schema_migrations (version, name, checksum, applied_at) SELECT 999, 'future', 'x', applied_at FROM messaging.schema_migrations WHERE version = 1").await;
    let refused = posthaste(place, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(!refused.status.success());
    assert!(text(&refused).contains("schema version 999") && text(&refused).contains("newer"), "{}", text(&refused));
    place.sql("DELETE FROM messaging.schema_migrations WHERE version = 999; UPDATE messaging.schema_migrations SET checksum = 'y'").await;
    let refused = posthaste(place, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(!refused.status.success() && text(&refused).contains("changed build"), "{}", text(&refused));
});

both!(tables_of_other_programs_are_left_alone, async |place| {
    match place.kind {
        Kind::Sqlite => place.sql("CREATE TABLE theirs (x)").await,
        Kind::Postgres => place.sql("CREATE SCHEMA messaging; CREATE TABLE messaging.users (x int)").await,
    }
    let refused = posthaste(place, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(
        !refused.status.success() && text(&refused).contains("neither Posthaste's nor the seed's"),
        "{}",
        text(&refused)
    );
});

both!(open_access_stays_on_loopback, async |place| {
    for flag in ["--open", "--demo"] {
        let refused = posthaste(place, &["serve", flag, "--listen", "0.0.0.0:0"]);
        assert!(!refused.status.success() && text(&refused).contains("--allow-open-anywhere"), "{}", text(&refused));
    }
});

both!(a_second_start_keeps_everything_and_writes_no_demo, async |place| {
    let server = Server::start(place).await;
    server.send("bugs", "duck", "kept").await;
    server.stop().await;
    let server = Server::start_with(place, Options { access: Access::Open, ..Options::default() }).await;
    assert_eq!(server.all("/api/messages/duck").await.len(), 2);
    assert_eq!(server.all("/api/users").await.len(), 4);
    assert_eq!(place.numbers("SELECT count(*), max(id) FROM messaging.users").await, [[4, 4]]);
    assert_dense(place).await;
});

/// The seed's data model, copied from the seed's own document.
const SEED_DDL: &str = "
    CREATE SCHEMA messaging;
    CREATE SEQUENCE messaging.messaging_sequence AS integer;
    CREATE TABLE messaging.users (
        id serial PRIMARY KEY, first_name varchar(32), last_name varchar(32), user_name varchar(32) UNIQUE,
        email varchar(254) UNIQUE, mfa BOOLEAN NOT NULL, created_at TIMESTAMP, modified_at TIMESTAMP);
    CREATE INDEX user_name_idx ON messaging.users (user_name);
    CREATE TABLE messaging.messages (
        id integer DEFAULT nextval('messaging.messaging_sequence'::regclass) NOT NULL,
        sender_id INT NOT NULL, recipient_id INT NOT NULL, body text NOT NULL, created_at TIMESTAMP,
        timestamp_sent TIMESTAMP, timestamp_delivered TIMESTAMP, timestamp_read TIMESTAMP,
        FOREIGN KEY (sender_id) REFERENCES messaging.users (id),
        FOREIGN KEY (recipient_id) REFERENCES messaging.users (id));
    ALTER SEQUENCE messaging.messaging_sequence OWNED BY messaging.messages.id;
    INSERT INTO messaging.users (first_name, last_name, user_name, email, mfa, created_at, modified_at) VALUES
        ('Rebecca', 'DiBari', 'rdibari', 'R@example.org', false, '2026-11-01 08:00', '2026-11-02 08:00'),
        ('Bugs', 'Bunny', 'bugs', 'bugs@example.org', true, '2026-11-01 08:00:00.123456', NULL),
        (NULL, NULL, 'BUGS', 'r@example.org', false, NULL, NULL),
        ('No', 'Name', NULL, NULL, false, NULL, NULL),
        ('With', 'Spaces', 'with spaces', NULL, false, NULL, NULL);
    INSERT INTO messaging.messages (sender_id, recipient_id, body, created_at, timestamp_sent, timestamp_read) VALUES
        (1, 2, 'second', now() at time zone 'utc', now() at time zone 'utc' - interval '1 hour', NULL),
        (2, 1, 'first', NULL, now() at time zone 'utc' - interval '2 hours', now() at time zone 'utc'),
        (1, 2, 'it''s third', now() at time zone 'utc', now() at time zone 'utc' - interval '1 hour', NULL),
        (5, 5, 'to myself', now() at time zone 'utc' - interval '40 days', NULL, NULL),
        (3, 4, 'without times', NULL, NULL, NULL);";

#[test]
fn a_database_of_the_seed_is_upgraded_in_place() {
    crate::support::run(Kind::Postgres, async |place: &Place| {
        place.sql(SEED_DDL).await;
        let server = Server::start_with(place, Options { demo: false, ..Options::default() }).await;
        let users = server.all("/api/users").await;
        let names: Vec<_> = users.iter().map(|user| user["user_name"].as_str().unwrap()).collect();
        assert_eq!(names, ["rdibari", "bugs", "BUGS-3", "-4", "with spaces"]);
        assert_eq!(users[0]["created_at"], "2026-11-01T08:00:00.000000Z");
        assert_eq!(users[0]["modified_at"], "2026-11-02T08:00:00.000000Z");
        assert_eq!(users[1]["created_at"], "2026-11-01T08:00:00.123456Z");
        // No user of the seed's database has a second factor, so `mfa` is false for all of them.
        assert_eq!(users[1]["mfa"], false);
        assert_eq!(users[2]["email"], "r@example.org");
        assert_eq!(users[2]["first_name"], "");
        let messages = server.all("/api/messages/bugs").await;
        let bodies: Vec<_> = messages.iter().map(|message| message["body"].as_str().unwrap()).collect();
        assert_eq!(bodies, ["first", "second", "it's third"]);
        assert_eq!(messages.iter().map(|message| message["seq"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(messages[0]["timestamp_read"].is_string() && messages[1]["timestamp_read"].is_null());
        assert_eq!(server.all("/api/messages/with%20spaces?days=60").await.len(), 1);
        assert_eq!(server.all("/api/messages/BUGS-3").await[0]["body"], "without times");
        assert_eq!(place.numbers("SELECT count(*) FROM messaging.messages").await, [[5]]);
        // The numbers continue after those of the seed.
        let sent = server.send("rdibari", "bugs", "fourth").await;
        assert_eq!(
            (sent["id"].as_i64(), sent["seq"].as_i64(), sent["conversation_id"].clone()),
            (Some(6), Some(4), messages[0]["conversation_id"].clone())
        );
        server.add_user("newcomer", "", "").await;
        assert_eq!(server.get("/api/users/newcomer").await.json()["id"], 6);
        assert_eq!(server.send("newcomer", "bugs", "hello").await["seq"], 1);
        server.stop().await;
        assert_eq!(
            Server::start_with(place, Options { demo: false, ..Options::default() })
                .await
                .all("/api/messages/bugs")
                .await
                .len(),
            5
        );
    });
}

#[test]
fn an_empty_database_of_the_seed_is_upgraded_too() {
    crate::support::run(Kind::Postgres, async |place: &Place| {
        place.sql(SEED_DDL.split("INSERT INTO").next().unwrap()).await;
        let server = Server::start(place).await;
        assert_eq!(server.all("/api/users").await.len(), 4);
        assert_eq!(server.send("bugs", "duck", "hey").await["id"], 5);
    });
}

#[test]
fn psql_finds_the_tables_and_columns_of_the_seed() {
    crate::support::run(Kind::Postgres, async |place: &Place| {
        let server = Server::start(place).await;
        server.send("bugs", "duck", "hey").await;
        let client = place.postgres().await;
        let rows = client
            .query(
                "SELECT m.id, m.sender_id, m.recipient_id, m.body, m.created_at::text, m.timestamp_sent::text,
                        m.timestamp_delivered::text, m.timestamp_read::text, u.first_name, u.last_name, u.email, u.mfa,
                        u.modified_at::text
                   FROM messaging.messages m JOIN messaging.users u ON u.id = m.sender_id WHERE u.user_name = 'bugs'",
                &[],
            )
            .await
            .unwrap();
        assert_eq!(rows.len(), 2);
        client.query_one("SELECT last_value FROM messaging.messaging_sequence", &[]).await.unwrap();
    });
}

#[test]
fn postgresql_is_reached_over_tls() {
    crate::support::run(Kind::Postgres, async |place: &Place| {
        let authority =
            std::env::var("POSTHASTE_TEST_POSTGRES_CA").expect("scripts/with-postgres names the cluster's certificate");
        let by_name = place.postgres_url().replace("127.0.0.1", "localhost");
        let encrypted = async |url: &str, mode: &str, root: Option<&str>| {
            let mut url = url
                .replace("sslmode=disable", &format!("sslmode={mode}&application_name=tls_{}", mode.replace('-', "_")));
            if let Some(root) = root {
                url = format!("{url}&sslrootcert={root}");
            }
            let location = posthaste::store::driver::environment::Location::parse(&url).unwrap();
            let environment =
                posthaste::store::driver::environment::Environment::new(posthaste::base::time::Clock::System);
            let db = posthaste::store::db::Db::open(&location, environment).await.map_err(|error| error.to_string())?;
            let asked = db.read((), |conn, ()| {
                Box::pin(async move {
                    conn.one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[], |row| row.bool(0)).await
                })
            });
            asked.await.map_err(|error| error.to_string())
        };
        assert_eq!(encrypted(&by_name, "disable", None).await, Ok(false));
        assert_eq!(encrypted(&by_name, "prefer", None).await, Ok(true));
        assert_eq!(encrypted(&by_name, "require", None).await, Ok(true));
        assert_eq!(encrypted(&by_name, "verify-full", Some(&authority)).await, Ok(true));
        assert_eq!(encrypted(&by_name, "verify-ca", Some(&authority)).await, Ok(true));
        // The certificate is for localhost. For another host name only the certificate chain is valid, so `verify-ca` accepts
        // it and `verify-full` does not.
        let by_other_name = by_name.replace("@localhost", "@elsewhere.example").replace("?", "?hostaddr=127.0.0.1&");
        assert_eq!(encrypted(&by_other_name, "verify-ca", Some(&authority)).await, Ok(true));
        assert!(encrypted(&by_other_name, "verify-full", Some(&authority)).await.is_err());
        // Uses a root certificate that has not signed the server's certificate.
        let stranger = place.folder.path().join("stranger.pem");
        std::fs::write(&stranger, rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem())
            .unwrap();
        for mode in ["verify-ca", "verify-full", "require"] {
            assert!(encrypted(&by_name, mode, stranger.to_str()).await.is_err(), "{mode}");
        }
        assert!(encrypted(&by_name, "nonsense", None).await.is_err());
        connect(&cluster_url()).await;
    });
}

/// As libpq does: `%` and two digits stand for a byte, and `+` stands for itself.
#[test]
fn parameters_of_a_postgresql_url_are_percent_decoded() {
    crate::support::run(Kind::Postgres, async |place: &Place| {
        let with = |more: &str| format!("{}&{more}", place.postgres_url());
        let url = with("application_name=a%20b%2Bc+d&options=-c%20statement_timeout%3D50s%20-c%20lock_timeout=49s");
        let process =
            Process::start_wrapped(place, Wrapping { database_url: Some(url.clone()), ..Wrapping::default() });
        let process = process.await;
        let named =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'a b+c+d' AND datname = current_database()";
        assert!(place.numbers(named).await[0][0] > 0, "{}", process.log());
        process.terminate().await;
        let file = place.folder.path().join("copy").display().to_string();
        let run = |url: &str, arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
            let output = command
                .args(arguments)
                .env("POSTHASTE_DATABASE_URL", url)
                .env("POSTHASTE_DATA_DIR", place.folder.path())
                .output()
                .unwrap();
            (output.status.success(), text(&output))
        };
        for arguments in [
            &["doctor"][..],
            &["backup", &file],
            &["restore", "--yes", &file],
            &["api-key", "create", "--name", "x"],
            &["api-key", "list"],
        ] {
            let (succeeded, output) = run(&url, arguments);
            assert!(succeeded, "{arguments:?}: {output}");
        }
        // The options reach PostgreSQL: with this one it accepts no writes.
        let read_only = with("options=-c%20default_transaction_read_only%3Don");
        let (succeeded, output) = run(&read_only, &["api-key", "create", "--name", "y"]);
        assert!(!succeeded && output.contains("read-only"), "{output}");
        // A plus is not a space, so PostgreSQL refuses these options.
        let plus = with("options=-c+statement_timeout=5s");
        assert!(!run(&plus, &["api-key", "list"]).0);
    });
}

#[test]
fn the_version_has_a_commit_and_a_build_date() {
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste")).arg("--version").output().unwrap();
    assert!(output.status.success());
    let line = String::from_utf8(output.stdout).unwrap();
    let start = concat!("posthaste ", env!("CARGO_PKG_VERSION"), " (commit ");
    let (commit, date) = line.strip_prefix(start).unwrap().strip_suffix(")\n").unwrap().split_once(", built ").unwrap();
    let is_hash = commit.len() >= 12 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    // A debug build does not contain the commit, because each new commit would then compile everything again.
    let is_debug = cfg!(debug_assertions) && commit == "debug build";
    assert!(is_debug || commit == "unknown" || is_hash, "{line}");
    let shape: String =
        date.chars().map(|character| if character.is_ascii_digit() { '0' } else { character }).collect();
    assert_eq!(shape, "0000-00-00", "{line}");
}

#[test]
fn options_come_from_the_command_line_the_environment_and_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("posthaste.toml");
    let run = |text: &str, arguments: &[&str], listen: Option<&str>| {
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.arg("serve").args(arguments).args(["--config", file.to_str().unwrap()]);
        if let Some(listen) = listen {
            command.env("POSTHASTE_LISTEN", listen);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success());
        text_of(&output)
    };
    fn text_of(output: &Output) -> String {
        self::text(output)
    }
    // Each of these starts fails before the server opens anything, and the error names the invalid value.
    assert!(run("open = true\nlisten = \"0.0.0.0:1\"", &[], None).contains("0.0.0.0:1"));
    assert!(run("open = true\nlisten = \"0.0.0.0:1\"", &[], Some("0.0.0.0:2")).contains("0.0.0.0:2"));
    assert!(
        run("open = true\nlisten = \"0.0.0.0:1\"", &["--listen", "0.0.0.0:3"], Some("0.0.0.0:2")).contains("0.0.0.0:3")
    );
    assert!(run("lisen = \"0.0.0.0:1\"", &[], None).contains("unknown field `lisen`"));
    assert!(run("database_url = \"mysql://x:secret@y\"", &[], None).contains("must begin with sqlite: or postgres://"));
    assert!(!run("database_url = \"mysql://x:secret@y\"", &[], None).contains("secret"));
    assert!(run("", &["--cors-origin", "nonsense"], None).contains("nonsense is not an origin"));
    assert!(run("", &["--rate-limits", "maybe"], None).contains("maybe"));
    for url in ["nats://caf%E9:secret@one", "nats://x:secret%FF@one", "nats://caf%E9@one"] {
        let output = run("", &["--bus", "nats", "--nats-url", url], None);
        assert!(output.contains("not UTF-8") && !output.contains("secret"), "{output}");
    }
    std::fs::write(&file, b"jwt_issuer = \"caf\xe9\"").unwrap();
    let invalid =
        Command::new(env!("CARGO_BIN_EXE_posthaste")).args(["serve", "--config"]).arg(&file).output().unwrap();
    assert!(!invalid.status.success() && text_of(&invalid).contains("UTF-8"), "{}", text_of(&invalid));
    let bytes = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"caf\xe9");
    let invalid = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        let folder: &std::ffi::OsStr = folder.path().as_ref();
        let output = command.args(arguments).env("POSTHASTE_DATA_DIR", folder).env(name, bytes).output().unwrap();
        assert!(!output.status.success());
        text_of(&output)
    };
    assert!(invalid("POSTHASTE_JWT_ISSUER", &["serve"]).contains("UTF-8"));
    let secret = invalid("AWS_SECRET_ACCESS_KEY", &["serve", "--blob-url", "s3://bucket?endpoint=http://127.0.0.1:1"]);
    assert!(secret.contains("AWS_SECRET_ACCESS_KEY in the environment is not UTF-8"), "{secret}");
    let help = Command::new(env!("CARGO_BIN_EXE_posthaste")).args(["serve", "--help"]).output().unwrap();
    for option in [
        "--listen",
        "--data-dir",
        "--database-url",
        "--config",
        "--demo",
        "--open",
        "--rate-limits",
        "POSTHASTE_LISTEN",
    ] {
        assert!(text(&help).contains(option), "{option}");
    }
}
