//! The formats of results. How a result looks in each stands with the result.

use clap::ValueEnum;

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text and tables for people.
    Text,
    /// Tables with more columns.
    Wide,
    /// JSON for programs: the body of the REST API's answer.
    Json,
    /// YAML: the same value as JSON.
    Yaml,
    /// One name per line, such as volume/web.
    Name,
}

impl Format {
    /// Says whether results are text for people, narrow or wide.
    pub fn is_text(self) -> bool {
        matches!(self, Format::Text | Format::Wide)
    }
}
