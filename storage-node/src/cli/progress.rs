//! What somebody at a terminal sees while a command waits: a bar with bytes, speed and the time that is left, on
//! standard error. Elsewhere nothing is printed. It waits for nothing itself.

use hf_policy::format_size;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::time::Duration;

/// The line of a wait of which no measure is known.
const QUIET: &str = "{spinner} {prefix}: {wide_msg}";

/// A line on the terminal that goes away when the wait ends.
pub struct Waiting(Option<ProgressBar>);

impl Waiting {
    /// A wait for this.
    pub fn new(what: &str) -> Waiting {
        if !super::out::watched() {
            return Waiting(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style(QUIET));
        bar.set_prefix(what.trim_start_matches("/v1/").to_string());
        bar.enable_steady_tick(Duration::from_millis(200));
        Waiting(Some(bar))
    }

    /// Shows why the wait goes on.
    pub fn says(&mut self, why: &str) {
        if let Some(bar) = &self.0 {
            bar.set_style(style(QUIET));
            bar.set_message(why.to_string());
        }
    }

    /// Shows how far a job is.
    pub fn job(&mut self, job: &Value) {
        let Some(bar) = &self.0 else { return };
        match (job["done_bytes"].as_u64(), job["total_bytes"].as_u64()) {
            (Some(done), Some(total)) => {
                bar.set_style(style("{prefix} {bar:30} {binary_bytes}/{binary_total_bytes}, {wide_msg}"));
                bar.set_length(total);
                bar.set_position(done.min(total));
            }
            _ => bar.set_style(style(QUIET)),
        }
        bar.set_message(progress(job));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// The speed of a job and what it says, in words.
fn progress(job: &Value) -> String {
    let mut words = Vec::new();
    if let Some(rate) = job["bytes_per_second"].as_u64().filter(|r| *r > 0) {
        words.push(format!("{}/s", format_size(rate)));
    }
    if let Some(left) = job["replicas_left"].as_u64() {
        words.push(format!("{left} replicas left"));
    }
    if let Some(eta) = job["eta_seconds"].as_u64() {
        words.push(format!("at most {}", span(eta)));
    }
    words.push(job["why_waiting"].as_str().or(job["message"].as_str()).unwrap_or_default().to_string());
    words.join(", ")
}

/// Seconds in the two largest units.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_says_speed_and_time() {
        let job = serde_json::json!({"bytes_per_second": 2 << 20, "eta_seconds": 75, "message": "is brought in", "replicas_left": 3});
        assert_eq!(progress(&job), "2MiB/s, 3 replicas left, at most 1 min 15 s, is brought in");
        assert_eq!((span(59), span(3_700), span(90_000)), ("59 s".into(), "1 h 1 min".into(), "1 d 1 h".into()));
    }
}
