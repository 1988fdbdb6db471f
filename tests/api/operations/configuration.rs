//! The options of a server: their forms, and what is said about wrong ones before a server starts and when it starts.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use super::commands::with_variables;
use super::operations::text;
use crate::both;
use crate::support::Place;
use crate::support::process::{Process, Wrapping};

fn check(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    with_variables(place, &[&["config", "check"], arguments].concat(), variables)
}

/// Arguments, variables, and a part of the sentence with which `serve` refuses them.
type Refused = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str);

const REFUSED: &[Refused] = &[
    (&["--jwt-jwks", "keys.json"], &[], "--jwt-issuer"),
    (&[], &[("POSTHASTE_JWT_ISSUER", "me")], "--jwt-issuer has no effect"),
    (&["--jwt-hs256-secret-file", "absent", "--jwt-issuer", "a", "--jwt-audience", "b"], &[], "absent"),
    (&[], &[("POSTHASTE_LOG", "")], "the variable POSTHASTE_LOG is empty"),
    (&[], &[("POSTHASTE_LISTEN", "")], "the variable POSTHASTE_LISTEN is empty"),
    (&["--log", "verbose"], &[], "\"verbose\" is no level"),
    (&["--log", ""], &[], "--log is empty"),
    (&["--smtp-url", "smtp://localhost"], &[], "--mail-from"),
    (&["--smtp-url", "nonsense", "--mail-from", "a@example.org"], &[], "smtp"),
    (&["--bus", "nats"], &[], "--nats-url"),
    (&["--open", "--listen", "0.0.0.0:8000"], &[], "--allow-open-anywhere"),
    (&["--metrics-listen", "127.0.0.1:8000"], &[], "--metrics-listen are both"),
    (&["--trusted-proxies", "0.0.0.0/0"], &[], "--trusted-proxies"),
    (&["--public-url", "chat.example.org"], &[], "--public-url"),
];

both!(the_checks_find_what_serve_refuses, async |place| {
    for command in [&["config", "check"][..], &["doctor"], &["serve"]] {
        for (arguments, variables, sentence) in REFUSED {
            let refused = with_variables(place, &[command, *arguments].concat(), variables);
            let said = text(&refused);
            assert_eq!(refused.status.code(), Some(1), "{command:?} {arguments:?} {variables:?}: {said}");
            assert!(said.contains(sentence), "{command:?} {arguments:?} {variables:?}: {said}");
        }
        let created = std::fs::read_dir(place.folder.path()).unwrap().count();
        assert!(created == 0 || command == ["serve"], "{command:?} has created files");
    }
    let good = check(place, &["--listen", "localhost:8001"], &[("POSTHASTE_LOG_FORMAT", "json")]);
    assert!(good.status.success() && text(&good).contains("ok    options are valid"), "{}", text(&good));
    assert!(text(&good).contains("127.0.0.1:8001"), "{}", text(&good));
});

both!(errors_of_the_file_name_key_and_line, async |place| {
    let file = place.folder.path().join("posthaste.toml");
    for (content, sentence) in [
        ("listen = \"127.0.0.1:1\"\nlisen = \"x\"", "line 2: unknown field `lisen`; did you mean `listen`?"),
        ("\ndemo = \"perhaps\"", "line 2, key demo: "),
        ("smtp_url = \"smtp://user:hunter2@host\"\nmax_file_mib = \"hunter2\"", "line 2, key max_file_mib: "),
        ("event_retention_days = 0", "event_retention_days must be between 1 and 3650"),
        ("log = ", "line 1"),
    ] {
        std::fs::write(&file, content).unwrap();
        for command in [&["config", "check"][..], &["serve"], &["doctor"], &["api-key", "list"]] {
            if command == ["api-key", "list"] && sentence.starts_with("event") {
                continue;
            }
            let refused = with_variables(place, command, &[]);
            let said = text(&refused);
            assert_eq!(refused.status.code(), Some(1), "{command:?} {content}: {said}");
            assert!(said.contains("posthaste.toml") || sentence.starts_with("event"), "{command:?}: {said}");
            assert!(said.contains(sentence) && !said.contains("hunter2"), "{command:?} {content}: {said}");
        }
    }
});

both!(unknown_variables_are_reported, async |place| {
    let variables = [("POSTHASTE_LISTN", "127.0.0.1:1"), ("POSTHASTE_ZZZ", "secret-word")];
    for command in [&["config", "check"][..], &["doctor"]] {
        let checked = with_variables(place, command, &variables);
        let said = text(&checked);
        assert!(checked.status.success(), "{said}");
        assert!(said.contains("note  the variable POSTHASTE_LISTN is unknown"), "{said}");
        assert!(said.contains("did you mean POSTHASTE_LISTEN?") && said.contains("POSTHASTE_ZZZ"), "{said}");
        assert!(!said.contains("secret-word"), "{said}");
    }
    let environment = variables.map(|(name, value)| (name, value.to_owned())).to_vec();
    let server = Process::start_wrapped(place, Wrapping { environment, ..Wrapping::default() }).await;
    let log = server.log();
    let warning = log.lines().find(|line| line.contains("POSTHASTE_LISTN")).unwrap_or_default();
    assert!(warning.contains("WARN") && warning.contains("POSTHASTE_LISTEN"), "{log}");
    assert!(!log.contains("secret-word") && !log.contains("POSTHASTE_TEST"), "{log}");
    server.terminate().await;
});

both!(switches_and_addresses_have_the_usual_forms, async |place| {
    for (word, access) in [
        ("1", "open"),
        ("true", "open"),
        ("YES", "open"),
        ("on", "open"),
        ("0", "secured"),
        ("false", "secured"),
        ("no", "secured"),
        ("off", "secured"),
    ] {
        for name in ["POSTHASTE_DEMO", "POSTHASTE_OPEN"] {
            let checked = check(place, &[], &[(name, word), ("POSTHASTE_RATE_LIMITS", word)]);
            assert!(checked.status.success(), "{name}={word}: {}", text(&checked));
            assert!(text(&checked).contains(&format!("{access} access")), "{name}={word}: {}", text(&checked));
        }
        let flag = format!("--demo={word}");
        assert!(text(&check(place, &[&flag], &[])).contains(&format!("{access} access")), "{flag}");
    }
    let wrong = check(place, &[], &[("POSTHASTE_DEMO", "maybe")]);
    assert!(!wrong.status.success() && text(&wrong).contains("true, yes, on, 1"), "{}", text(&wrong));
    for listen in ["localhost:8000", ":8000", "8000", "127.0.0.1:8000"] {
        let checked = check(place, &["--listen", listen], &[]);
        assert!(text(&checked).contains("listen on 127.0.0.1:8000"), "{listen}: {}", text(&checked));
    }
    for (listen, sentence) in [
        ("127.0.0.1", "has no port; write 127.0.0.1:8000"),
        ("chat.example.org:8000", "host names are not looked up"),
        ("http://localhost:8000", "is not an address with a port"),
    ] {
        let refused = check(place, &["--listen", listen], &[]);
        let said = text(&refused).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!refused.status.success() && said.contains(sentence), "{listen}: {said}");
    }
});

both!(readable_files_with_secrets_are_reported, async |place| {
    let file = place.folder.path().join("posthaste.toml");
    let key = place.folder.path().join("secret");
    std::fs::write(&file, "jwt_issuer = \"a\"\njwt_audience = \"b\"\njwt_hs256_secret_file = \"secret\"\n").unwrap();
    std::fs::write(&key, "x".repeat(64)).unwrap();
    let mode = |mode: u32| {
        for path in [&file, &key] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    for command in [&["config", "check"][..], &["doctor"]] {
        mode(0o644);
        let said = text(&with_variables(place, command, &[]));
        for name in ["posthaste.toml", "secret"] {
            let line = said.lines().find(|line| line.contains("other users") && line.contains(name));
            assert!(line.is_some_and(|line| line.starts_with("note ") && line.contains("chmod 600")), "{name}: {said}");
        }
        mode(0o600);
        let said = text(&with_variables(place, command, &[]));
        let of_files = |line: &&str| line.contains("other users") && line.contains("chmod 600");
        assert_eq!(said.lines().find(of_files), None, "{said}");
    }
});
