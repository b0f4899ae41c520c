//! The first exchange on a connection: which node, which disk, which versions, which capabilities.
//! Protobuf, in a fixed frame of [`HELLO_BYTES`] bytes so that anything else on the port is seen at
//! once.

use prost::Message;

/// The length of a hello's frame, in bytes.
pub const HELLO_BYTES: usize = 256;
const MAGIC: &[u8; 8] = b"HFHELLO1";
/// The oldest wire version this code speaks.
pub const MIN_VERSION: u32 = 5;
/// The newest wire version this code speaks.
pub const MAX_VERSION: u32 = 5;
/// Capability bit 0: both ends of a link tell each other what they have received and what they will
/// take, and payload may come in parts.
pub const LINK_CREDIT: u64 = 1;
/// What this code can do beyond its version; a rule is used only if every member concerned has its bit.
pub const CAPABILITIES: u64 = LINK_CREDIT;

/// The dialer's hello.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// The oldest version that the dialer speaks.
    #[prost(uint32, tag = "1")]
    pub min_version: u32,
    /// The newest version that the dialer speaks.
    #[prost(uint32, tag = "2")]
    pub max_version: u32,
    /// What the dialer can do beyond its version, as bits.
    #[prost(fixed64, tag = "3")]
    pub capabilities: u64,
    /// The cluster, 16 bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub cluster: Vec<u8>,
    /// The dialing node.
    #[prost(uint64, tag = "5")]
    pub node: u64,
    /// The dialing process, 16 bytes.
    #[prost(bytes = "vec", tag = "6")]
    pub boot: Vec<u8>,
    /// The disk that is dialed.
    #[prost(uint64, tag = "7")]
    pub disk: u64,
}

/// Why a hello was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ::prost::Enumeration)]
#[repr(i32)]
pub enum Refused {
    /// It was not refused.
    Accepted = 0,
    /// Both ends speak no common version.
    Version = 1,
    /// The listener belongs to another cluster.
    Cluster = 2,
    /// There is no such disk here.
    Disk = 3,
    /// The disk has failed, or is not open yet.
    NotReady = 4,
}

/// The listener's answer.
#[derive(Clone, PartialEq, Message)]
pub struct HelloReply {
    /// Whether the hello is refused, and why ([`Refused`]).
    #[prost(enumeration = "Refused", tag = "1")]
    pub refused: i32,
    /// The version that both ends speak from now on.
    #[prost(uint32, tag = "2")]
    pub version: u32,
    /// What the listener can do beyond its version, as bits.
    #[prost(fixed64, tag = "3")]
    pub capabilities: u64,
    /// The listening process, 16 bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub boot: Vec<u8>,
    /// Why it was refused, in words for people.
    #[prost(string, tag = "5")]
    pub text: String,
}

/// Puts a hello or its answer into its frame.
pub fn frame<M: Message>(m: &M) -> [u8; HELLO_BYTES] {
    let mut out = [0; HELLO_BYTES];
    let body = m.encode_to_vec();
    let n = body.len().min(HELLO_BYTES - 16);
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&(n as u32).to_le_bytes());
    out[16..16 + n].copy_from_slice(&body[..n]);
    let crc = crc32fast::hash(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Takes a hello or its answer out of its frame; `None` if it is not one.
pub fn unframe<M: Message + Default>(raw: &[u8; HELLO_BYTES]) -> Option<M> {
    let mut copy = *raw;
    copy[12..16].fill(0);
    let n = u32::from_le_bytes(raw[8..12].try_into().ok()?) as usize;
    let stored = u32::from_le_bytes(raw[12..16].try_into().ok()?);
    if &raw[..8] != MAGIC || n > HELLO_BYTES - 16 || crc32fast::hash(&copy) != stored {
        return None;
    }
    M::decode(&raw[16..16 + n]).ok()
}

impl Hello {
    /// The frame that carries it.
    pub fn to_frame(&self) -> [u8; HELLO_BYTES] {
        frame(self)
    }
    /// Takes it out of its frame; `None` if that carries no such thing.
    pub fn from_frame(raw: &[u8; HELLO_BYTES]) -> Option<Hello> {
        unframe(raw)
    }
    /// The newest version that both ends speak; `None` if there is none.
    pub fn common_version(&self) -> Option<u32> {
        let v = self.max_version.min(MAX_VERSION);
        (v >= self.min_version && v >= MIN_VERSION).then_some(v)
    }
}

impl HelloReply {
    /// The frame that carries it. A long text is cut so that the frame holds it.
    pub fn to_frame(&self) -> [u8; HELLO_BYTES] {
        let mut cut = self.clone();
        cut.text = cut.text.chars().take(120).filter(char::is_ascii).collect();
        frame(&cut)
    }
    /// Takes it out of its frame; `None` if that carries no such thing.
    pub fn from_frame(raw: &[u8; HELLO_BYTES]) -> Option<HelloReply> {
        unframe(raw)
    }
}
