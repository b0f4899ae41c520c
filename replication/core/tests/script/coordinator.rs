//! The coordinator in a transcript. Members answer only what the script says, and only what they
//! were asked.
//!
//! | input | |
//! | --- | --- |
//! | `attach term= epoch= in-sync=1,2 out=3@1.5 activated= served=no min= blocks=` | a coordinator for this record |
//! | `up 1,2` `down 1` `reborn 1` | links; `reborn`: up, as another process |
//! | `1,2 SealAck stable= max=` | these members answer the oldest such request |
//! | `1 WriteAck`, …, `1 Nack <request> <why>` | as above, with the other answers |
//! | `client 7 write 0+4096 a` (`read`, `zero`, `flush`) | a client's request, in bytes |
//! | `record in-sync= out= term= session=` | the record has changed; the epoch rises by one (not with `served` alone) |
//! | `proposed done` `sync-go` `stop` `status` | |
//! | `wait 200ms` | time passes; the coordinator is called whenever it asked to be |

use super::*;
use crate::common::{self, BOOT, SESSION};
use hf_repl_core::coordinator::{self as co, ClientOp, ClientReply, Coordinator, Input, Output, Proposed};
use std::collections::BTreeMap;

const CREDIT: u64 = 1 << 40;

/// A request that a member has not answered.
struct Open {
    rid: Rid,
    env: Envelope,
    msg: Msg,
}

/// The coordinator and who talks to it.
#[derive(Default)]
pub struct World {
    c: Option<Coordinator>,
    record: Option<co::Record>,
    now: Tick,
    open: Vec<Open>,
    boots: BTreeMap<Rid, BootId>,
    lines: Vec<String>,
}

impl Machine for World {
    fn input(&mut self, words: &[&str]) -> Vec<String> {
        let (first, rest) = words.split_first().expect("an empty input");
        match *first {
            "attach" => self.attach(rest),
            "up" | "down" | "reborn" => self.link(first, rest),
            "client" => self.client(rest),
            "record" => self.record(rest),
            "proposed" => self.proposed(rest[0]),
            "sync-go" => self.step(Input::SyncGo),
            "stop" => self.step(Input::Stop),
            "status" => self.status(),
            "wait" => self.wait(unit::parse_duration_us(rest[0]).unwrap()),
            rids => self.answer(rids, rest),
        }
        std::mem::take(&mut self.lines)
    }
}

fn members(text: &str) -> BTreeMap<Rid, co::MemberInfo> {
    let info = |i: u64| co::MemberInfo { node: NodeId(i), store_uuid: StoreUuid(i.into()) };
    list(text).into_iter().map(|i| (Rid(i), info(i))).collect()
}

/// `3@1.5`; when its journal's position is recorded, `3@1.5+40`; when its sync has begun, `3@1.5/77`.
fn outs(text: &str) -> BTreeMap<Rid, co::OutInfo> {
    let one = |t: &str| {
        let (rid, at) = t.split_once('@').unwrap_or_else(|| panic!("{t} is no replica that is out"));
        let (base, sync) = at.split_once('/').map_or((at, None), |(b, s)| (b, Some(s.parse().unwrap())));
        let (base, position) = base.split_once('+').map_or((base, 0), |(b, p)| (b, p.parse().unwrap()));
        let i: u64 = rid.parse().unwrap();
        let store_uuid = Some(StoreUuid(i.into()));
        (Rid(i), co::OutInfo { node: NodeId(i), store_uuid, base: ver(base), position, sync_id: sync })
    };
    text.split(',').filter(|s| !s.is_empty()).map(one).collect()
}

impl World {
    fn attach(&mut self, w: &[&str]) {
        let cfg = co::Config {
            blocks: number(w, "blocks", 1024),
            min_replicas: number(w, "min", 1) as u32,
            strict_reads: number(w, "strict", 0) == 1,
            ..common::config()
        };
        let record = co::Record {
            term: Term(number(w, "term", 1) as u32),
            epoch: Epoch(number(w, "epoch", 1)),
            activated: Term(number(w, "activated", 0) as u32),
            served: value(w, "served") != Some("no"),
            in_sync: members(value(w, "in-sync").unwrap()),
            out: outs(value(w, "out").unwrap_or("")),
            ..common::record(0)
        };
        *self = World { now: START, ..World::default() };
        self.record = Some(record.clone());
        let mut out = Vec::new();
        self.c = Some(Coordinator::new(self.now, cfg, record, &mut out));
        self.take(out);
    }

    fn link(&mut self, what: &str, w: &[&str]) {
        for rid in list(w[0]).into_iter().map(Rid) {
            let boot = self.boots.entry(rid).or_insert(BOOT);
            if what == "reborn" {
                boot.0 += 1;
            }
            let boot = *boot;
            self.step(if what == "down" { Input::PeerDown { rid } } else { Input::PeerUp { rid, boot } });
        }
    }

    fn client(&mut self, w: &[&str]) {
        let id = w[0].parse().unwrap();
        let span = |t: &str| {
            let (off, len) = t.split_once('+').unwrap_or_else(|| panic!("{t} is no span"));
            (off.parse::<u64>().unwrap(), len.parse::<u64>().unwrap())
        };
        let op = match (w[1], w.get(2).map(|t| span(t))) {
            ("read", Some((off, len))) => ClientOp::Read { off, len: len as u32 },
            ("write", Some((off, len))) => ClientOp::Write { off, data: filled(w[3], len as usize) },
            ("zero", Some((off, len))) => ClientOp::Zero { off, len },
            ("flush", None) => ClientOp::Flush,
            other => panic!("{other:?} is no request"),
        };
        self.step(Input::Client { id, op });
    }

    fn record(&mut self, w: &[&str]) {
        let mut r = self.record.clone().unwrap();
        r.served |= w.contains(&"served");
        // That a term is served is recorded without a new epoch.
        if w != ["served"] {
            r.epoch = r.epoch.next();
        }
        r.term = Term(number(w, "term", r.term.0.into()) as u32);
        r.session = value(w, "session").map_or(r.session, |s| s.parse().ok().map(SessionId));
        if let Some(t) = value(w, "in-sync") {
            r.in_sync = members(t);
        }
        if let Some(t) = value(w, "out") {
            r.out = outs(t);
        }
        if let Some(t) = value(w, "leaving") {
            r.leaving = list(t).into_iter().map(Rid).collect();
        }
        if let Some(t) = value(w, "paused") {
            r.paused = list(t).into_iter().map(Rid).collect();
        }
        self.record = Some(r.clone());
        self.open.retain(|o| r.in_sync.contains_key(&o.rid) || r.out.contains_key(&o.rid));
        self.step(Input::Record(r));
    }

    fn proposed(&mut self, how: &str) {
        self.step(Input::Proposed(match how {
            "done" => Proposed::Done,
            "retry" => Proposed::Retry,
            "busy" => Proposed::Busy,
            "stale" => Proposed::Stale,
            "unknown" => Proposed::Unknown,
            other => panic!("{other} is no outcome of a proposal"),
        }));
    }

    fn status(&mut self) {
        let s = self.c.as_ref().unwrap().status();
        let sync = s.sync.map_or(String::new(), |x| format!(", sync of {}: {:?}", x.rid, x.stage));
        let (phase, stable) = (s.phase, ver_text(s.stable));
        self.say(format!("{phase:?}, term {}, {} in sync, stable {stable}{sync}", s.term.0, s.in_sync));
    }

    fn wait(&mut self, us: u64) {
        let end = self.now.plus(us);
        // Called at once if it is due, then whenever it asked to be: as the daemon does.
        while let Some(due) = self.c.as_ref().unwrap().next_deadline().filter(|d| *d <= end) {
            self.now = self.now.max(due).max(Tick(self.now.0 + 1));
            if self.now > end {
                break;
            }
            self.step(Input::Tick);
        }
        self.now = end;
    }

    /// Members answer the oldest request of theirs that this is an answer to.
    fn answer(&mut self, rids: &str, w: &[&str]) {
        for rid in list(rids).into_iter().map(Rid) {
            let asked = |m: &Msg| reply(m, w);
            let at = self.open.iter().position(|o| o.rid == rid && asked(&o.msg).is_some());
            let at = at.unwrap_or_else(|| panic!("member {rid} was asked nothing that {w:?} answers"));
            let msg = reply(&self.open[at].msg, w).unwrap();
            let boot = self.boots.get(&rid).copied().unwrap_or(BOOT);
            let env = Envelope { boot, ..self.open[at].env };
            // "Wait" leaves the question open.
            if !matches!(msg, Msg::SealWait { .. }) {
                self.open.remove(at);
            }
            self.step(Input::Message { rid, env, msg });
        }
    }

    fn step(&mut self, input: Input) {
        let c = self.c.as_mut().expect("attach first");
        let mut out = Vec::new();
        c.step(self.now, input, &mut out);
        c.check().unwrap();
        self.take(out);
    }

    fn say(&mut self, what: String) {
        self.lines.push(format!("{:>9} {what}", self.now.since(START) as f64 / 1e3));
    }

    fn take(&mut self, out: Vec<Output>) {
        for o in out {
            match o {
                Output::Send { rid, env, msg } => self.sent(rid, env, msg),
                Output::Propose { epoch, term, change } => {
                    self.say(format!("propose at epoch {}, term {}: {}", epoch.0, term.0, change_text(&change)));
                }
                Output::Reply { id, result } => self.say(match result {
                    Ok(ClientReply::Done) => format!("answer {id}: done"),
                    Ok(ClientReply::Data(d)) => format!("answer {id}: {}", bytes_text(&d.concat())),
                    Ok(ClientReply::Extents(e)) => format!("answer {id}: {e:?}"),
                    Err(e) => format!("answer {id}: {e:?}: {e}"),
                }),
                Output::WantSync { urgent } => self.say(format!("WantSync{}", if urgent { " (urgent)" } else { "" })),
                other => self.say(format!("{other:?}")),
            }
        }
    }

    fn sent(&mut self, rid: Rid, env: Envelope, msg: Msg) {
        let r = self.record.as_ref().unwrap();
        let store_uuid = StoreUuid(rid.0.into());
        let (cluster, shard) = (ClusterId(1), ShardId { vol: VolumeId(1), index: 0 });
        let (lineage, term, session) = (r.lineage, r.term, SESSION);
        let boot = self.boots.get(&rid).copied().unwrap_or(BootId::NONE);
        let want = Envelope { cluster, shard, rid, store_uuid, lineage, term, session, req: env.req, boot };
        assert_eq!(env, want, "a message to somebody else");
        let again = self.open.iter().any(|o| o.rid == rid && o.env.req == env.req && o.msg == msg);
        let no = if env.req == 0 { String::new() } else { format!(" #{}", env.req) };
        self.say(format!("to {rid}{no}{}: {}", if again { " again" } else { "" }, msg_text(&msg)));
        // A newer question of the same kind takes the older one's place where the coordinator
        // forgets the older one.
        let same = |o: &Open| match (&o.msg, &msg) {
            (Msg::Seal { .. }, Msg::Seal { .. }) | (Msg::Lease { .. }, Msg::Lease { .. }) => true,
            _ => o.env.req == env.req,
        };
        self.open.retain(|o| !(o.rid == rid && same(o)));
        self.open.push(Open { rid, env, msg });
    }
}

fn change_text(c: &co::Change) -> String {
    match c {
        co::Change::Drop { rids, base, told, .. } => {
            let at = |r: &Rid| told.get(r).map_or(String::new(), |p| format!("+{p}"));
            let l: Vec<String> = rids.iter().map(|r| format!("{r}{}", at(r))).collect();
            format!("Drop {} base={}", l.join(","), ver_text(*base))
        }
        co::Change::SyncStart { rid, sync_id } => format!("SyncStart {rid} sync_id={sync_id}"),
        co::Change::Add { rid, store_uuid } => format!("Add {rid} store={}", store_uuid.0),
        co::Change::Scrubbed { id, .. } => format!("Scrubbed {id}"),
    }
}

/// What the words say in answer to a message, if they are one to it.
fn reply(asked: &Msg, w: &[&str]) -> Option<Msg> {
    let credit = number(w, "credit", CREDIT);
    let args = &w[1..];
    Some(match (w[0], asked) {
        ("SealAck", Msg::Seal { .. }) => {
            let (stable, max_ver) = (ver_of(w, "stable", Ver::ZERO), ver_of(w, "max", Ver::ZERO));
            Msg::SealAck { stable, max_ver, credit, position: number(w, "position", 0) }
        }
        ("SealWait", Msg::Seal { .. }) => Msg::SealWait { us: unit::parse_duration_us(args[0]).unwrap() },
        ("WriteAck", Msg::Write { seq, .. }) if number(w, "seq", *seq) == *seq => {
            Msg::WriteAck { position: number(w, "position", 1), credit }
        }
        ("LeaseAck", Msg::Lease { sent_at, .. }) => Msg::LeaseAck { sent_at: *sent_at, credit },
        ("ReserveAck", Msg::Reserve { .. }) => Msg::ReserveAck { needs: number(w, "needs", 0), credit },
        ("ListAck", Msg::ChunkList { .. }) => {
            let one = |t: &&str| t.split_once('@').map(|(c, v)| (ChunkIx(c.parse().unwrap()), ver(v)));
            Msg::ChunkListAck { chunks: args.iter().filter_map(one).collect(), more: args.contains(&"more") }
        }
        ("VersionsAck", Msg::ChunkVersions { chunk, since })
            if number(w, "chunk", chunk.0.into()) == u64::from(chunk.0) =>
        {
            let blocks: Vec<&str> = args.iter().copied().filter(|t| !t.starts_with("chunk=")).collect();
            Msg::ChunkVersionsAck { infos: listed(&chunk_infos(&blocks), *since) }
        }
        ("ReadAck", Msg::Read { range }) if args.len() == range.len as usize => {
            let (infos, data): (Vec<_>, Vec<_>) = args.iter().map(|t| block(t)).unzip();
            Msg::ReadAck { infos, data: data.concat().into() }
        }
        ("CopyAck", Msg::Copy { items }) => {
            let applied: Vec<bool> = args.iter().map(|a| *a == "yes").collect();
            assert_eq!(applied.len(), items.len(), "one word per item");
            Msg::CopyAck { applied }
        }
        ("Nack", m) if format!("{m:?}").starts_with(args[0]) => Msg::Nack(nack(args[1])),
        _ => return None,
    })
}

/// A refusal from its name; `StaleTerm` carries the term.
fn nack(text: &str) -> Nack {
    match text.split_once('=') {
        Some(("StaleTerm", t)) => Nack::StaleTerm { promised: Term(t.parse().unwrap()) },
        _ => *[
            Nack::FutureTerm,
            Nack::WrongStore,
            Nack::WrongLineage,
            Nack::NoReplica,
            Nack::NoSpace,
            Nack::BadCrc,
            Nack::Failed,
            Nack::Invalid,
        ]
        .iter()
        .find(|n| format!("{n:?}") == text)
        .unwrap_or_else(|| panic!("{text} is no refusal")),
    }
}
