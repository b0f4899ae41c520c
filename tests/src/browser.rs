//! A headless Chromium, driven by its own chromedriver over the WebDriver protocol: JSON over HTTP on loopback. It
//! promises a profile of its own for each browser, no request of the browser itself to the outside, and that both
//! processes end with the value. It does not wait: who drives it says what to wait for.

use crate::cluster::{free_port, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What keeps Chromium at home and quiet.
const ARGUMENTS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// An answer of chromedriver takes no longer; a page that is loaded on a busy machine is waited for.
const PATIENCE: Duration = Duration::from_secs(180);

/// Light or dark, as the reader's system wants it.
#[derive(Clone, Copy, PartialEq)]
pub enum Scheme {
    Light,
    Dark,
}

/// A browser with one tab.
pub struct Browser {
    driver: Child,
    at: String,
    session: String,
    _profile: tempfile::TempDir,
}

impl Default for Browser {
    fn default() -> Browser {
        Browser::new()
    }
}

impl Browser {
    pub fn new() -> Browser {
        Browser::with(1360, 900, Scheme::Light)
    }

    pub fn with(width: u32, height: u32, scheme: Scheme) -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let port = free_port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| {
                panic!(
                    "chromedriver: {e}; as root run deploy/setup.sh test, or apt-get install chromium chromium-driver"
                )
            });
        let mut b = Browser { driver, at: format!("127.0.0.1:{port}"), session: String::new(), _profile: profile };
        let mut args: Vec<String> = ARGUMENTS.iter().map(|a| a.to_string()).collect();
        args.push(format!("--user-data-dir={}", b._profile.path().display()));
        args.push(format!("--window-size={width},{height}"));
        if scheme == Scheme::Dark {
            args.push("--blink-settings=preferredColorScheme=0".into());
        }
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": args},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        until("chromedriver to listen", || TcpStream::connect(&b.at).map(drop).map_err(|e| e.to_string()));
        let answer = b.call("POST", "/session", &wanted);
        b.session = format!("/session/{}", answer["sessionId"].as_str().unwrap());
        // A new tab shows a page of the browser's own, which is none of our business.
        b.open("about:blank");
        b.requests();
        b
    }

    /// One command; its value. An error of the driver is a panic with what it said.
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.ask(method, path, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let text = if method == "POST" { body.to_string() } else { String::new() };
        let send = || -> std::io::Result<Vec<u8>> {
            let mut s = TcpStream::connect(&self.at)?;
            s.set_read_timeout(Some(PATIENCE))?;
            write!(
                s,
                "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                self.at,
                text.len()
            )?;
            whole_answer(&mut s)
        };
        let answer = String::from_utf8(send().map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
        let mut value: Value = serde_json::from_str(body).map_err(|e| format!("{e}: {answer}"))?;
        if head.split_whitespace().nth(1) != Some("200") {
            return Err(format!("{}: {}", value["value"]["error"], value["value"]["message"]));
        }
        Ok(value["value"].take())
    }

    /// Loads an address.
    pub fn open(&self, url: &str) {
        self.call("POST", &format!("{}/url", self.session), &json!({"url": url}));
    }

    /// The value of a JavaScript expression in the page.
    pub fn js(&self, expression: &str) -> Value {
        let script = json!({"script": format!("return ({expression});"), "args": []});
        self.call("POST", &format!("{}/execute/sync", self.session), &script)
    }

    /// What a promise of the page gives.
    pub fn promised(&self, expression: &str) -> Value {
        let script =
            format!("const done = arguments[0]; Promise.resolve({expression}).then(done, (e) => done(String(e)));");
        self.call("POST", &format!("{}/execute/async", self.session), &json!({"script": script, "args": []}))
    }

    /// Waits until an expression is true. Numbers of the page are left out of what it says meanwhile: a clock on the
    /// page is no progress.
    pub fn wait(&self, what: &str, expression: &str) {
        until(what, || match self.js(&format!("Boolean({expression})")) {
            Value::Bool(true) => Ok(()),
            _ => Err(self.words("#app").chars().filter(|c| !c.is_ascii_digit()).take(2000).collect()),
        });
    }

    /// What a reader sees of the first element that a selector finds; empty if there is none.
    pub fn words(&self, selector: &str) -> String {
        let found = self.js(&format!("document.querySelector({})?.innerText ?? ''", json!(selector)));
        found.as_str().unwrap_or_default().to_string()
    }

    /// Presses keys, one after the other; names as WebDriver has them (`\u{E004}` is Tab, `\u{E007}` Enter).
    pub fn press(&self, keys: &str) {
        let each = |k: char| [json!({"type": "keyDown", "value": k}), json!({"type": "keyUp", "value": k})];
        let actions: Vec<Value> = keys.chars().flat_map(each).collect();
        let body = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.call("POST", &format!("{}/actions", self.session), &body);
    }

    /// What the page and the browser wrote to the console since the last call: level and text.
    pub fn console(&self) -> Vec<(String, String)> {
        let lines = self.log("browser");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        lines.iter().map(|l| (text(&l["level"]), text(&l["message"]))).collect()
    }

    /// The address of every request that the page made since the last call.
    pub fn requests(&self) -> Vec<String> {
        let sent = |line: &Value| -> Option<String> {
            let m: Value = serde_json::from_str(line["message"].as_str()?).ok()?;
            let m = &m["message"];
            let request = (m["method"] == "Network.requestWillBeSent").then(|| &m["params"]["request"])?;
            Some(request["url"].as_str()?.to_string())
        };
        self.log("performance").iter().filter_map(sent).collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        let lines = self.call("POST", &format!("{}/se/log", self.session), &json!({"type": kind}));
        lines.as_array().cloned().unwrap_or_default()
    }

    /// Writes a picture of what is seen, as PNG.
    pub fn picture(&self, file: &Path) {
        let text = self.call("GET", &format!("{}/screenshot", self.session), &Value::Null);
        std::fs::write(file, base64(text.as_str().unwrap())).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.ask("DELETE", &self.session, &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Reads an answer as long as it says it is: chromedriver keeps connections open.
fn whole_answer(s: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let (mut answer, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let n = s.read(&mut piece)?;
        answer.extend_from_slice(&piece[..n]);
        let text = String::from_utf8_lossy(&answer);
        let whole = text.split_once("\r\n\r\n").and_then(|(head, _)| {
            let line = head.lines().find(|l| l.to_ascii_lowercase().starts_with("content-length:"))?;
            Some(head.len() + 4 + line.split(':').nth(1)?.trim().parse::<usize>().ok()?)
        });
        if n == 0 || whole.is_some_and(|n| answer.len() >= n) {
            return Ok(answer);
        }
    }
}

/// Names of the types of a file of JSDoc typedefs, with their fields.
pub fn typedefs(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut now = None;
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix("* @typedef {object} ") {
            now = Some(name.to_string());
        } else if let (Some(name), Some((_, field))) =
            (&now, line.rsplit_once("} ").filter(|_| line.contains("@property")))
        {
            found.entry(name.clone()).or_default().insert(field.trim_matches(['[', ']']).to_string());
        }
    }
    found
}

/// The bytes of a base64 text; padding and line ends are passed over.
fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(digit).collect();
    let group = |g: &[u8]| {
        let bits = g.iter().fold(0u32, |n, d| n << 6 | u32::from(*d)) << (6 * (4 - g.len()));
        bits.to_be_bytes()[1..g.len()].to_vec()
    };
    digits.chunks(4).filter(|g| g.len() > 1).flat_map(group).collect()
}
