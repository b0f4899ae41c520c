//! How a command fails: what is printed, and with which code the process exits.

use super::args::Format;

/// A command that did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// The error to print.
    pub error: anyhow::Error,
    /// The exit code of the process, from 1 to 6.
    pub code: u8,
}

impl Failure {
    /// Prints the error to standard error, in the chosen format.
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

/// A failure because of wrong usage (exit code 2).
pub fn usage(e: impl std::fmt::Display) -> Failure {
    Failure { error: anyhow::anyhow!("{e}"), code: 2 }
}
