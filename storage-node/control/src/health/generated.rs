//! What is made from the table of codes: the reference `docs/health.md`, and alert rules for Prometheus.

use super::table::{Row, TABLE};
use crate::model::Severity;
use std::fmt::Write;

fn severity(row: &Row) -> &'static str {
    match row.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

fn dwell(ms: u64) -> String {
    match ms {
        0 => "at once".into(),
        ms => humantime::format_duration(std::time::Duration::from_millis(ms)).to_string(),
    }
}

/// The page `docs/health.md`.
pub fn reference() -> String {
    let mut out = String::from(
        "# Health codes\n\n\
         Generated from `storage-node/control/src/health/table.rs`; do not edit.\n\n\
         `holdfast health` and `GET /v1/health` list the codes that are raised now, the gravest first. A code is raised \
         when it has held for its dwell, and cleared when it has not held for twice that. Without fresh evidence \
         nothing is cleared, and the state is `unknown`, never `ok`. `deploy/prometheus/rules.yaml` has an alert for \
         each code.\n\n\
         A mute silences a code, about one subject or about all, until a given time; it is recorded with its author \
         and reason. A mute about all subjects ends by itself when more subjects have the code than had it when it was \
         muted, unless it is sticky. Something graver has another code, which is not muted with this one. Muted codes \
         stay in lists and in the metric, marked as muted.\n\n\
         | code | severity | about | dwell | means | what to do |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for row in TABLE {
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | {} | {} |",
            row.word,
            severity(row),
            row.about,
            dwell(row.dwell_ms),
            row.means,
            row.action
        );
    }
    out
}

/// A name of an alert: `VOLUME_DEGRADED` becomes `HoldfastVolumeDegraded`.
fn alert(word: &str) -> String {
    let part = |p: &str| p[..1].to_string() + &p[1..].to_lowercase();
    "Holdfast".to_string() + &word.split('_').map(part).collect::<String>()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The file `deploy/prometheus/rules.yaml`.
pub fn rules() -> String {
    let mut out = String::from(
        "# Alert rules for Prometheus, generated from storage-node/control/src/health/table.rs; do not edit.\n\
         # A code has waited for its dwell when it shows in holdfast_health, so no rule waits once more (docs/health.md).\n\
         groups:\n  - name: holdfast-health\n    rules:\n",
    );
    for row in TABLE {
        let level = if row.severity == Severity::Error { "critical" } else { "warning" };
        let _ = write!(
            out,
            "      - alert: {}\n        \
             expr: max by (code, subject) (holdfast_health{{code=\"{}\",muted=\"false\"}}) == 1\n        \
             labels:\n          severity: {level}\n        \
             annotations:\n          summary: {}\n          description: {}\n",
            alert(row.word),
            row.word,
            quoted(&format!("{{{{ $labels.subject }}}}: {}", row.means)),
            quoted(row.action)
        );
    }
    out + "  - name: holdfast-scrape\n    rules:\n      \
           - alert: HoldfastNodeScrapeDown\n        \
           expr: up{job=\"holdfast\"} == 0\n        for: 2m\n        labels:\n          severity: warning\n        \
           annotations:\n          summary: '{{ $labels.instance }}: Prometheus cannot read the metrics of this node.'\n          \
           description: 'Look whether the daemon runs and its http address is reached from here.'\n"
}
