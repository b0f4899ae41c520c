//! The public NBD clients against our exports: libnbd's tools on images of odd sizes, and the
//! metrics that count them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, http_get, tool_ok};
use hf_tests::nbd::Wire;

const READ: u16 = 0;
const CACHE: u16 = 5;
const STATUS: u16 = 7;

fn cluster(volumes: &[&[&str]]) -> Cluster {
    let c = Cluster::new(1);
    for attributes in volumes {
        c.ok(&[&["volume", "create"], *attributes, &["size=64MiB", "replicas=1"]].concat());
        c.ok(&["volume", "attach", attributes[0]]);
    }
    c
}

/// The sum of a volume's metric over its shards.
fn metric(c: &Cluster, name: &str, volume: &str) -> u64 {
    let page = http_get(&c.nodes[0].http, "/metrics").unwrap();
    let begin = format!("holdfast_{name}{{volume=\"{volume}\"");
    page.lines().filter(|l| l.starts_with(&begin)).map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// libnbd refuses to send less than the advertised minimum, so an image whose size is no multiple
/// of it could not be copied.
#[test]
fn nbdcopy_moves_images_of_any_number_of_sectors() {
    let c = cluster(&[&["v", "block_size=4096"], &["s", "block_size=512"]]);
    for volume in ["v", "s"] {
        for sectors in [1, 7, 8, 2047, 2049, 20_483] {
            let image: Vec<u8> = (0..sectors * 512).map(|i| (i / 512 * 31 + i % 251 + 1) as u8).collect();
            let (file, back) = (c.dir.path().join("image"), c.dir.path().join("back"));
            std::fs::write(&file, &image).unwrap();
            tool_ok("nbdcopy", &[file.to_str().unwrap(), &c.unix_uri(0, volume)]);
            let _ = std::fs::remove_file(&back);
            tool_ok("nbdcopy", &[&c.unix_uri(0, volume), back.to_str().unwrap()]);
            let copied = std::fs::read(&back).unwrap();
            assert!(copied.len() == 64 << 20 && copied[..image.len()] == image, "{volume}: {sectors} sectors");
        }
        let info = tool_ok("nbdinfo", &[&c.unix_uri(0, volume)]);
        for line in ["block_size_minimum: 512", "block_size_preferred: 4096", "block_size_maximum: 33554432"] {
            assert!(info.contains(line), "{volume}: {line}: {info}");
        }
    }
}

#[test]
fn a_read_of_nothing_is_answered_without_a_data_chunk() {
    let c = cluster(&[&["v"]]);
    let mut w = Wire::go(&c.nodes[0].nbd, "v", true).unwrap();
    for (command, at) in [(READ, 0), (READ, 64 << 20), (CACHE, 4096)] {
        let r = w.ask(0, command, at, 0).unwrap();
        assert_eq!((r.kind, r.error, r.data), (0, 0, vec![]), "command {command} at {at}");
    }
}

/// A block status is no read, and delivers no bytes.
#[test]
fn only_what_was_delivered_counts_as_read() {
    let c = cluster(&[&["v"]]);
    let mut w = Wire::go(&c.nodes[0].nbd, "v", true).unwrap();
    let seen = |c: &Cluster| (metric(c, "volume_reads_total", "v"), metric(c, "volume_read_bytes_total", "v"));
    assert_eq!(w.ask(0, STATUS, 0, 32 << 20).unwrap().kind, 5);
    assert_eq!(seen(&c), (0, 0));
    assert_eq!(w.ask(0, READ, 4096, 8192).unwrap().data.len(), 8 + 8192);
    assert_eq!(seen(&c), (1, 8192));
}
