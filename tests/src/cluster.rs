//! Real daemons as processes, on loopback ports and a directory of their own.

use serde_json::Value;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The binary under test: `HOLDFAST`, or the workspace's.
pub fn binary() -> PathBuf {
    if let Some(p) = std::env::var_os("HOLDFAST") {
        return p.into();
    }
    // tests run from <target>/debug/deps/…
    let mut p = std::env::current_exe().unwrap();
    p.pop();
    p.pop();
    let p = p.join("holdfast");
    assert!(p.exists(), "{} is not built: run cargo build -p holdfast, or make test", p.display());
    p
}

/// A port on which nobody listens now.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `n` ports in a row on which nobody listens now; at most [`PORTS`]. No port is given
/// out twice on this machine while this process lives: tests run side by side in many processes.
pub fn free_ports(n: u16) -> u16 {
    static OURS: Mutex<Vec<PortBlock>> = Mutex::new(Vec::new());
    let free = |first: u16| (first..first + n).all(|p| TcpListener::bind(("127.0.0.1", p)).is_ok());
    let mut ours = OURS.lock().unwrap_or_else(|e| e.into_inner());
    loop {
        let Some(block) = ours.last_mut().filter(|b| b.next + n <= b.end) else {
            ours.push(PortBlock::claim());
            continue;
        };
        let first = block.next;
        block.next += n;
        if free(first) {
            return first;
        }
    }
}

/// Ports that a process takes at once.
pub const PORTS: u16 = 50;

/// Ports that are ours alone as long as the listener lives: its abstract name is taken, in this
/// network namespace, until the process ends.
struct PortBlock {
    next: u16,
    end: u16,
    _name: UnixListener,
}

impl PortBlock {
    /// From 10,000 to 30,000: below the ports that the kernel gives to outgoing connections.
    fn claim() -> PortBlock {
        let blocks = 20_000 / u32::from(PORTS);
        let start = std::process::id();
        let claimed = (0..blocks).find_map(|i| {
            let block = (start + i) % blocks;
            let name = SocketAddr::from_abstract_name(format!("holdfast-test-ports-{block}")).unwrap();
            let first = 10_000 + block as u16 * PORTS;
            Some(PortBlock { next: first, end: first + PORTS, _name: UnixListener::bind_addr(&name).ok()? })
        });
        claimed.expect("every block of ports is taken by some test")
    }
}

/// A wait without progress ends after this time.
const STUCK: Duration = Duration::from_secs(120);
/// A wait ends after this time even if the state still changes.
const HOPELESS: Duration = Duration::from_secs(900);

/// Waits for a condition. Panics with its last words when they have not changed for [`STUCK`]: a
/// slow machine that gets on is waited for.
pub fn until<T>(what: &str, mut f: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    let (mut said, mut moved) = (String::new(), began);
    loop {
        match f() {
            Ok(t) => return t,
            Err(e) if e != said => (said, moved) = (e, Instant::now()),
            Err(_) => {}
        }
        if moved.elapsed() > STUCK || began.elapsed() > HOPELESS {
            panic!("gave up waiting for {what}, after {} s: {said}", began.elapsed().as_secs());
        }
        // The longer it takes, the less often is asked: each question costs processor time that the daemons may need.
        std::thread::sleep((began.elapsed() / 20).clamp(Duration::from_millis(20), Duration::from_millis(300)));
    }
}

/// Makes a directory disk's file before the daemon does, of the size that its configuration names,
/// and without taking its space. (The daemon takes all the space of a file that it makes itself.)
pub fn sparse_disk(dir: &Path, size: &str) {
    let size = hf_policy::parse_size(size).unwrap();
    std::fs::create_dir_all(dir).unwrap();
    std::fs::File::create(dir.join("holdfast.disk")).unwrap().set_len(size).unwrap();
}

pub struct NodeProcess {
    pub name: String,
    pub dir: PathBuf,
    pub api: String,
    pub data: String,
    pub nbd: String,
    pub http: String,
    pub socket: PathBuf,
    pub extra: Vec<String>,
    pub env: Vec<(String, String)>,
    /// A command that runs the daemon: another host's namespace.
    pub wrap: Vec<String>,
    pub data_dir: PathBuf,
    /// The disk that its configuration names: a directory, or a block device.
    pub disk: PathBuf,
    pub disk_size: String,
    /// The disk's file takes only the space of what is written to it, when it is a directory below
    /// `dir` (see [`sparse_disk`]).
    pub sparse: bool,
    /// Further lines of its configuration, after those of its disk: the disk's media, more disks,
    /// labels.
    pub more: String,
    /// The kernel refuses it io_uring, as a container runtime's seccomp profile does.
    pub refused: Option<crate::seccomp::Refused>,
    child: Option<Child>,
}

impl NodeProcess {
    pub fn new(dir: PathBuf, name: &str) -> NodeProcess {
        std::fs::create_dir_all(dir.join("disk")).unwrap();
        let addr = || format!("127.0.0.1:{}", free_port());
        NodeProcess {
            name: name.into(),
            api: addr(),
            data: addr(),
            nbd: addr(),
            http: addr(),
            socket: dir.join("nbd.sock"),
            data_dir: dir.join("data"),
            disk: dir.join("disk"),
            disk_size: "512MiB".into(),
            sparse: true,
            more: String::new(),
            refused: None,
            dir,
            extra: Vec::new(),
            env: Vec::new(),
            wrap: Vec::new(),
            child: None,
        }
    }

    pub fn config(&self, disk: bool) -> String {
        let mut c = format!(
            "name = \"{}\"\ndata_dir = \"{}\"\napi = \"{}\"\ndata = \"{}\"\nnbd = \"{}\"\nhttp = \"{}\"\nnbd_socket = \"{}\"\n",
            self.name,
            self.data_dir.display(),
            self.api,
            self.data,
            self.nbd,
            self.http,
            self.socket.display()
        );
        if !self.http.starts_with("127.") {
            c += "trusted_network = true\n";
        }
        if disk {
            c += &format!("[[disk]]\npath = \"{}\"\n", self.disk.display());
            if !self.disk_size.is_empty() {
                c += &format!("size = \"{}\"\n", self.disk_size);
            }
            c += &self.more;
        }
        c
    }

    /// Gives the node one more disk, before its first start.
    pub fn second_disk(&mut self, size: &str) {
        let path = self.dir.join("disk2");
        sparse_disk(&path, size);
        self.more += &format!("[[disk]]\npath = \"{}\"\nsize = \"{size}\"\n", path.display());
    }

    pub fn start_with(&mut self, config: &str) {
        let file = self.dir.join("node.toml");
        let first = !file.exists() && config.contains("[[disk]]");
        if first && self.sparse && self.disk == self.dir.join("disk") {
            sparse_disk(&self.disk, &self.disk_size);
        }
        std::fs::write(&file, config).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut words = self.wrap.clone();
        words.push(binary().display().to_string());
        let mut command = Command::new(&words[0]);
        if let Some(call) = self.refused {
            // SAFETY: only system calls between fork and exec.
            unsafe { command.pre_exec(move || crate::seccomp::refuse(call)) };
        }
        let child = command
            .args(&words[1..])
            .args(["node", "--config"])
            .arg(&file)
            .args(&self.extra)
            .env("HOLDFAST_LOG", "info")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub fn start(&mut self) {
        self.start_with(&self.config(true));
    }

    /// It has ended by itself. (Then it may be started again.)
    pub fn has_ended(&mut self) -> bool {
        let ended = self.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(Some(_))));
        if ended {
            self.child = None;
        }
        ended
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills the daemon with SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut c) = self.child.take() {
            c.kill().unwrap();
            c.wait().unwrap();
        }
    }

    /// SIGTERM, and a clean end is expected.
    pub fn stop(&mut self) {
        if let Some(mut c) = self.child.take() {
            // SAFETY: a child of ours that has not been waited for.
            unsafe { libc::kill(c.id() as i32, libc::SIGTERM) };
            let status = c.wait().unwrap();
            assert!(status.success(), "{} ended with {status}: {}", self.name, self.log());
        }
    }

    /// The process ends by itself; its exit code.
    pub fn wait_end(&mut self) -> Option<i32> {
        let mut c = self.child.take().unwrap();
        until("the node to end", || match c.try_wait().unwrap() {
            Some(s) => Ok(s.code()),
            None => Err("still running".into()),
        })
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(mut c) = self.child.take() {
            let _ = c.kill();
            let _ = c.wait();
        }
    }
}

pub struct Cluster {
    pub nodes: Vec<NodeProcess>,
    pub dir: tempfile::TempDir,
}

impl Cluster {
    /// `n` nodes, one cluster, all disks in service, three voters if there are three nodes.
    pub fn new(n: usize) -> Cluster {
        Cluster::with(n, &[])
    }

    pub fn with(n: usize, extra: &[&str]) -> Cluster {
        Cluster::prepared(n, |node| node.extra = extra.iter().map(|s| s.to_string()).collect())
    }

    /// Nodes changed by `prepare` before their first start.
    pub fn prepared(n: usize, mut prepare: impl FnMut(&mut NodeProcess)) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let nodes = (1..=n).map(|i| NodeProcess::new(dir.path().join(format!("n{i}")), &format!("n{i}"))).collect();
        let mut c = Cluster { nodes, dir };
        for node in &mut c.nodes {
            prepare(node);
            node.start();
        }
        let first = &c.nodes[0];
        until("cluster init", || run(&["--endpoint", &first.http, "cluster", "init"]).map(drop));
        for node in &c.nodes[1..] {
            until("node join", || run(&["--endpoint", &node.http, "node", "join", "--seed", &first.api]).map(drop));
        }
        c.ready();
        c
    }

    /// Every node up, every disk in service, voters complete.
    pub fn ready(&self) {
        let n = self.nodes.len();
        let wanted = n + self.nodes.iter().map(|n| n.more.matches("[[disk]]").count()).sum::<usize>();
        until("the cluster to be ready", || {
            let s = self.status()?;
            let len = |v: &Value| v.as_array().map_or(0, Vec::len);
            let disks = s["disks"].as_object().map_or(0, |d| d.values().filter(|d| d["state"] == "ok").count());
            // By the record, and by what their nodes told: a disk that was just added may not serve yet.
            let serve = self.items(&["disk", "list"])?.iter().filter(|d| d["state"] == "ok").count();
            if len(&s["up"]) >= n
                && disks >= wanted
                && serve >= wanted
                && (n < 3 || (len(&s["voters"]) >= 3 && s["voters_changing"] == false))
            {
                Ok(())
            } else {
                Err(s.to_string())
            }
        });
    }

    /// The http addresses of all nodes, as `--endpoint` takes them.
    pub fn endpoints(&self) -> String {
        self.addresses().join(",")
    }

    fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|n| n.http.clone()).collect()
    }

    /// The client, on any node that answers.
    pub fn cli(&self, args: &[&str]) -> Result<String, String> {
        let e = self.endpoints();
        run(&[&["--endpoint", &e], args].concat())
    }

    pub fn ok(&self, args: &[&str]) -> String {
        self.cli(args).unwrap_or_else(|e| {
            let events = self.cli(&["events"]).unwrap_or_default();
            let last: Vec<&str> = events.lines().rev().take(12).collect();
            panic!("holdfast {}: {e}\nlast events, newest first:\n{}", args.join(" "), last.join("\n"))
        })
    }

    /// The whole state, by the first node that answers (see [`crate::status::whole`]).
    pub fn status(&self) -> Result<Value, String> {
        crate::status::whole(&self.addresses())
    }

    /// The copies under way that the leader knows of (see [`crate::status::syncs`]).
    pub fn syncs(&self) -> Result<Vec<Value>, String> {
        crate::status::syncs(&self.addresses())
    }

    /// A volume's record, as the metadata has it.
    pub fn volume(&self, name: &str) -> Value {
        let s = self.status().unwrap();
        let mut all = s["volumes"].as_object().unwrap().values();
        all.find(|v| v["name"] == name).unwrap_or_else(|| panic!("no volume {name}")).clone()
    }

    /// A volume as the API and `holdfast volume show` say it.
    pub fn volume_api(&self, name: &str) -> Value {
        serde_json::from_str(&self.ok(&["volume", "show", name, "-o", "json"])).unwrap()
    }

    /// What `holdfast … list -o json` lists.
    pub fn items(&self, args: &[&str]) -> Result<Vec<Value>, String> {
        let list: Value =
            serde_json::from_str(&self.cli(&[args, &["-o", "json"]].concat())?).map_err(|e| e.to_string())?;
        list["items"].as_array().cloned().ok_or_else(|| format!("no list: {list}"))
    }

    pub fn uri(&self, node: usize, volume: &str) -> String {
        format!("nbd://{}/{volume}", self.nodes[node].nbd)
    }

    pub fn unix_uri(&self, node: usize, volume: &str) -> String {
        format!("nbd+unix:///{volume}?socket={}", self.nodes[node].socket.display())
    }

    /// Which node leads the metadata group, by index.
    pub fn leader(&self) -> usize {
        until("a leader", || {
            let s = self.status()?;
            let id = s["leader"].as_u64().ok_or("nobody leads")?;
            let name = s["nodes"][id.to_string()]["name"].as_str().ok_or("no name")?.to_string();
            self.nodes.iter().position(|n| n.name == name).ok_or(name)
        })
    }
}

impl Drop for Cluster {
    /// A test that fails shows what its nodes said last.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.status().map_or_else(|e| e, |s| s.to_string()));
            for n in &self.nodes {
                let log = n.log();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- {}\n{}", n.name, lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
    }
}

fn text(o: Output) -> Result<String, String> {
    let out = String::from_utf8_lossy(&o.stdout).into_owned();
    if o.status.success() {
        return Ok(out);
    }
    Err(format!("[{}] {}{out}", o.status.code().unwrap_or(-1), String::from_utf8_lossy(&o.stderr)))
}

/// Runs the client. An error begins with the exit code in brackets.
pub fn run(args: &[&str]) -> Result<String, String> {
    text(Command::new(binary()).args(args).env_remove("HOLDFAST_ENDPOINT").output().unwrap())
}

/// What an inspector finds, as JSON; it fails exactly when it finds damage.
pub fn inspect(args: &[&str]) -> Value {
    let o = Command::new(binary()).arg("inspect").args(args).args(["-o", "json"]).output().unwrap();
    let said = String::from_utf8_lossy(&o.stderr).into_owned();
    let v: Value = serde_json::from_slice(&o.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {said}"));
    assert!(v.as_object().unwrap().contains_key("damage"), "{v}");
    assert_eq!(o.status.code(), Some(i32::from(!v["damage"].is_null())), "{args:?}: {said}");
    assert!(v["damage"].as_str().is_none_or(|why| said.contains(&why.replace('"', "\\\""))), "{said}");
    v
}

/// The answer of a node's http address to GET, with the status line.
pub fn http_get(addr: &str, path: &str) -> Result<String, String> {
    crate::http::get(addr, path).map(|r| format!("{}\r\n\r\n{}", r.head, r.body))
}

/// Gives this process as many descriptors as it may have; how many. For tests that hold thousands of connections.
pub fn descriptors() -> usize {
    // SAFETY: fills, and hands back, a local struct.
    unsafe {
        let mut l = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut l), 0);
        l.rlim_cur = l.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const l), 0);
        l.rlim_cur as usize
    }
}

/// A loop device of ours, detached at the end.
pub struct LoopDevice(pub String);

impl LoopDevice {
    /// Over a new file of this size.
    pub fn new(file: &Path, size: u64) -> LoopDevice {
        std::fs::File::create(file).unwrap().set_len(size).unwrap();
        let dev = tool_ok("losetup", &["-f", "--show", "--direct-io=on", file.to_str().unwrap()]);
        LoopDevice(dev.trim().to_string())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// Runs any program.
pub fn tool(program: &str, args: &[&str]) -> Result<String, String> {
    let o = Command::new(program).args(args).output();
    text(o.unwrap_or_else(|e| panic!("{program} cannot be run ({e}); make test installs it")))
}

/// Runs a program that must succeed.
pub fn tool_ok(program: &str, args: &[&str]) -> String {
    tool(program, args).unwrap_or_else(|e| panic!("{program} {}: {e}", args.join(" ")))
}
