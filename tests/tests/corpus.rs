//! The fuzzers' committed corpus, replayed: every input that ever reached something new, and every
//! one that ever crashed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::fuzz::TARGETS;
use std::path::Path;

#[test]
fn every_parser_bears_its_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, run) in TARGETS {
        let dir = root.join("corpus").join(name);
        let files: Vec<_> = std::fs::read_dir(&dir)
            .unwrap_or_else(|e| panic!("{}: {e}; each target has a corpus", dir.display()))
            .map(|e| e.unwrap().path())
            .collect();
        for f in &files {
            let data = std::fs::read(f).unwrap();
            // (The message names the file.)
            let ran = std::panic::catch_unwind(|| run(&data));
            assert!(ran.is_ok(), "{name} does not bear {}", f.display());
            // And damaged a little everywhere.
            for at in (0..data.len().min(4096)).step_by(1 + data.len() / 24) {
                let mut bad = data.clone();
                bad[at] ^= 1 << (at % 8);
                run(&bad);
                run(&data[..at]);
            }
        }
        let found = found(&root.join("found").join(format!("{name}.pack")));
        for (i, data) in found.iter().enumerate() {
            let ran = std::panic::catch_unwind(|| run(data));
            assert!(ran.is_ok(), "{name} does not bear input {i} of those that were found: {data:02x?}");
        }
        println!("{name}: {} inputs, and {} that fuzzing found", files.len(), found.len());
        assert!(files.len() >= 3, "{name} has next to no corpus");
    }
}

/// What ten minutes of fuzzing found to reach each place in a parser, or a part of it: inputs in a
/// row, each behind its length (two bytes, little endian). Made by `-set_cover_merge=1` of the
/// fuzzers' working corpora.
fn found(pack: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(pack).unwrap_or_else(|e| panic!("{}: {e}", pack.display()));
    let (mut left, mut all) = (&bytes[..], Vec::new());
    while let Some((len, rest)) = left.split_first_chunk::<2>() {
        let (input, after) = rest.split_at(usize::from(u16::from_le_bytes(*len)));
        all.push(input.to_vec());
        left = after;
    }
    assert!(!all.is_empty() && left.is_empty(), "{} is cut short", pack.display());
    all
}

/// What is replayed here is what is fuzzed: every target has its file, which names it, and its
/// entry in the fuzzers' manifest.
#[test]
fn every_target_is_fuzzed() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let file = std::fs::read_to_string(dir.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(file.contains(&format!("\"{name}\"")), "fuzz_targets/{name}.rs runs something else");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in fuzz/Cargo.toml");
    }
    for (what, n) in [("fuzz_targets", TARGETS.len()), ("corpus", TARGETS.len())] {
        assert_eq!(std::fs::read_dir(dir.join(what)).unwrap().count(), n, "{what}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

/// `UPDATE=1`: writes one valid input of each kind, for the fuzzers to begin with.
#[test]
fn seeds_are_valid_structures() {
    for (target, inputs) in seeds().into_iter().chain(node_seeds()) {
        assert!(TARGETS.iter().any(|(n, _)| *n == target), "{target}");
        for (i, data) in inputs.iter().enumerate() {
            hf_tests::fuzz::run(target, data);
            if std::env::var_os("UPDATE").is_some() {
                let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
                std::fs::create_dir_all(&dir).unwrap();
                std::fs::write(dir.join(format!("seed-{i:02}")), data).unwrap();
            }
        }
    }
}

fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    use hf_meta_core::{Command, Envelope as Env, image};
    use hf_policy::*;
    use hf_repl_core::message::{Envelope, Msg, WriteKind};
    use hf_repl_core::wire::{self, Hello, HelloReply};
    let env = Envelope { rid: Rid(4), term: Term(7), req: 9, ..Default::default() };
    let range = BlockRange::new(10, 1);
    let data = bytes::Bytes::from(vec![5u8; 4096]);
    let msgs = [
        Msg::Seal { epoch: Epoch(5), held: Ver::new(3, 9), position: 7, stable: Ver::new(4, 0) },
        Msg::Write { seq: 4, range, stable: Ver::ZERO, kind: WriteKind::Data { crcs: crc::payloads(&data), data } },
        Msg::Write { seq: 4, range, stable: Ver::ZERO, kind: WriteKind::Zero { keep: true } },
        Msg::Read { range },
        Msg::ChunkVersionsAck { infos: (0..=255).map(|at| (at, Default::default())).collect() },
        Msg::CopyAck { applied: vec![true, false] },
    ];
    let frames = msgs.iter().map(|m| wire::encode(&env, m).head.to_vec()).collect();
    let hellos = vec![
        Hello { min_version: 1, max_version: 2, ..Default::default() }.to_frame().to_vec(),
        HelloReply { version: 1, text: "no".into(), ..Default::default() }.to_frame().to_vec(),
        vec![],
    ];
    let opt = |o: u32, d: &[u8]| [b"IHAVEOPT", &o.to_be_bytes()[..], &(d.len() as u32).to_be_bytes(), d].concat();
    let go = [&3u32.to_be_bytes()[..], b"vol", &[0, 1, 0, 3]].concat();
    let query =
        [&3u32.to_be_bytes()[..], b"vol", &1u32.to_be_bytes(), &15u32.to_be_bytes(), b"base:allocation"].concat();
    let talks = vec![
        [vec![0, 0, 0, 3], opt(8, &[]), opt(10, &query), opt(7, &go)].concat(),
        [vec![0, 0, 0, 1], opt(3, &[]), opt(9, &query), opt(6, &go), opt(2, &[])].concat(),
        [vec![0, 0, 0, 0], opt(1, b"vol")].concat(),
    ];
    let requests = vec![
        hf_tests::nbd::Nbd::header(1, 0, 0, 4096, 8192),
        hf_tests::nbd::Nbd::header(2, 1, 1, 0, 512),
        hf_tests::nbd::Nbd::header(3, 8, 7, 0, 4096),
    ];
    let cmd = |cmd| Env { v: 1, request: RequestId(7), at_ms: 1, cmd }.encode().unwrap();
    let commands = vec![
        cmd(Command::Init { cluster: ClusterId(1), name: "c".into() }),
        cmd(Command::Drop {
            vol: VolumeId(1),
            shard: 0,
            epoch: Epoch(2),
            term: Term(3),
            rids: vec![Rid(1)],
            base: Ver::ZERO,
            told: Default::default(),
            reasons: Default::default(),
        }),
        cmd(Command::PauseRebuild { paused: true }),
        cmd(Command::DeleteVolume { vol: VolumeId(1), epoch: Epoch(4) }),
    ];
    let mut state = hf_meta_core::ClusterState::default();
    state.apply(&Env::decode(&commands[0]).unwrap()).unwrap();
    let images = vec![
        image::encode(&state).unwrap(),
        image::encode(&Default::default()).unwrap(),
        b"holdfast-cluster-image 9\n{}".to_vec(),
    ];
    let words = [
        "size=10GiB replicas=3 nodes=a,b",
        "replica_timeout=1.5s scrub_interval=0 rebuild_impact=5%",
        "10GiB",
        "label.x=y media=nvme",
        r#"{"name":"v","spec":{"size":"10GiB","replicas":3,"label.x":"y"}}"#,
        r#"{"name":"v","spec":{"size":4096,"read_only":true,"rebuild_after":0.5,"nodes":"n1,n2"}}"#,
    ];
    let (blocks, disks) = store_blocks();
    let of = |magic: &[u8]| blocks.iter().filter(|b| b.starts_with(magic)).take(6).cloned().collect::<Vec<_>>();
    vec![
        ("wire_frame", frames),
        ("wire_hello", hellos),
        ("nbd_handshake", talks),
        ("nbd_request", requests),
        ("journal_group", of(b"HFJ1")),
        ("chunk_page", of(&page_magic(&blocks))),
        ("superblock", [of(b"HOLDFAST"), vec![vec![0; 64], b"HOLDFAST".to_vec()]].concat()),
        ("index_page", blocks.iter().take(40).step_by(8).cloned().collect()),
        ("disk_open", disks),
        ("command", commands),
        ("cluster_image", images),
        ("policy", words.iter().map(|w| w.as_bytes().to_vec()).collect()),
    ]
}

fn raft_request(cluster: Vec<u8>) -> hf_meta_proto::pb::RaftRequest {
    use hf_meta_proto::pb;
    let log = Some(pb::LogTold { id: vec![7; 16], age: 3, nth: 2, member: 1, start: 9 });
    pb::RaftRequest { cluster, from: 1, to: 2, message: vec![8, 3], log, from_log: vec![8; 16], from_nth: 1 }
}

/// A node's files, and what nodes say to each other on the control plane.
fn node_seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    use hf_host_config::identity::{FORMAT, Identity, KnownDisk};
    use hf_meta_core::{ClusterState, Command, Envelope as Env};
    use hf_meta_proto::pb;
    use hf_policy::*;
    use prost::Message;
    use prost_old::Message as _;
    use raft::eraftpb;
    let disk = KnownDisk { path: "/data/a".into(), uuid: DiskUuid(7), id: DiskId(3) };
    let (format, uuid, cluster, node) = (FORMAT, BootId(5), ClusterId(1), NodeId(2));
    let id = Identity { format, uuid, cluster, node, disks: vec![disk], has_log: true };
    let fresh = Identity { disks: vec![], cluster: ClusterId::NONE, node: NodeId(0), ..id.clone() };
    let newer = Identity { format: FORMAT + 1, ..id.clone() };
    let identities = [&id, &fresh, &newer].map(|i| i.encode().unwrap());
    let configs = [
        "name = \"a\"\ndata_dir = \"/d\"\napi = \"10.0.0.1:7420\"\nreactors = 2\n[labels]\nzone = \"x\"\n\
         [[disk]]\npath = \"/dev/sdb\"\nmedia = \"nvme\"\n[[disk]]\npath = \"/d/1\"\nsize = \"10GiB\"\n",
        "nbd = \"[::1]:10809\"\nnbd_socket = \"/s\"\nhttp = \":9\"\ndisk_backend = \"threads\"\nreplace_voter_after = \"2m\"\n",
        "log_format = \"json\"\ndisk_error_budget = 0\nunknown = 1\n",
        "127.0.0.1:7420",
    ];
    let env = |cmd| Env { v: 1, request: RequestId(7), at_ms: 1, cmd };
    let mut state = ClusterState::default();
    state.apply(&env(Command::Init { cluster: ClusterId(1), name: "c".into() })).unwrap();
    let early = state.clone();
    state.apply(&Env { request: RequestId(8), ..env(Command::PauseRebuild { paused: true }) }).unwrap();
    let json = |x: &ClusterState| serde_json::to_vec(x).unwrap();
    let views = vec![json(&ClusterState::default()), json(&early), json(&state)];
    let delta = |from| serde_json::to_vec(&state.delta_since(from).unwrap()).unwrap();
    let removed =
        br#"{"changes":{"from":3,"to":9,"nodes":[],"disks":[],"volumes":[],"tombstones":[],"removed":[],"events":[]}}"#;
    let deltas = vec![delta(0), delta(early.revision), removed.to_vec()];
    let envelope = env(Command::DeleteVolume { vol: VolumeId(1), epoch: Epoch(4) }).encode().unwrap();
    let cluster = vec![1; 16];
    let of = |kind: u8, body: Vec<u8>| [vec![kind], body].concat();
    let used = vec![pb::DiskUse { disk: 3, used: 1 << 30, entries: 0, ..Default::default() }];
    let beat = pb::HeartbeatRequest { node: 2, disks: used, cluster: cluster.clone(), ..Default::default() };
    let asked = pb::AskRequest { what: r#"{"volume":"v"}"#.into(), cluster: cluster.clone(), ..Default::default() };
    let answered = pb::AskReply { answer: r#""detached""#.into(), revision: 7, ..Default::default() };
    let grpc = vec![
        of(0, raft_request(cluster.clone()).encode_to_vec()),
        of(1, pb::ProposeRequest { envelope, cluster: cluster.clone(), ..Default::default() }.encode_to_vec()),
        of(2, pb::ProposeReply { outcome: b"{}".to_vec(), not_leader: true, ..Default::default() }.encode_to_vec()),
        of(5, pb::WatchRequest { from_revision: 4, follow: true, cluster }.encode_to_vec()),
        of(6, beat.encode_to_vec()),
        of(7, asked.encode_to_vec()),
        of(8, answered.encode_to_vec()),
    ];
    let entry = eraftpb::Entry { index: 4, term: 2, data: b"x".to_vec(), ..Default::default() };
    let mut append = eraftpb::Message { from: 1, to: 2, term: 2, index: 3, ..Default::default() };
    append.entries = vec![entry.clone()];
    let mut image = eraftpb::Snapshot { data: vec![1, 2], ..Default::default() };
    image.mut_metadata().mut_conf_state().voters = vec![1, 2, 3];
    let rafts = vec![
        of(0, append.encode_to_vec()),
        of(1, entry.encode_to_vec()),
        of(2, image.encode_to_vec()),
        of(3, eraftpb::HardState { term: 2, vote: 1, commit: 3 }.encode_to_vec()),
        of(4, eraftpb::ConfChange { node_id: 3, ..Default::default() }.encode_to_vec()),
    ];
    vec![
        ("node_identity", identities.into()),
        ("node_config", configs.iter().map(|c| c.as_bytes().to_vec()).collect()),
        ("cluster_view", views),
        ("watch_delta", deltas),
        ("grpc_message", grpc),
        ("raft_message", rafts),
    ]
}

/// The four bytes that chunk pages begin with.
fn page_magic(blocks: &[Vec<u8>]) -> Vec<u8> {
    let pages = blocks.iter().filter(|b| !b.starts_with(b"HFJ1") && !b.starts_with(b"HOLDFAST"));
    let mut count = std::collections::BTreeMap::new();
    for b in pages.filter(|b| b[..4].is_ascii()) {
        *count.entry(b[..4].to_vec()).or_insert(0) += 1;
    }
    count.into_iter().find(|(k, _)| k.starts_with(b"HF")).map(|(k, _)| k).unwrap_or_default()
}

/// Blocks of a disk that was used, and inputs that lay some of them over a fresh one.
fn store_blocks() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    use hf_policy::*;
    use hf_store::sim::SimDisk;
    use hf_store::*;
    let mut disk = SimDisk::new(16 << 20);
    let p = FormatParams {
        cluster: ClusterId(1),
        node: NodeId(1),
        disk: DiskUuid(9),
        journal: Some(1 << 20),
        salt: hf_store::format::Salt(9),
    };
    recovery::format(&mut disk, p).unwrap();
    let mut store = recovery::open(&mut disk, Config::default()).unwrap();
    let mut out = Vec::new();
    store.start(&mut out);
    let rec = ReplicaRec {
        shard: ShardId { vol: VolumeId(1), index: 0 },
        rid: Rid(5),
        store_uuid: StoreUuid(77),
        lineage: Lineage(1),
        promised_term: Term(1),
        promised_session: SessionId(1),
        stable_known: Ver::ZERO,
        blocks: 2048,
        deleting: false,
        hint_epoch: 1,
        hint_name: "v".into(),
        hint_size: 0,
    };
    let data = bytes::Bytes::from(vec![3u8; 8192]);
    let write = |at: u64, seq: u64| Op::Write {
        rid: Rid(5),
        ver: Ver::new(1, seq),
        start: BlockIx(at),
        crcs: crc::payloads(&data),
        data: data.clone(),
    };
    let ops = [
        Op::CreateReplica(rec),
        write(0, 1),
        write(300, 2),
        Op::Zero { rid: Rid(5), ver: Ver::new(1, 3), range: BlockRange::new(1, 1), keep: true },
        Op::Checkpoint,
        write(700, 4),
    ];
    for (id, op) in ops.into_iter().enumerate() {
        store.step(Input::Op { id: id as u64, op }, &mut out);
        loop {
            for o in std::mem::take(&mut out) {
                if let Output::Disk { tag, op } = o {
                    disk.submit(tag, op);
                }
            }
            let Some((tag, result)) = disk.complete(0) else { break };
            store.step(Input::DiskDone { tag, result }, &mut out);
        }
    }
    disk.crash_keeping(|_| true);
    let written = disk.written();
    let blocks: Vec<Vec<u8>> = written.iter().map(|b| disk.block(*b).to_vec()).collect();
    let overlay = |b: &u64| [&(*b as u16).to_le_bytes()[..], &disk.block(*b)[..254]].concat();
    (blocks, written.chunks(6).take(5).map(|c| c.iter().flat_map(overlay).collect()).collect())
}
