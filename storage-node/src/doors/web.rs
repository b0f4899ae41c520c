//! The page's files, as they are in `storage-node/web/`, inside the binary. Promises: what is served is what was
//! built, with a tag that changes when a byte changes; the tag of `index.html` changes with any file, so that a page
//! that is open can tell that the daemon serves a newer one. It does no I/O: the router says where the files are
//! mounted.

use std::fmt::Write;
use std::sync::LazyLock;

/// A file of the page, with its place below `storage-node/web/`.
struct File {
    path: &'static str,
    content_type: &'static str,
    body: &'static [u8],
}

/// Declares the files by their kinds.
macro_rules! files {
    ($($kind:ident: $($path:literal)*;)*) => {
        &[$($(File { path: $path, content_type: $kind, body: include_bytes!(concat!("../../web/", $path)) },)*)*]
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

/// Every file that a browser may ask for. (`app/types.js` holds types alone, which no browser reads.)
const FILES: &[File] = files! {
    HTML: "index.html";
    SVG: "icon.svg";
    CSS: "style.css" "vendor/uplot/uPlot.min.css";
    JS: "app/main.js" "app/api.js" "app/format.js" "app/live.js" "app/parts.js" "app/route.js" "app/store.js" "app/words.js"
        "app/screens/capacity.js" "app/screens/charts.js" "app/screens/events.js" "app/screens/jobs.js"
        "app/screens/map.js" "app/screens/node.js" "app/screens/overview.js" "app/screens/policy.js"
        "app/screens/replicas.js" "app/screens/volume.js" "app/screens/volumes.js"
        "vendor/lit-html/lit-html.js" "vendor/lit-html/directive.js" "vendor/lit-html/directive-helpers.js"
        "vendor/lit-html/directives/repeat.js" "vendor/uplot/uPlot.esm.js";
    TEXT: "vendor/lit-html/LICENSE" "vendor/uplot/LICENSE";
};

/// Tags, in the order of [`FILES`].
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let own: Vec<u64> = FILES.iter().map(|f| fnv(f.body)).collect();
    let all = own.iter().fold(String::new(), |mut text, tag| {
        let _ = write!(text, "{tag:016x}");
        text
    });
    let tag = |(f, own): (&File, &u64)| format!("{:016x}", if f.path == INDEX { fnv(all.as_bytes()) } else { *own });
    FILES.iter().zip(&own).map(tag).collect()
});

const INDEX: &str = "index.html";

/// What a file's change is told by: FNV-1a. It need not stand against someone who forges one.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Content type, bytes and tag (16 hexadecimal digits, without quotes) of the file at a path below `storage-node/web/`;
/// none if the page has no such file.
pub fn file(path: &str) -> Option<(&'static str, &'static [u8], &'static str)> {
    let at = FILES.iter().position(|f| f.path == path)?;
    let (f, tag) = (&FILES[at], TAGS.get(at)?);
    Some((f.content_type, f.body, tag))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn each_file_has_a_tag_of_its_own_and_the_index_follows_all() {
        let tags: std::collections::BTreeSet<&str> = FILES.iter().map(|f| file(f.path).unwrap().2).collect();
        assert_eq!(tags.len(), FILES.len());
        let (kind, body, tag) = file(INDEX).unwrap();
        assert!(kind.starts_with("text/html") && body.starts_with(b"<!doctype html>"));
        assert_ne!(tag, format!("{:016x}", fnv(body)), "a change of another file changes the index's tag too");
        assert!(file("app/../index.html").is_none() && file("").is_none() && file("app/types.js").is_none());
    }
}
