//! What tests do to a store beside its model: other replicas, single questions, opening it anew.

use super::*;

impl World {
    /// A write of any replica, beside the model: blocks `at..at + n`, each the same bytes or its
    /// own.
    pub fn put(&mut self, rid: Rid, ver: Ver, at: u64, blocks: &[Bytes]) -> OpId {
        let data = Bytes::from(blocks.concat());
        let crcs = crc::payloads(&data);
        self.submit(Op::Write { rid, ver, start: BlockIx(at), data, crcs }, "write")
    }

    /// The same, and what came of it when everything has come to its end.
    pub fn try_put(&mut self, rid: Rid, ver: Ver, at: u64, blocks: &[Bytes]) -> Result<Answer, StoreError> {
        let data = Bytes::from(blocks.concat());
        let crcs = crc::payloads(&data);
        self.ask(Op::Write { rid, ver, start: BlockIx(at), data, crcs })
    }

    /// A block's version, state and bytes.
    pub fn look_at(&mut self, rid: Rid, at: u64) -> (BlockInfo, Bytes) {
        match self.ask(Op::Read { rid, range: BlockRange::new(at, 1) }) {
            Ok(Answer::Read { blocks, data }) => (blocks[0], data),
            other => panic!("{other:?}"),
        }
    }

    /// Does one thing while others go on in any order, until it is answered; was it done?
    pub fn ask_while_busy(&mut self, op: Op, rng: &mut Rng) -> bool {
        let id = self.next;
        self.next += 1;
        self.store.step(Input::Op { id, op }, &mut self.out);
        self.check();
        loop {
            let mine = |o: &Output| matches!(o, Output::Done { id: of, .. } if *of == id);
            if let Some(at) = self.out.iter().position(mine)
                && let Output::Done { result, .. } = self.out.remove(at)
            {
                self.drain();
                return result.is_ok();
            }
            self.drain();
            let i = rng.below(self.disk.pending() as u64) as usize;
            match self.disk.complete(i) {
                Some((tag, result)) => {
                    self.store.step(Input::DiskDone { tag, result }, &mut self.out);
                    self.check();
                }
                None => panic!("nothing is on its way, and no answer"),
            }
        }
    }

    /// Checkpoints until nothing is on its way to being free.
    pub fn settle_space(&mut self) {
        for _ in 0..4 {
            self.ask(Op::Checkpoint).unwrap();
            self.quiesce();
        }
    }

    /// The process ends where it is, and the disk is opened anew; nothing is known of what was on
    /// its way.
    pub fn reopen(&mut self) {
        self.flights.clear();
        self.reads.clear();
        self.others.clear();
        self.disk.abandon();
        self.store = recovery::open(&mut self.disk, config()).unwrap();
        let mut out = Vec::new();
        self.store.start(&mut out);
        self.out = out;
        self.drain();
    }
}
