//! Several hosts on one machine: network namespaces on one bridge, all inside a namespace of the
//! test's own, so that nothing of the machine's network is touched. Cuts are nft rules on the
//! bridge: neither end notices, as with a pulled cable.
//!
//! Needs root, iproute2 and nftables.

use crate::cluster::tool_ok;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// The hosts 1..=n; this thread, and whatever it starts from now on, is on the switch between them.
pub struct Hosts {
    prefix: String,
    n: usize,
    home: std::fs::File,
}

fn enter(ns: &std::fs::File) {
    // SAFETY: changes the calling thread's network namespace to one that is open.
    let e = unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(e, 0, "setns: {}; this test needs root", std::io::Error::last_os_error());
}

impl Hosts {
    /// Builds the namespaces, the bridge and the links between them.
    pub fn new(n: usize) -> Hosts {
        static NTH: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("hf{}.{}", std::process::id(), NTH.fetch_add(1, Ordering::Relaxed));
        let home = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let h = Hosts { prefix, n, home };
        let switch = h.name(0);
        tool_ok("ip", &["netns", "add", &switch]);
        h.on(0, &["ip", "link", "set", "lo", "up"]);
        h.on(0, &["ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0"]);
        h.on(0, &["ip", "addr", "add", "10.77.0.254/24", "dev", "br0"]);
        h.on(0, &["ip", "link", "set", "br0", "up"]);
        for i in 1..=n {
            let (ns, port) = (h.name(i), format!("p{i}"));
            tool_ok("ip", &["netns", "add", &ns]);
            h.on(0, &["ip", "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &ns]);
            h.on(0, &["ip", "link", "set", &port, "master", "br0", "up"]);
            h.on(i, &["ip", "link", "set", "lo", "up"]);
            h.on(i, &["ip", "addr", "add", &format!("{}/24", Hosts::addr(i)), "dev", "eth0"]);
            h.on(i, &["ip", "link", "set", "eth0", "up"]);
        }
        h.on(0, &["nft", "add table bridge f; add chain bridge f forward { type filter hook forward priority 0; }"]);
        enter(&std::fs::File::open(format!("/var/run/netns/{switch}")).unwrap());
        h
    }

    /// A host's address.
    pub fn addr(host: usize) -> String {
        format!("10.77.0.{host}")
    }

    fn name(&self, host: usize) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// The words that a command line begins with to run on a host.
    pub fn wrap(&self, host: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.name(host)].map(String::from).to_vec()
    }

    fn on(&self, host: usize, args: &[&str]) -> String {
        tool_ok("ip", &[&["netns", "exec", &self.name(host)], args].concat())
    }

    /// Nothing gets from one host to the other any more; the way back stays.
    pub fn cut(&self, from: usize, to: usize) {
        self.on(0, &["nft", &format!("add rule bridge f forward iifname p{from} oifname p{to} drop")]);
    }

    /// These links are cut, and no others, from one packet to the next.
    pub fn only(&self, links: &[(usize, usize)]) {
        let rule =
            |(from, to): &(usize, usize)| format!("; add rule bridge f forward iifname p{from} oifname p{to} drop");
        let rules: String = links.iter().map(rule).collect();
        self.on(0, &["nft", &format!("flush chain bridge f forward{rules}")]);
    }

    /// Limits what a host sends to a rate in kbit/s, with a queue of 200 ms; `None` lifts the
    /// limit.
    pub fn rate(&self, host: usize, kbit: Option<u64>) {
        let args = ["tc", "qdisc", "del", "dev", "eth0", "root"];
        let _ = std::process::Command::new("ip").args(["netns", "exec", &self.name(host)]).args(args).output();
        if let Some(kbit) = kbit {
            let rate = format!("{kbit}kbit");
            // One packet of the largest size that the interface hands over at once, or 10 ms.
            let burst = (kbit * 1000 / 8 / 100).max(65_600).to_string();
            let limits = ["rate", &rate, "burst", &burst, "latency", "200ms"];
            self.on(host, &[&["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf"][..], &limits].concat());
        }
    }

    /// Runs something on a thread that is on a host.
    pub fn inside<T: Send>(&self, host: usize, what: impl FnOnce() -> T + Send) -> T {
        let ns = std::fs::File::open(format!("/var/run/netns/{}", self.name(host))).unwrap();
        std::thread::scope(|s| {
            let there = s.spawn(move || {
                enter(&ns);
                what()
            });
            there.join().unwrap()
        })
    }

    /// Throughput of plain TCP from one host to another over `bytes` bytes, in bytes per second.
    pub fn plain_tcp(&self, from: usize, to: usize, bytes: usize) -> f64 {
        let listener = self.inside(from, || std::net::TcpListener::bind((Hosts::addr(from), 0)).unwrap());
        let addr = listener.local_addr().unwrap();
        std::thread::scope(|s| {
            s.spawn(move || {
                use std::io::Write;
                let (mut peer, _) = listener.accept().unwrap();
                let piece = vec![7u8; 64 << 10];
                for _ in 0..bytes / piece.len() {
                    peer.write_all(&piece).unwrap();
                }
            });
            self.inside(to, || {
                use std::io::Read;
                let mut peer = std::net::TcpStream::connect(addr).unwrap();
                let (mut buf, mut got) = (vec![0u8; 1 << 20], 0);
                let began = std::time::Instant::now();
                loop {
                    match peer.read(&mut buf).unwrap() {
                        0 => return got as f64 / began.elapsed().as_secs_f64(),
                        n => got += n,
                    }
                }
            })
        })
    }

    /// Undoes all cuts.
    pub fn heal(&self) {
        self.on(0, &["nft", "flush chain bridge f forward"]);
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        enter(&self.home);
        for i in 0..=self.n {
            let _ = std::process::Command::new("ip").args(["netns", "del", &self.name(i)]).status();
        }
    }
}
