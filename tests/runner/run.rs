//! Runs tests side by side, the longest first. Each is a process group of its own with an empty
//! directory as `TMPDIR`, which is removed at its end together with every process that the test
//! left behind. Tests that compute run at the lowest priority, so that they take what those leave
//! that wait for daemons and for the clock.

use crate::binaries::Test;
use crate::disk::{self, Peaks};
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A test that takes longer is killed, with all its processes. (Nothing is slow by that much on a
/// loaded machine: it hangs.)
const PATIENCE: Duration = Duration::from_secs(40 * 60);
/// What the tests that run together may take of the disk, by their weights, in MiB; the promise is
/// 6 GiB.
const DISK: u64 = 5 << 10;
/// Tests of daemons use so many times the cores on average, by their weights.
const DAEMONS: f64 = 1.0;

/// How one test ended.
pub struct Done {
    pub name: String,
    pub passed: bool,
    /// By the clock.
    pub wall: Duration,
    /// Processor time, with that of its processes.
    pub cpu: Duration,
    /// The most disk it had in use at a moment, in bytes.
    pub disk: u64,
}

/// How all of them ended.
pub struct Run {
    pub done: Vec<Done>,
    /// The most disk that was in use at a moment, in bytes.
    pub peak: u64,
}

impl Run {
    pub fn disk_exceeded(&self) -> bool {
        self.peak > crate::DISK_BOUND
    }

    /// Tests that failed; the bound of the disk counts as one.
    pub fn failed(&self) -> usize {
        self.done.iter().filter(|d| !d.passed).count() + usize::from(self.disk_exceeded())
    }
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A test that runs.
struct Running {
    test: Test,
    /// Its process and process group.
    pid: i32,
    began: Instant,
    /// Its directory below the root.
    place: String,
    killed: bool,
}

/// The end of a process: its pid, status, and processor time.
type Ended = (i32, ExitStatus, Duration);

struct Runner {
    root: PathBuf,
    env: &'static [(&'static str, &'static str)],
    running: Vec<Running>,
    done: Vec<Done>,
    total: usize,
    begun: usize,
    tell: Sender<Ended>,
    peaks: Arc<Mutex<Peaks>>,
}

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Runs all of them, with `env` added to their environment.
pub fn all(mut tests: Vec<Test>, env: &'static [(&'static str, &'static str)]) -> Run {
    // SAFETY: the handler does nothing but store a flag.
    unsafe {
        libc::signal(libc::SIGINT, stop as *const () as libc::sighandler_t);
        libc::signal(libc::SIGTERM, stop as *const () as libc::sighandler_t);
    }
    let root = std::env::temp_dir().join(format!("hf-run-{}", std::process::id()));
    std::fs::create_dir_all(&root).unwrap();
    let (tell, ends) = channel();
    let peaks = disk::watch(root.clone());
    tests.sort_by_key(|t| (t.weight.alone, std::cmp::Reverse(t.weight.seconds)));
    let total = tests.len();
    println!("{total} tests on {} cores", cores());
    let mut r = Runner { root, env, running: Vec::new(), done: Vec::new(), total, begun: 0, tell, peaks };
    while !(tests.is_empty() && r.running.is_empty()) {
        while let Some(i) = r.next(&tests) {
            let test = tests.remove(i);
            r.start(test);
        }
        r.wait(&ends);
    }
    let _ = std::fs::remove_dir_all(&r.root);
    let peak = r.peaks.lock().unwrap().all;
    Run { done: r.done, peak }
}

impl Runner {
    /// Which test may start now. Tests that compute start strictly in order, so that one with many
    /// threads is not passed by for ever.
    fn next(&self, tests: &[Test]) -> Option<usize> {
        if self.running.iter().any(|r| r.test.weight.alone) {
            return None;
        }
        let used = |waits: bool| -> f64 {
            self.running.iter().filter(|r| r.test.weight.waits == waits).map(|r| r.test.weight.cores).sum()
        };
        let disk: u64 = self.running.iter().map(|r| r.test.weight.disk).sum();
        let (computing, waiting, n) = (used(false), used(true), cores() as f64);
        let first = tests.iter().position(|t| !t.weight.waits);
        tests.iter().enumerate().position(|(i, t)| {
            let w = &t.weight;
            match (w.alone, w.waits) {
                (true, _) => self.running.is_empty(),
                (_, true) => waiting == 0.0 || waiting + w.cores <= DAEMONS * n && disk + w.disk <= DISK,
                (_, false) => first == Some(i) && (computing == 0.0 || computing + w.cores.min(n) <= n),
            }
        })
    }

    fn start(&mut self, test: Test) {
        self.begun += 1;
        let place = self.begun.to_string();
        let dir = self.root.join(&place);
        std::fs::create_dir_all(&dir).unwrap();
        let out = File::create(self.output_of(&place)).unwrap();
        let nice = !test.weight.waits;
        let mut command = Command::new(&test.exe);
        command
            .args(["--exact", &test.test, "--nocapture", "--test-threads", "1"])
            .current_dir(&test.dir)
            .env("TMPDIR", &dir)
            .env("CARGO_MANIFEST_DIR", &test.dir)
            .envs(self.env.iter().copied())
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .process_group(0);
        if nice {
            // SAFETY: a plain system call between fork and exec; a test that stays as eager as the
            // others is no error.
            unsafe {
                command.pre_exec(|| {
                    libc::nice(19);
                    Ok(())
                })
            };
        }
        let began = Instant::now();
        let pid = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", test.exe.display())).id() as i32;
        let tell = self.tell.clone();
        std::thread::spawn(move || {
            let (mut status, mut used) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
            // SAFETY: waits for a child of ours that nobody else waits for, into local structs.
            let got = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut used) };
            assert_eq!(got, pid, "{}", std::io::Error::last_os_error());
            let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
            let _ = tell.send((pid, ExitStatus::from_raw(status), time(used.ru_utime) + time(used.ru_stime)));
        });
        self.running.push(Running { test, pid, began, place, killed: false });
    }

    fn output_of(&self, place: &str) -> PathBuf {
        self.root.join(format!("{place}.out"))
    }

    /// Waits until a test ends, or for a while; kills what hangs, and everything when we are told
    /// to stop.
    fn wait(&mut self, ends: &Receiver<Ended>) {
        if let Ok(end) = ends.recv_timeout(Duration::from_millis(300)) {
            self.ended(end);
        }
        let stop = STOP.load(Ordering::Relaxed);
        for r in &mut self.running {
            if stop || r.began.elapsed() > PATIENCE {
                r.killed = true;
                kill_group(r.pid);
            }
        }
        if stop {
            let _ = std::fs::remove_dir_all(&self.root);
            eprintln!("stopped");
            std::process::exit(130);
        }
    }

    fn ended(&mut self, (pid, status, cpu): Ended) {
        let at = self.running.iter().position(|r| r.pid == pid).unwrap();
        let r = self.running.swap_remove(at);
        let left = kill_group(pid);
        let file = self.output_of(&r.place);
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
        let passed = status.success() && text.lines().any(|l| l.starts_with("test result: ok. 1 passed;"));
        let wall = r.began.elapsed();
        let disk = self.peaks.lock().unwrap().of.get(&r.place).copied().unwrap_or(0);
        let word = if passed { "ok    " } else { "FAILED" };
        let n = self.done.len() + 1;
        println!("[{n:4}/{}] {word} {:7.1} s  {}", self.total, wall.as_secs_f64(), r.test.name);
        if passed {
            said(&text, &r.test.test).for_each(|l| println!("             {l}"));
        } else {
            let why = if r.killed { format!("killed after {} s", wall.as_secs()) } else { status.to_string() };
            println!("---- {} ({why}); to run it alone: {}", r.test.name, alone(&r.test));
            println!("{}\n----", text.replace("\ntest result: ", "\n(test result) "));
        }
        if left {
            println!("             (it left processes behind, which were killed)");
        }
        let _ = std::fs::remove_file(&file);
        remove(&self.root.join(&r.place));
        self.done.push(Done { name: r.test.name, passed, wall, cpu, disk });
    }
}

/// Kills all processes of a group; were there any?
fn kill_group(group: i32) -> bool {
    // SAFETY: a plain system call; the group was made for a child of ours, and no other group has
    // its number while a process is in it.
    unsafe { libc::kill(-group, libc::SIGKILL) == 0 }
}

/// Removes a test's directory, and what is still mounted in it (a failed test may have left that).
fn remove(dir: &Path) {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for at in text.lines().filter_map(|l| l.split(' ').nth(1)).filter(|at| Path::new(at).starts_with(dir)) {
        let _ = Command::new("umount").args(["-l", at]).status();
    }
    let _ = std::fs::remove_dir_all(dir);
}

/// How to run one test alone, as a command line.
fn alone(t: &Test) -> String {
    format!("cd {}; {} --exact {} --nocapture", t.dir.display(), t.exe.display(), t.test)
}

/// What a passed test printed, without the lines of the test harness.
fn said<'a>(text: &'a str, test: &'a str) -> impl Iterator<Item = &'a str> {
    let noise = |l: &&str| !l.is_empty() && *l != "ok" && *l != "running 1 test" && !l.starts_with("test result:");
    let harness = format!("test {test} ... ");
    text.lines().map(move |l| l.strip_prefix(harness.as_str()).unwrap_or(l)).filter(noise)
}
