//! A stream of server-sent events, as the HTML standard defines it: event, id and data. A line and an event are
//! read up to a bound. It does not connect again (client.rs).

use super::{Open, Silent, silent, words};
use http_body_util::BodyExt;

/// The largest event that is read, in bytes.
const MAX_EVENT: usize = 4 << 20;

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The kind of the event; `message` if the server names none.
    pub event: String,
    /// The last id that the server gave, of this event or one before it.
    pub id: Option<String>,
    /// The data, lines joined by line feeds.
    pub data: String,
}

/// Lines become events here.
#[derive(Default)]
struct Parser {
    /// What came after the last end of a line.
    rest: Vec<u8>,
    /// The last byte was a carriage return, so a line feed that follows is part of it.
    after_return: bool,
    id: Option<String>,
    event: String,
    data: Option<String>,
}

impl Parser {
    /// Takes bytes and gives the events that they complete.
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, String> {
        let mut done = Vec::new();
        for b in bytes {
            let second = *b == b'\n' && std::mem::take(&mut self.after_return);
            self.after_return = *b == b'\r';
            match *b {
                _ if second => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.rest);
                    done.extend(self.line(&String::from_utf8_lossy(&line)));
                }
                b => self.rest.push(b),
            }
            if self.rest.len() + self.data.as_ref().map_or(0, String::len) > MAX_EVENT {
                return Err(format!("an event of more than {MAX_EVENT} bytes"));
            }
        }
        Ok(done)
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let data = self.data.take()?;
            let event = if event.is_empty() { "message".into() } else { event };
            return Some(Event { event, id: self.id.clone(), data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event = value.into(),
            "data" => match &mut self.data {
                Some(data) => *data = format!("{data}\n{value}"),
                None => self.data = Some(value.into()),
            },
            "id" if !value.contains('\0') => self.id = Some(value.into()),
            // A comment, or a field that nobody needs.
            _ => {}
        }
        None
    }
}

/// Events of one connection, in order.
pub struct Events {
    from: Open,
    parser: Parser,
    ready: std::collections::VecDeque<Event>,
}

impl Events {
    pub(super) fn new(from: Open) -> Events {
        Events { from, parser: Parser::default(), ready: Default::default() }
    }

    /// Waits for the next event; none if the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<Event>, Silent> {
        loop {
            if let Some(e) = self.ready.pop_front() {
                return Ok(Some(e));
            }
            match self.from.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(silent(words(&e), true)),
                Some(Ok(frame)) => {
                    let bytes = frame.into_data().unwrap_or_default();
                    self.ready.extend(self.parser.take(&bytes).map_err(|e| silent(e, true))?);
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn event(event: &str, id: Option<&str>, data: &str) -> Event {
        Event { event: event.into(), id: id.map(String::from), data: data.into() }
    }

    #[test]
    fn events_come_whole_however_their_bytes_are_cut() {
        let text = ": hello\n\nevent: put\nid: 7\ndata: {\"a\":\ndata: 1}\n\r\nid: 8\r\ndata:x\r\n\r\nevent: gone\n\ndata\r\rretry: 5\ndata: é\n\nhalf";
        let want = [
            event("put", Some("7"), "{\"a\":\n1}"),
            event("message", Some("8"), "x"),
            event("message", Some("8"), ""),
            event("message", Some("8"), "é"),
        ];
        for step in [1, 2, 3, 7, text.len()] {
            let mut p = Parser::default();
            let got: Vec<Event> = text.as_bytes().chunks(step).flat_map(|c| p.take(c).unwrap()).collect();
            assert_eq!(got, want, "in pieces of {step}");
        }
    }

    #[test]
    fn an_event_has_a_bound() {
        let mut p = Parser::default();
        assert!(p.take(&vec![b'x'; MAX_EVENT + 1]).is_err());
        let mut p = Parser::default();
        let line = [b"data: ".to_vec(), vec![b'x'; 1 << 20], b"\n".to_vec()].concat();
        let taken: Result<Vec<_>, _> = (0..5).map(|_| p.take(&line)).collect();
        assert!(taken.is_err());
    }
}
