//! Metrics are named in one place: what the documents and the alarms say of them is checked against
//! it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use demes::telemetry::metrics::{Kind, Row, TABLE, prometheus_name};

const ALARMS: &str = "k8s/components/monitoring/alerts.yaml";

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The names of all alarms.
fn alarms() -> Vec<String> {
    let text = read(ALARMS);
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let names: Vec<_> = names.map(str::to_owned).collect();
    assert!(names.len() > 10, "{names:?}");
    names
}

fn kind(row: &Row) -> &'static str {
    match row.kind {
        Kind::Counter | Kind::ObservedCounter => "counter",
        Kind::UpDownCounter | Kind::ObservedUpDownCounter => "level",
        Kind::Histogram(_) => "histogram",
        Kind::ObservedGauge => "gauge",
    }
}

/// A row as `docs/metrics.md` has it.
fn documented(row: &Row) -> String {
    let code = |text: &str| format!("`{text}`");
    let attributes: Vec<_> = row.attributes.iter().map(|name| code(name)).collect();
    format!(
        "| `{}` | `{}` | {} | {} | {} | {} |",
        row.name,
        prometheus_name(row),
        kind(row),
        row.unit,
        attributes.join(" "),
        row.meaning,
    )
}

#[test]
fn the_document_lists_every_metric_as_it_is() {
    let document = read("docs/metrics.md");
    let section = document.split("\n## ").find(|section| section.starts_with("All metrics\n"));
    let lines = section.expect("there is such a section").lines();
    let found: Vec<_> = lines.filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<_> = TABLE.iter().map(documented).collect();
    assert_eq!(found, expected, "docs/metrics.md must say:\n{}", expected.join("\n"));
}

#[test]
fn alarms_ask_only_for_metrics_and_labels_that_there_are() {
    let mut known = BTreeSet::from(["demes".to_owned()]);
    for row in TABLE {
        let name = prometheus_name(row);
        match row.kind {
            Kind::Histogram(_) => {
                known.extend(["bucket", "sum", "count"].map(|end| format!("{name}_{end}")));
            }
            _ => drop(known.insert(name)),
        }
        known.extend(row.attributes.iter().map(|name| name.replace('.', "_")));
    }
    let text = read(ALARMS);
    let expressions = text.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let mut seen = 0;
    for expression in expressions {
        let words = expression.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let prefixes = ["demes", "process_", "rpc_", "error_"];
        for word in words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))) {
            assert!(known.contains(word), "there is no metric or label {word}: {expression}");
            seen += 1;
        }
    }
    assert!(seen >= alarms().len(), "{seen}");
}

#[test]
fn every_alarm_is_explained_and_tested() {
    let (document, tests) = (read("docs/metrics.md"), read("tests/metrics/alerts.test.yaml"));
    let text = read(ALARMS);
    for alarm in alarms() {
        assert!(document.contains(&format!("\n### {alarm}\n")), "docs/metrics.md: {alarm}");
        assert!(tests.contains(&format!("- name: {alarm}\n")), "it has no test: {alarm}");
        let anchor = format!("runbook_url: \"docs/metrics.md#{}\"", alarm.to_lowercase());
        assert!(text.contains(&anchor), "{anchor}");
    }
}

/// The operator's form has the same groups, one level further in.
#[test]
fn both_files_of_alarms_are_the_same() {
    let from = |text: &str| text[text.find("groups:").expect("groups")..].to_owned();
    let plain = from(&read(ALARMS));
    let rule = read("k8s/components/monitoring/prometheusrule.yaml");
    let indented: String = plain.lines().map(|line| format!("  {line}\n")).collect();
    assert_eq!(rule.split_once("spec:\n").expect("a spec").1, indented);
}
