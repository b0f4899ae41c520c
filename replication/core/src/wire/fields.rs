//! The fields that bodies are made of, to little-endian bytes and back. Reading never goes beyond
//! the body, and no count is believed that the rest of the body cannot hold.

use crate::message::{BlockInfo, BlockState};
use hf_policy::crc::PayloadCrc;
use hf_policy::{BlockRange, Ver};

/// Writes fields, one behind the other.
pub(super) struct W(pub Vec<u8>);

impl W {
    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    pub fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    pub fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    pub fn u128(&mut self, v: u128) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    pub fn ver(&mut self, v: Ver) {
        self.u32(v.term.0);
        self.u64(v.seq.0);
    }
    pub fn range(&mut self, r: BlockRange) {
        self.u64(r.start.0);
        self.u32(r.len);
    }
    pub fn infos(&mut self, infos: &[BlockInfo]) {
        self.u32(infos.len() as u32);
        infos.iter().for_each(|i| self.info(i));
    }
    pub fn info(&mut self, i: &BlockInfo) {
        self.ver(i.ver);
        self.u32(i.crc.0);
        self.u8(i.state as u8);
    }
}

/// Reads fields, one behind the other; `None` if the rest is too short or holds no such field.
pub(super) struct R<'a>(pub &'a [u8]);

impl<'a> R<'a> {
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (a, b) = self.0.split_at_checked(N)?;
        self.0 = b;
        a.try_into().ok()
    }
    pub fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|a| a[0])
    }
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
    pub fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_le_bytes)
    }
    pub fn ver(&mut self) -> Option<Ver> {
        Some(Ver::new(self.u32()?, self.u64()?))
    }
    pub fn range(&mut self) -> Option<BlockRange> {
        Some(BlockRange::new(self.u64()?, self.u32()?))
    }
    /// A count that the rest of the body can really hold, at `each` bytes.
    pub fn count(&mut self, each: usize) -> Option<usize> {
        let n = self.u32()? as usize;
        (n.checked_mul(each)? <= self.0.len()).then_some(n)
    }
    pub fn infos(&mut self) -> Option<Vec<BlockInfo>> {
        let n = self.count(17)?;
        (0..n).map(|_| self.info()).collect()
    }
    pub fn info(&mut self) -> Option<BlockInfo> {
        Some(BlockInfo { ver: self.ver()?, crc: PayloadCrc(self.u32()?), state: state(self.u8()?)? })
    }
    /// Entries with their places, which must rise.
    pub fn listed(&mut self) -> Option<Vec<(u8, BlockInfo)>> {
        let n = self.count(18)?;
        let list: Option<Vec<_>> = (0..n).map(|_| Some((self.u8()?, self.info()?))).collect();
        list.filter(|l| l.is_sorted_by(|a, b| a.0 < b.0))
    }
    pub fn crcs(&mut self) -> Option<Vec<PayloadCrc>> {
        let n = self.count(4)?;
        (0..n).map(|_| self.u32().map(PayloadCrc)).collect()
    }
    pub fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

fn state(v: u8) -> Option<BlockState> {
    use BlockState::*;
    [Absent, Data, Zero, Bad, Lost].get(v as usize).copied()
}
