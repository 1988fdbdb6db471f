//! `/metrics`: its formats, its rules, and the metrics of the process.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;

use crate::both;
use crate::support::{Server, answer_of};

pub async fn metrics(server: &Server, accept: Option<&str>) -> (String, String) {
    let request = server.request(Method::GET, "/metrics");
    let answer = answer_of(match accept {
        Some(accept) => request.header("accept", accept),
        None => request,
    })
    .await;
    assert_eq!(answer.status, 200);
    let content_type = answer.header("content-type").unwrap().to_owned();
    (content_type, String::from_utf8(answer.bytes).unwrap())
}

/// The types of the metrics in the text format of Prometheus, by name.
pub fn types(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

/// The names of the samples that a metric has.
pub fn sample_names(text: &str) -> BTreeSet<String> {
    let of = |(name, kind): (&str, &str)| match kind {
        "histogram" => ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).to_vec(),
        _ => vec![name.to_owned()],
    };
    types(text).into_iter().flat_map(of).collect()
}

fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("there is no {name}: {text}")).parse().unwrap()
}

both!(metrics_of_the_process_are_shown, async |place| {
    let server = Server::start(place).await;
    let (_, before) = metrics(&server, None).await;
    let busy = std::time::Instant::now();
    while busy.elapsed().as_millis() < 300 {
        std::hint::black_box(vec![0_u8; 4_096]);
    }
    let (_, text) = metrics(&server, None).await;
    assert!(value(&text, "process_cpu_seconds_total") > value(&before, "process_cpu_seconds_total"));
    let memory = value(&text, "process_resident_memory_bytes");
    assert!((1e6..1e11).contains(&memory), "{memory}");
    let (open, most) = (value(&text, "process_open_fds"), value(&text, "process_max_fds"));
    assert!(open > 3.0 && open < most, "{open} {most}");
    let started = value(&text, "process_start_time_seconds");
    let now = crate::support::callers::now_micros() as f64 / 1e6;
    assert!(started < now && started > now - 86_400.0, "{started} {now}");
    let build = text.lines().find(|line| line.starts_with("posthaste_build_info{")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(build.contains(&format!("version=\"{version}\"")) && build.contains("commit=\""), "{build}");
    assert!(build.ends_with(" 1"), "{build}");
});

both!(metrics_have_two_formats, async |place| {
    let server = Server::start(place).await;
    server.send("duck", "bugs", "hey").await;
    // As Prometheus asks for them.
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    let (content_type, open) = metrics(&server, Some(accept)).await;
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE posthaste_http_requests counter\n"), "{open}");
    for accept in [None, Some("*/*"), Some("text/plain")] {
        let (content_type, text) = metrics(&server, accept).await;
        assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
        assert!(text.contains("# TYPE posthaste_http_requests_total counter\n"), "{text}");
    }
});

both!(metrics_follow_the_rules_of_prometheus, async |place| {
    let server = Server::start(place).await;
    server.send("duck", "bugs", "hey").await;
    let (_, text) = metrics(&server, None).await;
    let types = types(&text);
    let helps: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')).collect();
    assert!(types.len() > 30, "{text}");
    for (name, kind) in &types {
        assert!(helps.get(name).is_some_and(|help| help.len() > 3), "{name} has no help text");
        assert!(["counter", "gauge", "histogram"].contains(kind), "{name} is a {kind}");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} is a {kind}");
        let reserved = ["_count", "_sum", "_bucket", "_created"];
        assert!(!reserved.iter().any(|suffix| name.ends_with(suffix)), "{name} has a reserved suffix");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        for word in name.split('_') {
            let wrong = [
                "counter",
                "gauge",
                "histogram",
                "summary",
                "ms",
                "milliseconds",
                "microseconds",
                "minutes",
                "hours",
                "days",
                "kilobytes",
                "megabytes",
                "kb",
                "mb",
                "percent",
                "s",
                "sec",
            ];
            assert!(!wrong.contains(&word), "{name} contains {word}");
        }
    }
    let names = sample_names(&text);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(names.contains(name), "{line} has no type");
    }
});
