//! The command line as people and scripts meet it: outputs that are gone or full, formats, exit codes, contexts,
//! completion in a real bash, manual pages, watching.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{NodeProcess, binary, run, until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// One real node that is a cluster of its own.
struct One {
    node: NodeProcess,
    home: tempfile::TempDir,
}

impl One {
    fn new() -> One {
        let home = tempfile::tempdir().unwrap();
        let mut node = NodeProcess::new(home.path().join("n1"), "n1");
        let socket = home.path().join("api.sock");
        node.start_with(&format!("api_socket = \"{}\"\n{}", socket.display(), node.config(true)));
        let one = One { node, home };
        until("cluster init", || one.cli(&["cluster", "init"]).map(drop));
        until("the disk", || {
            let said = one.cli(&["disk", "list", "-o", "json"])?;
            let list: Value = serde_json::from_str(&said).map_err(|e| e.to_string())?;
            if list["items"][0]["state"] == "ok" { Ok(()) } else { Err(said) }
        });
        one
    }

    /// The client with its own home directory, so that no context of the machine is met.
    fn command(&self, words: &[&str]) -> Command {
        let mut c = Command::new(binary());
        c.args(words).env_clear().env("HOME", self.home.path()).env("PATH", std::env::var("PATH").unwrap());
        c.env("HOLDFAST_ENDPOINT", &self.node.http).stdin(Stdio::null());
        c
    }

    fn output(&self, words: &[&str]) -> (i32, String, String) {
        said(self.command(words).output().unwrap())
    }

    fn cli(&self, words: &[&str]) -> Result<String, String> {
        match self.output(words) {
            (0, out, _) => Ok(out),
            (code, out, err) => Err(format!("[{code}] {err}{out}")),
        }
    }

    fn ok(&self, words: &[&str]) -> String {
        self.cli(words).unwrap_or_else(|e| panic!("holdfast {}: {e}\n{}", words.join(" "), self.node.log()))
    }
}

fn said(o: Output) -> (i32, String, String) {
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (o.status.code().unwrap_or(-1), text(o.stdout), text(o.stderr))
}

/// The lines of a child's standard output as they come.
fn lines(child: &mut Child) -> Receiver<String> {
    let (tx, rx) = channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|l| tx.send(l)));
    rx
}

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_reader_that_goes_and_an_output_that_is_full_end_a_command_in_order() {
    let one = One::new();
    one.ok(&["volume", "create", "web", "size=64MiB", "replicas=1"]);
    let commands: &[&[&str]] = &[
        &["volume", "show", "web"],
        &["volume", "list", "-o", "json"],
        &["disk", "list", "-o", "yaml"],
        &["status"],
        &["events"],
        &["policy", "attributes"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
    ];
    for words in commands {
        // The reader of this pipe has gone before the command begins.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, _, err) = said(one.command(words).stdout(writer).output().unwrap());
        assert_eq!((code, err.as_str()), (0, ""), "holdfast {} | true", words.join(" "));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (code, _, err) = said(one.command(words).stdout(full).output().unwrap());
        assert_eq!((code, err.lines().count()), (1, 1), "holdfast {} > /dev/full: {err}", words.join(" "));
        assert!(err.contains("No space left on device"), "{err}");
    }
    // A full standard error changes no exit code, and panics nobody.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (code, out, _) = said(one.command(&["volume", "show", "nope"]).stderr(full).output().unwrap());
    assert_eq!((code, out.as_str()), (3, ""));
    // The reader goes while a list is followed.
    let mut follow = one.command(&["event", "list", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    follow.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(follow.stdout.take());
    one.ok(&["volume", "create", "other", "size=64MiB", "replicas=1"]);
    until("the end of the follower", || match follow.try_wait().unwrap() {
        Some(s) => {
            assert_eq!(s.code(), Some(0));
            Ok(())
        }
        None => Err("it runs".into()),
    });
}

#[test]
fn every_format_says_the_same() {
    let one = One::new();
    one.ok(&["volume", "create", "web", "size=256MiB", "replicas=1", "label.app=shop"]);
    one.ok(&["volume", "create", "db", "size=64MiB", "replicas=1"]);
    let json = |words: &[&str]| -> Value { serde_json::from_str(&one.ok(words)).unwrap() };
    let list = json(&["volume", "list", "-o", "json"]);
    let names: Vec<&str> = list["items"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["db", "web"]);
    // The JSON is the body that the API answers.
    let body = hf_tests::cluster::http_get(&one.node.http, "/v1/volumes/web").unwrap();
    let body: Value = serde_json::from_str(body.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let shown = json(&["volume", "show", "web", "-o", "json"]);
    for field in ["id", "name", "size_bytes", "spec", "labels", "created_at"] {
        assert_eq!(shown[field], body[field], "{field}");
    }
    assert_eq!(shown["size_bytes"], 256 << 20);
    assert_eq!(one.ok(&["volume", "list", "-o", "name"]), "volume/db\nvolume/web\n");
    assert_eq!(one.ok(&["node", "list", "-o", "name"]), "node/n1\n");
    assert_eq!(one.ok(&["disk", "list", "-o", "name"]), "disk/1\n");
    let yaml = one.ok(&["volume", "show", "web", "-o", "yaml"]);
    assert!(yaml.lines().any(|l| l == "name: web") && yaml.lines().any(|l| l == "size_bytes: 268435456"), "{yaml}");
    // Sizes are shown as they were given.
    let text = one.ok(&["volume", "list"]);
    assert!(text.starts_with("NAME") && text.contains("web   256MiB"), "{text}");
    assert!(text.lines().next().unwrap().contains("USED") && !text.contains("268435456"), "{text}");
    let show = one.ok(&["volume", "show", "web"]);
    assert!(show.contains("size=256MiB") && show.contains("size      256MiB"), "{show}");
    assert!(one.ok(&["volume", "list", "-o", "wide"]).lines().next().unwrap().contains("EPOCH"));
    // Sorting, filters, labels, limits.
    let order = |words: &[&str]| {
        let all = one.ok(&[&["volume", "list", "-o", "name"], words].concat());
        all.lines().map(|l| l.trim_start_matches("volume/").to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(order(&["--sort", "-name"]), "web db");
    assert_eq!(order(&["--sort", "size"]), "db web");
    assert_eq!(order(&["--limit", "1"]), "db");
    assert_eq!(order(&["--filter", "name=we"]), "web");
    assert_eq!(order(&["--selector", "app=shop"]), "web");
    assert_eq!(order(&["-l", "app!=shop"]), "db");
    // Each noun has its text; a screen and a health report too.
    let pages: &[(&[&str], &str)] = &[
        (&["disk", "list"], "CAPACITY"),
        (&["disk", "show", "1"], "replicas     2 of"),
        (&["node", "list"], "n1"),
        (&["node", "show", "n1"], "metadata     leader"),
        (&["job", "list"], "nothing to do"),
        (&["cluster", "status"], "leader    n1"),
        (&["status"], "health    "),
        (&["health"], "health    "),
        (&["events"], "volume.created"),
        (&["event", "list", "--limit", "1", "-o", "name"], "event/"),
        (&["policy", "attributes"], "| `replicas` |"),
    ];
    for (words, want) in pages {
        let text = one.ok(words);
        assert!(text.contains(want), "holdfast {}: {text}", words.join(" "));
    }
    // The socket is an endpoint too.
    let socket = format!("unix:{}", one.home.path().join("api.sock").display());
    assert_eq!(one.ok(&["--endpoint", &socket, "volume", "list", "-o", "name"]), "volume/db\nvolume/web\n");
}

#[test]
fn exit_codes_say_what_happened() {
    let one = One::new();
    one.ok(&["volume", "create", "v", "size=64MiB", "replicas=1"]);
    let cases: &[(i32, &[&str])] = &[
        (2, &["volume", "create", "w", "size=many"]),
        (2, &["volume", "create", "w", "size=64MiB", "replica=1"]),
        (2, &["volume", "list", "--sort", "colour"]),
        (2, &["disk", "list", "--selector", "a=b"]),
        (2, &["volume", "list", "--filter", "colour=red"]),
        (2, &["job", "pause", "volume/v"]),
        (2, &["--endpoint", "nowhere", "volume", "list"]),
        (2, &["no-such-noun"]),
        (3, &["volume", "show", "nope"]),
        (3, &["volume", "delete", "nope"]),
        (3, &["volume", "move", "v", "--replica", "999"]),
        (3, &["disk", "show", "77"]),
        (3, &["node", "show", "n9"]),
        (3, &["job", "show", "scrub/v"]),
        (4, &["volume", "create", "v", "size=64MiB", "replicas=1"]),
        (4, &["volume", "create", "w", "size=64MiB", "replicas=3"]),
        (4, &["disk", "remove", "1"]),
        (5, &["--endpoint", "127.0.0.1:1", "volume", "list"]),
        (5, &["--endpoint", "unix:/nowhere/api.sock", "volume", "delete", "v"]),
    ];
    for (want, words) in cases {
        let (code, out, err) = one.output(words);
        assert_eq!((code, out.as_str()), (*want, ""), "holdfast {}: {err}", words.join(" "));
        assert!(err.starts_with("holdfast: "), "{err}");
        // Programs get the same as a problem.
        let (code, out, err) = one.output(&[words, &["-o", "json"][..]].concat());
        let problem: Value = serde_json::from_str(&err).unwrap_or_else(|e| panic!("{words:?}: {e}: {err}"));
        assert_eq!((code, out.as_str()), (*want, ""));
        assert!(problem["code"].is_string() && !problem["what"].as_str().unwrap().is_empty(), "{problem}");
    }
    // Nothing is changed by asking what a change would do.
    one.ok(&["volume", "create", "dry", "size=64MiB", "replicas=1", "--dry-run"]);
    assert_eq!(one.output(&["volume", "show", "dry"]).0, 3);
    // A volume that is not ready in the time that was given for it.
    let (code, out, err) = one.output(&["volume", "create", "late", "size=64MiB", "replicas=1", "--no-wait"]);
    assert!(code == 0 || code == 6 && err.contains("not in force yet"), "[{code}] {out}{err}");
    until("the volume", || {
        let v = one.ok(&["volume", "show", "late"]);
        if v.contains("state     ok") { Ok(()) } else { Err(v) }
    });
}

#[test]
fn a_context_names_a_cluster_and_its_file_is_private() {
    let one = One::new();
    let config = one.home.path().join("config");
    let with = |words: &[&str], more: &[(&str, &str)]| {
        let mut c = one.command(words);
        c.env_remove("HOLDFAST_ENDPOINT").env("XDG_CONFIG_HOME", &config);
        said(c.envs(more.iter().copied()).output().unwrap())
    };
    let (code, out, _) = with(&["context", "show"], &[]);
    assert_eq!((code, out.contains("127.0.0.1:7423")), (0, true), "{out}");
    assert_eq!(with(&["context", "set", "lab", "--endpoint", &one.node.http], &[]).0, 0);
    assert_eq!(with(&["context", "set", "gone", "--endpoint", "127.0.0.1:1,unix:/x"], &[]).0, 0);
    assert_eq!(with(&["context", "set", "x"], &[]).0, 2);
    assert_eq!(with(&["context", "use", "x"], &[]).0, 3);
    assert_eq!(with(&["context", "use", "gone"], &[]).0, 0);
    let file = config.join("holdfast/config.toml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let (_, list, _) = with(&["context", "list"], &[]);
    assert!(list.lines().any(|l| l.starts_with("*  gone") && l.ends_with("127.0.0.1:1,unix:/x")), "{list}");
    let nodes = ["node", "list", "-o", "name"];
    assert_eq!(with(&nodes, &[]).0, 5);
    assert_eq!(with(&[&nodes[..], &["--context", "lab"]].concat(), &[]).1, "node/n1\n");
    assert_eq!(with(&nodes, &[("HOLDFAST_CONTEXT", "lab")]).1, "node/n1\n");
    assert_eq!(with(&nodes, &[("HOLDFAST_ENDPOINT", &one.node.http)]).1, "node/n1\n");
    assert_eq!(with(&[&nodes[..], &["--context", "no"]].concat(), &[]).0, 3);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, err) = with(&nodes, &[]);
    assert!(code == 2 && err.contains(&format!("chmod 600 {}", file.display())), "[{code}] {err}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(with(&["context", "remove", "gone"], &[]).0, 0);
    assert_eq!(with(&["context", "list", "-o", "name"], &[]).1, "context/lab\n");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("password = \"x\"\n{text}")).unwrap();
    let (code, _, err) = with(&nodes, &[]);
    assert!(code == 2 && err.contains("password"), "[{code}] {err}");
}

/// What a real bash offers after these words.
fn offered(one: &One, words: &str) -> String {
    let script = "source <(holdfast completions bash); complete -p holdfast >/dev/null || exit 9; \
        COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); [[ $1 == *' ' ]] && { COMP_WORDS+=(''); COMP_CWORD=$((COMP_CWORD + 1)); }; \
        COMP_LINE=$1; COMP_POINT=${#1}; COMP_TYPE=9; \
        _clap_complete_holdfast holdfast \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let path = format!("{}:{}", binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut c = Command::new("bash");
    c.args(["--norc", "-c", script, "bash", words]).env_clear().env("PATH", path).env("HOME", one.home.path());
    let (code, out, err) = said(c.env("HOLDFAST_ENDPOINT", &one.node.http).output().unwrap());
    assert!(code == 0 && err.is_empty(), "[{code}] {err}");
    out
}

#[test]
fn bash_completes_words_and_names() {
    let one = One::new();
    for name in ["web", "wiki", "db"] {
        one.ok(&["volume", "create", name, "size=64MiB", "replicas=1"]);
    }
    let words = |text: &str| {
        let mut all: Vec<String> = offered(&one, text).lines().map(|l| l.trim().to_string()).collect();
        all.sort();
        all.join(" ")
    };
    assert!(words("holdfast vol").contains("volume"));
    assert!(words("holdfast volume ").contains("create") && words("holdfast volume ").contains("force-insync"));
    // Names are offered only if they come within 300 ms, which a busy machine may miss now and then.
    let in_time = |text: &str, want: &str| {
        until(text, || {
            let said = words(text);
            if said.split(' ').take(want.split(' ').count()).eq(want.split(' ')) { Ok(()) } else { Err(said) }
        })
    };
    in_time("holdfast volume show w", "web wiki");
    in_time("holdfast volume attach web --node ", "n1");
    until("the disk's number", || {
        let said = words("holdfast disk drain ");
        if said.split(' ').any(|w| w == "1") { Ok(()) } else { Err(said) }
    });
    assert_eq!(words("holdfast volume create x replicas"), "replicas=");
    // Names that were asked for a moment ago are kept, in a directory of the user alone.
    let kept = one.home.path().join(".cache/holdfast");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
    one.ok(&["volume", "create", "wax", "size=64MiB", "replicas=1"]);
    for e in std::fs::read_dir(&kept).unwrap() {
        std::fs::remove_file(e.unwrap().path()).unwrap();
    }
    in_time("holdfast volume delete w", "wax web wiki");
    // Nobody answers: no names, and no waiting.
    let began = std::time::Instant::now();
    let frozen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("holdfast --endpoint={} volume show ", frozen.local_addr().unwrap());
    let without_names = words(&nobody);
    assert!(!without_names.contains("web") && !without_names.contains("db"), "{without_names}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    run(&["man", "--dir", dir.path().to_str().unwrap()]).unwrap();
    let mut seen = 0;
    for e in std::fs::read_dir(dir.path()).unwrap() {
        let path = e.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().any(|l| l.starts_with(".TH holdfast")), "{}", path.display());
        rendered(&path);
        seen += 1;
    }
    assert!(seen > 50, "{seen} pages");
    for page in ["holdfast.1", "holdfast-volume-create.1", "holdfast-health-mute.1", "holdfast-daemon.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
}

/// The page renders without a warning, where the machine can render pages.
fn rendered(page: &Path) {
    let Ok(o) = Command::new("man").args(["-l", "--warnings"]).arg(page).env("LC_ALL", "C.UTF-8").output() else {
        return;
    };
    let (code, out, err) = said(o);
    assert!(code == 0 && err.is_empty() && out.contains("SYNOPSIS"), "{}: [{code}] {err}", page.display());
}

#[test]
fn what_is_watched_is_shown_as_it_changes() {
    let one = One::new();
    let watch = |words: &[&str]| {
        let mut child = one.command(words).stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines(&mut child);
        (child, lines)
    };
    let (mut list, rows) = watch(&["volume", "list", "--watch"]);
    let (mut json, objects) = watch(&["volume", "list", "--watch", "-o", "json"]);
    let (mut filtered, names) = watch(&["volume", "list", "--watch", "--filter", "name=web", "-o", "name"]);
    let (mut follow, events) = watch(&["event", "list", "--follow"]);
    assert!(rows.recv_timeout(SOON).unwrap().starts_with("NAME"));
    events.recv_timeout(SOON).unwrap();
    one.ok(&["volume", "create", "db", "size=64MiB", "replicas=1"]);
    one.ok(&["volume", "create", "web", "size=64MiB", "replicas=1"]);
    let wait = |from: &Receiver<String>, want: &dyn Fn(&str) -> bool| loop {
        let line = from.recv_timeout(SOON).expect("a line in time");
        if want(&line) {
            return line;
        }
    };
    wait(&rows, &|l| l.starts_with("web  64MiB") && l.contains("  ok  "));
    let put = wait(&objects, &|l| l.contains("\"key\":\"web\""));
    let put: Value = serde_json::from_str(&put).unwrap();
    assert_eq!((&put["kind"], &put["object"]["name"]), (&"volume".into(), &"web".into()));
    assert_eq!(names.recv_timeout(SOON).unwrap(), "volume/web");
    let mut created = 0;
    wait(&events, &|l| l.contains("volume.created") && l.contains("web"));
    // Nothing is told twice.
    while let Ok(line) = events.recv_timeout(Duration::from_millis(300)) {
        created += usize::from(line.contains("volume.created"));
    }
    assert_eq!(created, 0);
    // One resource, until it is gone.
    let (mut show, texts) = watch(&["volume", "show", "web", "--watch"]);
    wait(&texts, &|l| l.starts_with("size      64MiB"));
    one.ok(&["volume", "resize", "web", "128MiB"]);
    wait(&texts, &|l| l.starts_with("size      128MiB"));
    one.ok(&["volume", "delete", "web"]);
    wait(&rows, &|l| l == "volume/web is gone");
    wait(&texts, &|l| l == "volume/web is gone");
    until("the end of the watch of what is gone", || match show.try_wait().unwrap() {
        Some(s) => {
            assert_eq!(s.code(), Some(0));
            Ok(())
        }
        None => Err("it runs".into()),
    });
    // No job is left, so this ends by itself.
    one.ok(&["job", "list", "--watch"]);
    for child in [&mut list, &mut json, &mut filtered, &mut follow] {
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
