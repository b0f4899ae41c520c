//! A link over real sockets whose stream is cut anywhere: the messages that come out are those that
//! went in, small ones first, else in order, and a damaged byte ends the link instead of becoming a
//! message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use hf_policy::*;
use hf_repl::link::{LinkError, Queue, Traffic, read_frames, write_frames};
use hf_repl_core::flow::End;
use hf_repl_core::message::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn env(req: u64) -> Envelope {
    Envelope { cluster: ClusterId(1), rid: Rid(4), term: Term(7), req, ..Envelope::default() }
}

/// Messages of all lengths, from a bare header to a whole chunk.
fn message() -> impl Strategy<Value = Msg> {
    let write = (1..=256usize, any::<u8>()).prop_map(|(n, b)| {
        let data = Bytes::from(vec![b; n * BLOCK_SIZE]);
        let kind = WriteKind::Data { crcs: crc::payloads(&data), data };
        Msg::Write { seq: 4, range: BlockRange::new(0, n as u32), stable: Ver::ZERO, kind }
    });
    prop_oneof![
        1 => write,
        2 => any::<u64>().prop_map(|us| Msg::SealWait { us }),
        2 => (0..=255u8).prop_map(|n| Msg::ChunkVersionsAck { infos: (0..n).map(|at| (at, BlockInfo::default())).collect() }),
        2 => (0..4096u32).prop_map(|n| Msg::ChunkListAck { chunks: vec![(ChunkIx(n), Ver::new(1, 2)); n as usize], more: true }),
    ]
}

fn clock() -> Tick {
    static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    Tick(BEGAN.get_or_init(std::time::Instant::now).elapsed().as_micros() as u64)
}

/// Messages with their numbers, in the order in which a link sends what waits: small ones first.
fn ordered(list: Vec<Msg>) -> Vec<(Envelope, Msg)> {
    let all = list.into_iter().zip(1..).map(|(m, i)| (env(i), m));
    let (large, small): (Vec<_>, Vec<_>) = all.partition(|(e, m)| hf_repl_core::wire::encode(e, m).counted() > 0);
    small.into_iter().chain(large).collect()
}

/// Both ends with credit: a payload of several times the first window comes in parts, small
/// messages between them, and all are whole.
#[test]
fn payloads_in_parts_are_put_together() {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async {
        let (a, b) = pair().await;
        let ((ar, aw), (br, bw)) = (a.into_split(), b.into_split());
        let (asking, serving) = (Queue::new(End::Asking, true, clock), Queue::new(End::Serving, true, clock));
        let mut sent = Vec::new();
        for i in 1..=40u64 {
            let data: Bytes = (0..256 * BLOCK_SIZE).map(|at| ((at as u64 * i) >> 8) as u8).collect::<Vec<_>>().into();
            let kind = WriteKind::Data { crcs: crc::payloads(&data), data };
            let write = Msg::Write { seq: i, range: BlockRange::new(0, 256), stable: Ver::ZERO, kind };
            sent.push((env(2 * i), write));
            sent.push((env(0), Msg::Lease { sent_at: i, stable: Ver::ZERO }));
        }
        sent.iter().cloned().for_each(|(e, m)| asking.send(e, m));
        let got = Rc::new(RefCell::new(Vec::new()));
        let (sink, answers) = (got.clone(), serving.clone());
        tokio::task::spawn_local(write_frames(aw, asking.clone(), Traffic::default(), |_| {}));
        tokio::task::spawn_local(write_frames(bw, serving.clone(), Traffic::default(), |_| {}));
        tokio::task::spawn_local(async move { read_frames(ar, asking, Traffic::default(), |_, _| {}).await });
        let reader = read_frames(br, serving, Traffic::default(), move |e, m| {
            if e.req > 0 {
                answers.send(e, Msg::WriteAck { position: 0, credit: 0 });
            }
            sink.borrow_mut().push((e, m));
        });
        let all = async {
            while got.borrow().len() < sent.len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            e = reader => panic!("{e}"),
            r = tokio::time::timeout(std::time::Duration::from_secs(60), all) => r.unwrap(),
        }
        let (large, small): (Vec<_>, Vec<_>) = sent.into_iter().partition(|(e, _)| e.req > 0);
        assert_eq!(got.take(), small.into_iter().chain(large).collect::<Vec<_>>());
    });
}

async fn pair() -> (TcpStream, TcpStream) {
    let l = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = tokio::join!(TcpStream::connect(l.local_addr().unwrap()), l.accept());
    (a.unwrap(), b.unwrap().0)
}

/// Sends messages through a link whose bytes pass through here, in pieces of these lengths;
/// `damage` flips a bit at an offset.
fn pass(list: &[Msg], cuts: &[usize], damage: Option<usize>) -> (Vec<(Envelope, Msg)>, LinkError) {
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&rt, async {
        let ((from, mut middle_in), (mut middle_out, to)) = (pair().await, pair().await);
        let q = Queue::new(End::Serving, false, clock);
        list.iter().cloned().zip(1..).for_each(|(m, i)| q.send(env(i), m));
        let got = Rc::new(RefCell::new(Vec::new()));
        let writer = tokio::task::spawn_local(write_frames(from.into_split().1, q.clone(), Traffic::default(), |_| {}));
        let sink = got.clone();
        let other = Queue::new(End::Asking, false, clock);
        let reader =
            read_frames(to.into_split().0, other, Traffic::default(), move |e, m| sink.borrow_mut().push((e, m)));
        let cutter = async {
            let total: usize = list.iter().zip(1..).map(|(m, i)| hf_repl_core::wire::encode(&env(i), m).len()).sum();
            let (mut at, mut buf) = (0, vec![0; 1 << 20]);
            middle_out.set_nodelay(true).unwrap();
            for n in cuts.iter().cycle() {
                if at == total {
                    break;
                }
                let n = middle_in.read(&mut buf[..(*n).min(total - at)]).await.unwrap();
                if let Some(x) = damage.filter(|x| (at..at + n).contains(&(x % total))) {
                    buf[x % total - at] ^= 1;
                }
                // The reader may have hung up on a damaged stream.
                if middle_out.write_all(&buf[..n]).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
                at += n;
            }
            q.close();
            drop(middle_out);
        };
        let (end, ()) = tokio::join!(reader, cutter);
        let _ = writer.await;
        (got.take(), end)
    })
}

/// A failure prints its smallest example, which then becomes a test of its own: nothing is kept in files.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn messages_come_out_as_they_went_in_however_the_stream_is_cut(
        list in prop::collection::vec(message(), 1..8),
        cuts in prop::collection::vec(prop_oneof![1..400usize, 1..200_000usize], 1..20),
    ) {
        let (got, end) = pass(&list, &cuts, None);
        prop_assert_eq!(got, ordered(list));
        prop_assert!(matches!(end, LinkError::Io(_)), "{}", end);
    }

    /// What came before the damage stands; the damaged message and what follows it never arrive
    /// (but for payload bytes, which are held against their checksums by who uses them).
    #[test]
    fn a_damaged_byte_ends_the_link(list in prop::collection::vec(message(), 1..6), cut in 1..5000usize, at in any::<usize>()) {
        let (got, end) = pass(&list, &[cut], Some(at));
        let list = ordered(list);
        let same = got.iter().zip(&list).take_while(|(a, b)| a == b).count();
        if matches!(end, LinkError::Wire(_)) {
            prop_assert_eq!(same, got.len());
            prop_assert!(got.len() < list.len());
        } else if got.len() == list.len() {
            let payload = |m: &Msg| matches!(m, Msg::Write { kind: WriteKind::Data { crcs, data }, .. } if crc::payloads(data) != *crcs);
            prop_assert_eq!(got.iter().filter(|(_, m)| payload(m)).count(), 1, "a damaged message was taken");
        } else {
            // A length that grew: it waits for bytes that never come.
            prop_assert_eq!(same, got.len());
        }
    }
}
