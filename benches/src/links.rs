//! What reads of a remote replica get of a link, beside plain TCP over the same link in the same run:
//! unshaped, at 200 Mbit/s and at 1 Mbit/s.

use hf_tests::remote::Remote;

/// The least share of plain TCP that is good enough.
const LEAST: f64 = 0.8;

/// Prints the table, and which links are used badly.
pub fn run() {
    let w = Remote::new(1, 256 << 20);
    let mut bad = Vec::new();
    println!("{:>12} {:>14} {:>14} {:>6} {:>8}", "link", "plain TCP", "reads", "ratio", "repeats");
    for (name, kbit, bytes) in
        [("unshaped", None, 256u64 << 20), ("200 Mbit/s", Some(200_000), 128 << 20), ("1 Mbit/s", Some(1_000), 1 << 20)]
    {
        w.hosts.rate(3, kbit);
        let before = w.counters().0;
        let mut ratios: Vec<(f64, f64, f64)> = (0..3)
            .map(|_| {
                let plain = w.hosts.plain_tcp(3, 2, bytes as usize);
                let reads = w.read_together(bytes, 16);
                (reads / plain, plain, reads)
            })
            .collect();
        ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, plain, reads) = ratios[1];
        let repeats = w.counters().0 - before;
        println!("{name:>12} {:>9.2} MB/s {:>9.2} MB/s {ratio:>6.2} {repeats:>8}", plain / 1e6, reads / 1e6);
        if ratio < LEAST || repeats > 0 {
            bad.push(name);
        }
    }
    w.hosts.rate(3, None);
    println!("less than {LEAST} of plain TCP, or anything repeated: {bad:?}");
}
