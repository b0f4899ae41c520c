//! Properties of the NBD front end: a stream means the same however it is cut, every request is judged by its
//! fields, and every reply can be parsed by a client that follows the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_frontends::nbd::transmission::FLAG_DF;
use hf_frontends::nbd::*;
use proptest::prelude::*;

/// Two volumes of this node; the second one is read-only and has a name that is not ASCII in its refusals.
struct Two;

impl Exports for Two {
    fn list(&self) -> Vec<String> {
        vec!["vol".into(), "ro".into()]
    }
    fn find(&self, name: &str) -> Result<ExportInfo, String> {
        let export = |read_only| ExportInfo { name: name.into(), size: 1 << 20, read_only, description: "d".into() };
        match name {
            "vol" => Ok(export(false)),
            "ro" => Ok(export(true)),
            other => Err(format!("no volume {other} is attached here")),
        }
    }
}

fn named(n: &str) -> Vec<u8> {
    [&(n.len() as u32).to_be_bytes()[..], n.as_bytes()].concat()
}

/// An option, mostly well-formed, sometimes not.
fn option() -> impl Strategy<Value = Vec<u8>> {
    let name = || prop::sample::select(&["vol", "ro", "nope", "grün"][..]);
    let info = (name(), prop::collection::vec(0..5u16, 0..4)).prop_map(|(n, wanted)| {
        let list: Vec<u8> = wanted.iter().flat_map(|w| w.to_be_bytes()).collect();
        [named(n), (wanted.len() as u16).to_be_bytes().to_vec(), list].concat()
    });
    let query = prop::sample::select(&["base:allocation", "base:", "qemu:dirty"][..]);
    let meta = (name(), prop::collection::vec(query, 0..3)).prop_map(|(n, queries)| {
        let list: Vec<u8> = queries.iter().flat_map(|q| named(q)).collect();
        [named(n), (queries.len() as u32).to_be_bytes().to_vec(), list].concat()
    });
    let rubbish = prop::collection::vec(any::<u8>(), 0..40);
    let known = prop_oneof![
        3 => (prop::sample::select(&[6u32, 7][..]), info),
        3 => (prop::sample::select(&[9u32, 10][..]), meta),
        3 => (prop::sample::select(&[3u32, 8][..]), Just(Vec::new())),
        1 => (Just(1u32), name().prop_map(|n| n.as_bytes().to_vec())),
        1 => (0..14u32, rubbish),
    ];
    known.prop_map(|(number, data)| {
        [b"IHAVEOPT", &number.to_be_bytes()[..], &(data.len() as u32).to_be_bytes()[..], &data[..]].concat()
    })
}

/// What a client sends, from its flags to the first requests.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    (0..=4u8, prop::collection::vec(option(), 0..8), prop::collection::vec(any::<u8>(), 0..80))
        .prop_map(|(flags, options, rest)| [vec![0, 0, 0, flags], options.concat(), rest].concat())
}

/// Feeds pieces as a connection does: what was not consumed stays in front of the next piece. Returns the
/// replies, what comes next and the bytes that were left.
fn talk(pieces: &[&[u8]]) -> (Vec<u8>, Next, Vec<u8>) {
    let (mut h, mut out, mut buf) = (Handshake::default(), Vec::new(), Vec::new());
    let mut pieces = pieces.iter();
    while let Some(p) = pieces.next() {
        buf.extend_from_slice(p);
        let (used, next) = h.feed(&buf, &Two, &mut out);
        buf.drain(..used);
        if next != Next::More {
            pieces.for_each(|p| buf.extend_from_slice(p));
            return (out, next, buf);
        }
    }
    (out, Next::More, buf)
}

/// A failure prints its smallest example, which then becomes a test of its own. Nothing is kept in files.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn a_negotiation_means_the_same_however_it_is_cut(s in stream(), cuts in prop::collection::vec(1..40usize, 1..30)) {
        let whole = talk(&[&s]);
        let mut pieces = Vec::new();
        let mut rest = &s[..];
        for n in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*n).min(rest.len()));
            pieces.push(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(talk(&pieces), whole);
        let single: Vec<&[u8]> = s.chunks(1).collect();
        prop_assert_eq!(talk(&single), talk(&[&s]));
    }

    /// Every reply to an option is complete, and the text of an error is UTF-8.
    #[test]
    fn replies_to_options_are_whole(s in stream()) {
        let (out, next, _) = talk(&[&s]);
        let mut rest = &out[..];
        while rest.starts_with(&0x0003_e889_0455_65a9u64.to_be_bytes()) {
            let kind = u32::from_be_bytes(rest[12..16].try_into().unwrap());
            let len = u32::from_be_bytes(rest[16..20].try_into().unwrap()) as usize;
            prop_assert!(rest.len() >= 20 + len);
            prop_assert!(kind >> 31 == 0 || std::str::from_utf8(&rest[20..20 + len]).is_ok());
            rest = &rest[20 + len..];
        }
        // What is left is the answer to EXPORT_NAME: 10 bytes, and 124 zeroes unless they were waived.
        let old_way = matches!(next, Next::Transmission(_)) && (rest.len() == 10 || rest.len() == 134);
        prop_assert!(rest.is_empty() || old_way, "{} bytes are left", rest.len());
    }

    #[test]
    fn a_request_is_read_as_it_was_written(flags in any::<u16>(), number in 0..12u16, cookie in any::<u64>(), offset in any::<u64>(), len in any::<u32>(), bit in 0..32usize) {
        let fields = (flags.to_be_bytes(), number.to_be_bytes(), cookie.to_be_bytes(), offset.to_be_bytes(), len.to_be_bytes());
        let raw = [&0x2560_9513u32.to_be_bytes()[..], &fields.0, &fields.1, &fields.2, &fields.3, &fields.4].concat();
        let mut raw: [u8; HEADER_BYTES] = raw.try_into().unwrap();
        let commands = [
            Command::Read,
            Command::Write,
            Command::Disconnect,
            Command::Flush,
            Command::Trim,
            Command::Cache,
            Command::WriteZeroes,
            Command::BlockStatus,
        ];
        let command = commands.get(number as usize).copied().unwrap_or(Command::Unknown(number));
        prop_assert_eq!(parse_request(&raw), Some(Request { flags, command, cookie, offset, len }));
        raw[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(parse_request(&raw), None, "a wrong magic ends the connection");
    }

    /// Every accepted request lies inside the export, has only flags that are allowed, and does not write to
    /// a read-only export.
    #[test]
    fn only_what_can_be_served_is_let_through(
        flags in prop_oneof![0..32u16, any::<u16>()],
        number in 0..9usize,
        span in prop_oneof![any::<(u64, u32)>(), (0..=(1u64 << 20), 0..=(1u32 << 20)), (0..=40u64 << 20, 0..=40u32 << 20)],
        size in prop::sample::select(&[0u64, 1 << 20, 40 << 20, u64::MAX][..]),
        ro in any::<bool>(), structured in any::<bool>(), context in any::<bool>(),
    ) {
        use Command::*;
        let command = [Read, Write, Disconnect, Flush, Trim, Cache, WriteZeroes, BlockStatus, Unknown(8)][number];
        let (offset, len) = span;
        let request = Request { flags, command, cookie: 1, offset, len };
        let inside = u128::from(offset) + u128::from(len) <= u128::from(size);
        let changes = matches!(command, Write | Trim | WriteZeroes);
        let ranged = !matches!(command, Flush | Disconnect);
        match request.check(size, ro, structured, context) {
            Ok(()) => {
                prop_assert!(inside || !ranged);
                prop_assert!(!(changes && ro) && command != Unknown(8));
                prop_assert!(command != Read || len <= MAX_REQUEST);
                prop_assert!(command != BlockStatus || (context && len > 0));
                prop_assert!(flags & FLAG_DF == 0 || command == Disconnect || (command == Read && structured));
            }
            Err(Errno::Perm) => prop_assert!(changes && ro),
            Err(Errno::NoSpace) => prop_assert!(!inside && matches!(command, Write | WriteZeroes)),
            Err(Errno::Overflow) => prop_assert!(command == Read && len > MAX_REQUEST && structured),
            Err(Errno::Invalid) => {
                let why = flags != 0 || !inside || command == Unknown(8) || (command == Read && len > MAX_REQUEST);
                prop_assert!(why || (command == BlockStatus && (!context || len == 0)));
            }
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    /// An error's text is UTF-8 in any language, and has the length that the reply says.
    #[test]
    fn an_error_reply_is_whole(cookie in any::<u64>(), text in "\\PC{0,300}") {
        let b = reply::error(true, cookie, Errno::Io, &text);
        let be32 = |at: usize| u32::from_be_bytes(b[at..at + 4].try_into().unwrap()) as usize;
        let words = u16::from_be_bytes([b[24], b[25]]) as usize;
        prop_assert_eq!((be32(0), be32(16), be32(20)), (0x668e_33ef, b.len() - 20, Errno::Io as usize));
        prop_assert_eq!(b.len(), 26 + words);
        let got = std::str::from_utf8(&b[26..]);
        prop_assert!(got.is_ok_and(|t| text.starts_with(t) && (t.len() == text.len() || t.len() > 200)), "{:?}", got);
        prop_assert_eq!(reply::error(false, cookie, Errno::Io, &text).len(), 16);
    }

    /// The extents of a block status are a true description of a beginning of the range: no byte is reported
    /// as a hole that is not one.
    #[test]
    fn a_block_status_describes_a_beginning_of_the_truth(
        lens in prop::collection::vec(prop_oneof![1..1000u64, 1..1u64 << 34], 1..6),
        one in any::<bool>(),
    ) {
        let truth: Vec<(u64, bool)> = lens.iter().enumerate().map(|(i, n)| (n * 4096, i % 2 == 0)).collect();
        let b = reply::block_status(9, &truth, one);
        let told: Vec<(u64, u32)> = b[24..]
            .chunks_exact(8)
            .map(|c| (u32::from_be_bytes(c[..4].try_into().unwrap()).into(), u32::from_be_bytes(c[4..].try_into().unwrap())))
            .collect();
        prop_assert!(!told.is_empty() && (!one || told.len() == 1));
        for (i, (len, state)) in told.iter().enumerate() {
            prop_assert!(*len > 0 && *len <= truth[i].0);
            prop_assert_eq!(*state, if truth[i].1 { 3 } else { 0 });
            prop_assert!(i + 1 == told.len() || *len == truth[i].0, "what follows a shortened extent is in the wrong place");
        }
    }
}
