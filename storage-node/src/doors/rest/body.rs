//! Bodies of requests: bounded, strict JSON. An error names the place in the body, and the nearest known field.

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use hf_control::error::{Code, Problem};
use serde::de::DeserializeOwned;

/// Bytes of a body, at most.
pub const MOST: usize = 1 << 20;

/// The bytes of a body; refused if there are more than [`MOST`].
pub async fn read(body: Body) -> Result<Bytes, Problem> {
    to_bytes(body, MOST).await.map_err(|e| {
        use std::error::Error;
        let long = e.source().is_some_and(|s| s.is::<http_body_util::LengthLimitError>());
        match long {
            true => Problem::new(Code::TooLarge, format!("the body has more than {MOST} bytes")),
            false => Problem::new(Code::Invalid, "the body did not come whole").because(e.to_string()),
        }
    })
}

/// Parses a body. An empty one stands for `{}`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|e| refused(&e))?;
    match json.end() {
        Ok(()) => Ok(parsed),
        Err(e) => Err(Problem::new(Code::Invalid, "the body is not one JSON value").because(e.to_string())),
    }
}

fn refused(e: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let text = e.inner().to_string();
    let at = pointer(e.path());
    match unknown(&text) {
        Some((field, known)) => unfamiliar("field", field, &known).at(at),
        None => Problem::new(Code::Invalid, "the body is not what this path takes").because(text).at(at),
    }
}

/// The JSON pointer (RFC 6901) of a place.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut out = String::new();
    for s in path.iter() {
        out.push('/');
        match s {
            Segment::Seq { index } => out += &index.to_string(),
            Segment::Map { key } => out += &key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { variant } => out += variant,
            Segment::Unknown => out.push('?'),
        }
    }
    out
}

/// The refusal of a word that is none of the known ones.
pub fn unfamiliar(kind: &str, word: &str, known: &[&str]) -> Problem {
    let p = Problem::new(Code::UnknownAttribute, format!("unknown {kind} \"{word}\""));
    match nearest(word, known) {
        Some(k) => p.so(format!("did you mean \"{k}\"?")),
        None => p.so(format!("known are: {}", known.join(", "))),
    }
}

/// The field and the known ones in serde's words for an unknown field.
pub fn unknown(text: &str) -> Option<(&str, Vec<&str>)> {
    let rest = text.strip_prefix("unknown field `")?;
    let (field, rest) = rest.split_once('`')?;
    Some((field, rest.split('`').skip(1).step_by(2).collect()))
}

/// The known word nearest to a wrong one, if it is near at all.
pub fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let best = known.iter().map(|k| (strsim::levenshtein(wrong, k), *k)).min()?;
    (best.0 <= (wrong.len() / 3).max(2)).then_some(best.1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use hf_control::model::{Attach, NewVolume};

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let p = parse::<Attach>(br#"{"nod": "n1"}"#).unwrap_err();
        assert_eq!((p.code, p.next.as_str()), (Code::UnknownAttribute, "did you mean \"node\"?"));
        let p = parse::<NewVolume>(br#"{"name": 7, "spec": {}}"#).unwrap_err();
        assert_eq!((p.code, p.subject.as_deref()), (Code::Invalid, Some("/name")));
        assert!(parse::<Attach>(b"{} {}").unwrap_err().what.contains("one JSON value"));
        assert!(parse::<Attach>(b"").is_ok() && parse::<Attach>(b"NaN").is_err());
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let p = parse::<NewVolume>(format!("{{\"name\":\"a\",\"spec\":{{\"size\":{deep}}}}}").as_bytes()).unwrap_err();
        assert!(p.why.contains("recursion"), "{p:?}");
    }
}
