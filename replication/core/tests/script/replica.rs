//! The replica in a transcript. Its store answers only what the script says.
//!
//! | input | |
//! | --- | --- |
//! | `begin promised= session= stable= position=` | a process start over this durable state |
//! | `link 1 term= session= Seal epoch= held= position=` | a message; so are `Write`, `Read`, … |
//! | `store 3 done max= position= credit=` | the store is done with a tag |
//! | `store 3 read`, `versions`, `copied`, `chunks`, `needs`, `error` | the same, with another answer |
//! | `wait 200ms` | time passes |

use super::*;
use crate::common;
use hf_repl_core::replica::{Durable, Input, Output, Replica, StoreAnswer, StoreOp};

const CREDIT: u64 = 1 << 40;

/// One replica and who talks to it.
#[derive(Default)]
pub struct World {
    r: Option<Replica>,
    now: Tick,
    lines: Vec<String>,
    /// Tags that the store owes an answer to.
    open: Vec<u64>,
}

impl Machine for World {
    fn input(&mut self, words: &[&str]) -> Vec<String> {
        let (first, rest) = words.split_first().expect("an empty input");
        match *first {
            "begin" => self.begin(rest),
            "link" => self.message(rest),
            "store" => self.store_done(rest),
            "wait" => self.now = self.now.plus(unit::parse_duration_us(rest[0]).unwrap()),
            other => panic!("{other} is no input"),
        }
        std::mem::take(&mut self.lines)
    }
}

impl World {
    fn begin(&mut self, w: &[&str]) {
        self.now = START;
        let session = SessionId(number(w, "session", 0).into());
        let d = Durable {
            stable: ver_of(w, "stable", Ver::ZERO),
            position: number(w, "position", 0),
            ..common::durable(number(w, "promised", 0) as u32, session)
        };
        self.r = Some(Replica::new(self.now, BootId(9), d));
    }

    fn message(&mut self, w: &[&str]) {
        let at = w.iter().position(|t| t.starts_with(char::is_uppercase)).expect("no message");
        let (to, what) = w.split_at(at);
        let term = number(to, "term", 1);
        let env = Envelope {
            rid: Rid(number(to, "rid", 1)),
            store_uuid: StoreUuid(number(to, "store", 1).into()),
            lineage: Lineage(number(to, "lineage", 1).into()),
            session: SessionId(number(to, "session", term).into()),
            boot: BootId(number(to, "boot", 0).into()),
            ..common::envelope(term as u32, number(to, "req", 1))
        };
        let msg = self.parse(what);
        self.step(Input::Message { link: to[0].parse().unwrap(), env, msg });
    }

    fn parse(&self, w: &[&str]) -> Msg {
        match w[0] {
            "Seal" => Msg::Seal {
                epoch: Epoch(number(w, "epoch", 1)),
                held: ver_of(w, "held", Ver::ZERO),
                position: number(w, "position", 0),
                stable: ver_of(w, "stable", Ver::ZERO),
            },
            "Write" => {
                let (seq, range, stable) = (number(w, "seq", 1), range(w[1]), ver_of(w, "stable", Ver::ZERO));
                let kind = match w[2] {
                    "zero" => WriteKind::Zero { keep: false },
                    letter => {
                        let data = filled(letter, range.bytes() as usize);
                        let mut crcs = crc::payloads(&data);
                        if w.contains(&"damaged") {
                            crcs[0].0 ^= 1;
                        }
                        WriteKind::Data { crcs, data }
                    }
                };
                Msg::Write { seq, range, stable, kind }
            }
            "Read" => Msg::Read { range: range(w[1]) },
            "Reserve" => Msg::Reserve { range: range(w[1]) },
            "Lease" => Msg::Lease { sent_at: self.now.0, stable: ver_of(w, "stable", Ver::ZERO) },
            "ChunkList" => Msg::ChunkList { since: ver_of(w, "since", Ver::ZERO), from: ChunkIx(0) },
            "ChunkVersions" => {
                Msg::ChunkVersions { chunk: ChunkIx(w[1].parse().unwrap()), since: ver_of(w, "since", Ver::ZERO) }
            }
            "Verify" => Msg::Verify { chunk: ChunkIx(w[1].parse().unwrap()) },
            "Copy" => Msg::Copy { items: w[1..].iter().map(|t| item(t)).collect() },
            "SealAck" => Msg::SealAck { stable: Ver::ZERO, max_ver: Ver::ZERO, credit: 0, position: 0 },
            other => panic!("{other} is no message"),
        }
    }

    fn store_done(&mut self, w: &[&str]) {
        let tag: u64 = w[0].parse().unwrap();
        let at = self.open.iter().position(|t| *t == tag);
        self.open.remove(at.unwrap_or_else(|| panic!("the store was not asked {tag}")));
        let args = &w[2..];
        let answer = match w[1] {
            "done" => StoreAnswer::Done,
            "read" => {
                let (infos, data): (Vec<_>, Vec<_>) = args.iter().map(|t| block(t)).unzip();
                StoreAnswer::Read(infos, data.concat().into())
            }
            "needs" => StoreAnswer::Needs(args[0].parse().unwrap()),
            "versions" => StoreAnswer::Versions(chunk_infos(args)),
            "copied" => StoreAnswer::Copied(args.iter().map(|a| *a == "yes").collect()),
            "chunks" => {
                let one = |t: &&str| t.split_once('@').map(|(c, v)| (ChunkIx(c.parse().unwrap()), ver(v)));
                StoreAnswer::Chunks(args.iter().filter_map(one).collect(), false)
            }
            "error" if args[0] == "NoSpace" => StoreAnswer::Error(Nack::NoSpace),
            "error" => StoreAnswer::Error(Nack::Failed),
            other => panic!("{other} is no answer of a store"),
        };
        let (credit, max_ver) = (number(w, "credit", CREDIT), ver_of(w, "max", Ver::ZERO));
        self.step(Input::Store { position: number(w, "position", 0), tag, answer, credit, max_ver });
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.r.as_mut().expect("begin first").step(self.now, input, &mut out);
        let ms = self.now.since(START) as f64 / 1e3;
        for o in out {
            let what = match o {
                Output::Send { link, env, msg } => {
                    assert_eq!((env.boot, env.rid), (BootId(9), env.rid), "a reply names the process");
                    format!("to link {link} (term {}, #{}): {}", env.term.0, env.req, msg_text(&msg))
                }
                Output::Renew => "renew the storage's identity".into(),
                Output::Store { tag, op } => {
                    self.open.push(tag);
                    format!("store {tag}: {}", op_text(&op))
                }
            };
            self.lines.push(format!("{ms:>9} {what}"));
        }
    }
}

fn op_text(op: &StoreOp) -> String {
    match op {
        StoreOp::Promise { term, session, stable, epoch } => {
            format!("Promise term={} session={} stable={} epoch={}", term.0, session.0, ver_text(*stable), epoch.0)
        }
        StoreOp::Write { ver, start, data, crcs } => {
            assert_eq!(*crcs, crc::payloads(data), "the store is given bytes that do not match");
            format!("Write {} at {} {}", ver_text(*ver), start.0, bytes_text(data))
        }
        StoreOp::Zero { ver, range, keep } => {
            format!("Zero {} {}{}", ver_text(*ver), range_text(*range), if *keep { " kept" } else { "" })
        }
        StoreOp::Read { range } => format!("Read {}", range_text(*range)),
        StoreOp::Needs { range } => format!("Needs {}", range_text(*range)),
        StoreOp::Chunks { since, from } => format!("Chunks since={} from={}", ver_text(*since), from.0),
        StoreOp::Versions { chunk } => format!("Versions {}", chunk.0),
        StoreOp::Copy { term, items } => {
            format!("for term {}: {}", term.0, msg_text(&Msg::Copy { items: items.clone() }))
        }
    }
}

/// `5:1.2->a@2.3`, `5:1.2->zero@2.3`, `5:1.2->bad@2.3`; `damaged@` is a block whose checksum is wrong.
fn item(text: &str) -> CopyItem {
    let parts = text.split_once(':').and_then(|(b, rest)| Some((b, rest.split_once("->")?)));
    let (at, (seen, to)) = parts.unwrap_or_else(|| panic!("{text} is no copy"));
    let damaged = to.starts_with("damaged@");
    let (info, data) = block(&to.replace("damaged@", "a@"));
    let content = match info.state {
        BlockState::Data => Content::Data(PayloadCrc(info.crc.0 ^ u32::from(damaged)), data),
        BlockState::Bad | BlockState::Lost => Content::Bad,
        _ => Content::Zero,
    };
    CopyItem { block: BlockIx(at.parse().unwrap()), seen: ver(seen), src: info.ver, content, repair: false }
}
