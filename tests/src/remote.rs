//! Volumes whose only replica is on another host than the one that has them attached: everything
//! that is read crosses a link.

use crate::cluster::{Cluster, tool_ok};
use crate::nbd::Nbd;
use crate::netns::Hosts;

/// Three hosts in namespaces, a node on each; n2 has volumes attached whose replicas are on n3.
pub struct Remote {
    pub c: Cluster,
    pub hosts: Hosts,
}

impl Remote {
    /// Makes `volumes` volumes, `v0` and on, of `size` bytes, and fills them: every byte is the
    /// volume's number plus one.
    pub fn new(volumes: usize, size: usize) -> Remote {
        let hosts = Hosts::new(3);
        let mut i = 0;
        let c = Cluster::prepared(3, |n| {
            i += 1;
            let port = |p: u16| format!("{}:{p}", Hosts::addr(i));
            (n.api, n.data, n.nbd, n.http) = (port(7420), port(7421), port(10809), port(7423));
            n.wrap = hosts.wrap(i);
            n.disk_size = "1GiB".into();
        });
        for v in 0..volumes {
            let size_text = format!("size={}MiB", size >> 20);
            c.ok(&["volume", "create", &format!("v{v}"), &size_text, "replicas=1", "nodes=n3"]);
            c.ok(&["volume", "attach", &format!("v{v}"), "--node", "n2"]);
            let mut nbd = Nbd::connect(&c.nodes[1].nbd, &format!("v{v}")).unwrap();
            for at in (0..size).step_by(8 << 20) {
                nbd.write(at as u64, &vec![v as u8 + 1; (8 << 20).min(size - at)]).unwrap();
            }
        }
        Remote { c, hosts }
    }

    /// The sum of a metric of a node over all its labels.
    pub fn metric(&self, node: usize, name: &str) -> u64 {
        let page = tool_ok("curl", &["-s", &format!("http://{}/metrics", self.c.nodes[node].http)]);
        let lines = page.lines().filter(|l| l.starts_with(name) && !l.starts_with('#'));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Resident memory of a node's process, in bytes.
    pub fn resident(&self, node: usize) -> u64 {
        let pid = self.c.nodes[node].pid().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap() << 10
    }

    /// Of n2: messages sent again, and bytes received over links.
    pub fn counters(&self) -> (u64, u64) {
        (self.metric(1, "holdfast_volume_resends_total"), self.metric(1, "holdfast_link_received_bytes_total"))
    }

    /// Throughput in bytes per second when `connections` connections read the first `bytes` of `v0`
    /// together, each 64 KiB at a time.
    pub fn read_together(&self, bytes: u64, connections: u64) -> f64 {
        const PIECE: u64 = 64 << 10;
        let began = std::time::Instant::now();
        std::thread::scope(|s| {
            for i in 0..connections {
                s.spawn(move || {
                    let mut nbd = Nbd::connect(&self.c.nodes[1].nbd, "v0").unwrap();
                    for at in 0..bytes / connections / PIECE {
                        let off = i * (bytes / connections) + at * PIECE;
                        assert!(nbd.read(off, PIECE as u32).unwrap().iter().all(|b| *b == 1));
                    }
                });
            }
        });
        bytes as f64 / began.elapsed().as_secs_f64()
    }
}
