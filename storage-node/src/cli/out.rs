//! The one place through which a command prints, to standard output and to standard error.
//!
//! It promises: a reader that has gone (`holdfast volume list | head -1`) ends the command quietly with exit
//! code 0; an output that takes nothing more (a full disk) ends it with one line on standard error and exit
//! code 1; JSON and YAML show the same value. It does not decide what is said, and it changes no signal: the
//! daemon is the same binary.

use super::failure::Failure;
pub use super::format::Format;
use super::yaml;
use serde_json::Value;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};

/// Bytes that wait at most before they are written.
const BUFFER: usize = 64 << 10;

/// Standard output of one command, in the format that was asked for.
pub struct Out {
    /// The format of results.
    pub format: Format,
    to: Box<dyn Write + Send>,
    waiting: Vec<u8>,
}

impl Out {
    /// An output that goes to standard output.
    pub fn new(format: Format) -> Out {
        Out::to(format, Box::new(std::io::stdout()))
    }

    fn to(format: Format, to: Box<dyn Write + Send>) -> Out {
        Out { format, to, waiting: Vec::new() }
    }

    /// Prints a text and ends the line.
    pub fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        self.print(format_args!("{text}\n"))
    }

    /// Prints a text as it is.
    pub fn print(&mut self, text: impl Display) -> Result<(), Failure> {
        // (Writing into a vector does not fail.)
        let _ = write!(self.waiting, "{text}");
        if self.waiting.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Prints a value in the format that programs asked for; in a text format it is JSON too.
    pub fn value(&mut self, v: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Yaml => self.print(yaml::document(v)),
            _ => self.line(format_args!("{v:#}")),
        }
    }

    /// Prints a value on one line of JSON, or as one YAML document of several: for streams.
    pub fn one_of_many(&mut self, v: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Yaml => self.print(format_args!("---\n{}", yaml::document(v))),
            _ => self.line(v),
        }
    }

    /// Hands everything to the reader now. Who follows a stream calls this after each part of it.
    pub fn flush(&mut self) -> Result<(), Failure> {
        let bytes = std::mem::take(&mut self.waiting);
        match self.to.write_all(&bytes).and_then(|()| self.to.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Failure::quiet()),
            Err(e) => Err(Failure::failed(format!("standard output: {e}"))),
        }
    }

    /// Says whether somebody looks at standard output on a terminal.
    pub fn on_terminal(&self) -> bool {
        std::io::stdout().is_terminal()
    }
}

/// Prints a failure on standard error, if anything is to be said about it.
pub fn failed(f: &Failure, o: Format) {
    if let Some(said) = f.said(o) {
        note(said);
    }
}

/// Says whether somebody looks at standard error on a terminal.
pub fn watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Prints one line on standard error. If that is closed or full, nobody can be told, so nothing is said.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Waits until the other end of a pipe has gone, then gives the end that writes.
    fn broken_pipe() -> std::io::PipeWriter {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    }

    #[test]
    fn a_reader_that_has_gone_ends_the_command_quietly() {
        let mut out = Out::to(Format::Text, Box::new(broken_pipe()));
        out.line("short").unwrap();
        let e = out.flush().unwrap_err();
        assert_eq!((e.code, e.said(Format::Text)), (0, None));
        // A long text meets the broken pipe before its end.
        let e = out.print("x".repeat(BUFFER)).unwrap_err();
        assert_eq!(e.code, 0);
    }

    #[test]
    fn a_full_output_is_a_failure_with_one_line() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut out = Out::to(Format::Text, Box::new(full));
        out.line("short").unwrap();
        let e = out.flush().unwrap_err();
        let said = e.said(Format::Text).unwrap();
        assert_eq!(e.code, 1);
        assert!(said.starts_with("holdfast: standard output: No space left on device"), "{said}");
        assert_eq!(said.lines().count(), 1);
    }

    #[test]
    fn json_and_yaml_show_the_same_value() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut out = Out::to(Format::Yaml, Box::new(writer));
        out.value(&serde_json::json!({"name": "web", "size_bytes": 1})).unwrap();
        out.format = Format::Json;
        out.one_of_many(&serde_json::json!({"name": "web"})).unwrap();
        out.flush().unwrap();
        drop(out);
        let mut said = String::new();
        std::io::Read::read_to_string(&mut reader, &mut said).unwrap();
        assert_eq!(said, "name: web\nsize_bytes: 1\n{\"name\":\"web\"}\n");
    }
}
