//! How a command fails: what is printed, and what the process exits with.

use super::args::Format;

/// A command that did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// What to print.
    pub error: anyhow::Error,
    /// What to exit with.
    pub code: u8,
}

impl Failure {
    /// To standard error, in the form that was asked for.
    pub fn print(&self, o: Format) {
        let error = format!("{:#}", self.error);
        match o {
            Format::Text => eprintln!("holdfast: {error}"),
            Format::Json => eprintln!("{}", serde_json::json!({"error": error, "code": self.code})),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure { error, code: 1 }
    }
}

/// Wrong usage.
pub fn usage(e: impl std::fmt::Display) -> Failure {
    Failure { error: anyhow::anyhow!("{e}"), code: 2 }
}
