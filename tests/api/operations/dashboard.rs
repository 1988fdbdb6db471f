//! The dashboard and the alert rules in `packaging/` use only metrics that `/metrics` has, and operators find each metric described.

use serde_json::Value;

use super::metrics::{metrics, sample_names, types};
use crate::both;
use crate::support::Server;

const DASHBOARD: &str = include_str!("../../../packaging/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../../packaging/prometheus-alerts.yml");
const OPERATING: &str = include_str!("../../../docs/operating.md");

/// The names of metrics in an expression of PromQL.
fn names_in(expression: &str) -> impl Iterator<Item = &str> {
    let is_name = |byte: char| byte.is_ascii_alphanumeric() || byte == '_' || byte == ':';
    expression
        .split(move |letter| !is_name(letter))
        .filter(|word| word.starts_with("posthaste_") || word.starts_with("process_"))
}

/// The strings in a JSON document that are expressions or contain one.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                match value {
                    Value::String(text) if name == "expr" || name == "query" => found.push(text.clone()),
                    value => expressions(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

both!(the_dashboard_and_the_alerts_use_metrics_that_exist, async |place| {
    let server = Server::start(place).await;
    server.send("duck", "bugs", "hey").await;
    let (_, text) = metrics(&server, None).await;
    let names = sample_names(&text);
    let mut used = Vec::new();
    expressions(&serde_json::from_str(DASHBOARD).unwrap(), &mut used);
    assert!(used.len() > 20, "{used:?}");
    let lines = ALERTS.lines().filter(|line| !line.trim_start().starts_with('#'));
    used.extend(lines.filter(|line| !line.contains("summary:") && !line.contains("description:")).map(str::to_owned));
    let mut count = 0;
    for expression in &used {
        for name in names_in(expression) {
            assert!(names.contains(name), "{name} in {expression} does not exist");
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
    // Each alert and each metric is described for operators.
    for name in types(&text).keys() {
        assert!(OPERATING.contains(&format!("`{name}")), "docs/operating.md does not describe {name}");
    }
    for alert in ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(alert.starts_with("Posthaste") && ALERTS.matches(&format!(" {alert}\n")).count() == 1, "{alert}");
    }
});
