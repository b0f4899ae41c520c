//! Tests of the NBD negotiation: golden ones, and hostile input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_frontends::nbd::handshake::greeting;
use hf_frontends::nbd::*;

struct One;
impl Exports for One {
    fn list(&self) -> Vec<String> {
        vec!["vol".into()]
    }
    fn find(&self, name: &str) -> Result<ExportInfo, String> {
        if name != "vol" {
            return Err(format!("no volume {name} is attached here"));
        }
        Ok(ExportInfo { name: "vol".into(), size: 1 << 20, read_only: false, description: "d".into() })
    }
}

fn opt(option: u32, data: &[u8]) -> Vec<u8> {
    let mut b = b"IHAVEOPT".to_vec();
    b.extend(option.to_be_bytes());
    b.extend((data.len() as u32).to_be_bytes());
    b.extend(data);
    b
}

fn name(n: &str) -> Vec<u8> {
    [&(n.len() as u32).to_be_bytes()[..], n.as_bytes()].concat()
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|x| format!("{x:02x}")).collect()
}

fn talk(parts: &[Vec<u8>]) -> (Vec<u8>, Next) {
    let all = [vec![0, 0, 0, 3], parts.concat()].concat();
    let mut h = Handshake::default();
    let mut out = Vec::new();
    let (used, next) = h.feed(&all, &One, &mut out);
    assert!(used <= all.len());
    (out, next)
}

#[test]
fn greeting_and_go_are_byte_exact() {
    assert_eq!(hex(&greeting()), "4e42444d4147494349484156454f50540003");
    let go = [name("vol"), vec![0, 1, 0, 3]].concat();
    let (out, next) = talk(&[opt(8, &[]), opt(7, &go)]);
    let want = [
        "0003e8890455 65a9 00000008 00000001 00000000",
        "0003e8890455 65a9 00000007 00000003 0000000c 0000 0000000000100000 0ded",
        "0003e8890455 65a9 00000007 00000003 0000000e 0003 00000200 00001000 02000000",
        "0003e8890455 65a9 00000007 00000001 00000000",
    ];
    assert_eq!(hex(&out), want.concat().replace(' ', ""));
    let Next::Transmission(a) = next else { panic!() };
    assert!(a.structured && !a.base_allocation);
}

/// A client with simple replies is not offered what needs structured ones. INFO says what GO would say, and
/// the negotiation goes on.
#[test]
fn simple_clients_and_info_are_byte_exact() {
    let zeroes = "00".repeat(124);
    let mut h = Handshake::default();
    let mut out = Vec::new();
    // EXPORT_NAME from a client that did not set NO_ZEROES.
    let (_, next) = h.feed(&[vec![0, 0, 0, 1], opt(1, b"vol")].concat(), &One, &mut out);
    assert_eq!(hex(&out), ["0000000000100000", "0d6d", &zeroes].concat());
    assert!(matches!(next, Next::Transmission(a) if !a.structured));
    let go = [name("vol"), vec![0, 0]].concat();
    let info = [name("vol"), vec![0, 2, 0, 1, 0, 2]].concat();
    let (out, next) = talk(&[opt(6, &info), opt(7, &go)]);
    let want = [
        "0003e8890455 65a9 00000006 00000003 0000000c 0000 0000000000100000 0d6d",
        "0003e8890455 65a9 00000006 00000003 00000005 0001 766f6c",
        "0003e8890455 65a9 00000006 00000003 00000003 0002 64",
        "0003e8890455 65a9 00000006 00000001 00000000",
        "0003e8890455 65a9 00000007 00000003 0000000c 0000 0000000000100000 0d6d",
        "0003e8890455 65a9 00000007 00000001 00000000",
    ];
    assert_eq!(hex(&out), want.concat().replace(' ', ""));
    assert!(matches!(next, Next::Transmission(a) if !a.structured));
}

#[test]
fn an_unknown_export_is_told_and_negotiation_goes_on() {
    let go = [name("nope"), vec![0, 0]].concat();
    let (out, next) = talk(&[opt(7, &go)]);
    assert_eq!(next, Next::More);
    assert!(String::from_utf8_lossy(&out).contains("no volume nope is attached here"));
    let (_, next) = talk(&[opt(1, b"nope")]);
    assert_eq!(next, Next::Close, "EXPORT_NAME has no error reply");
}

/// The protocol bounds every string at 4,096 bytes; clients may treat a longer one as a broken server.
#[test]
fn the_text_of_a_refusal_stays_below_4096_bytes_whatever_the_name() {
    for (letter, count) in [("x", 4096), ("ü", 2048), ("\u{1F980}", 1024)] {
        let long = letter.repeat(count);
        let query = [name(&long), 1u32.to_be_bytes().to_vec(), name("base:allocation")].concat();
        for (option, data) in
            [(6, [name(&long), vec![0, 0]].concat()), (7, [name(&long), vec![0, 0]].concat()), (10, query)]
        {
            let (out, next) = talk(&[opt(8, &[]), opt(option, &data)]);
            assert_eq!(next, Next::More);
            let refusal = &out[20..];
            assert_eq!(hex(&refusal[12..16]), "80000006", "an unknown export");
            let text = std::str::from_utf8(&refusal[20..]).expect("the text is cut between letters");
            assert!(text.len() < 4096, "option {option}: {} bytes", text.len());
            assert!(text.starts_with("no volume "), "{text}");
        }
    }
    let b = reply::error(true, 1, Errno::Io, &"ü".repeat(5000));
    assert!(b.len() - 26 < 4096);
}

/// An OFFSET_DATA chunk carries at least one byte of data; a read of nothing is answered by a chunk of type
/// NONE.
#[test]
fn a_structured_read_of_length_0_has_no_data_chunk() {
    assert_eq!(
        hex(&reply::read_head(true, 7, 4096, 0)),
        "668e33ef 0001 0000 0000000000000007 00000000".replace(' ', "")
    );
    assert_eq!(hex(&reply::read_head(false, 7, 4096, 0)), "67446698 00000000 0000000000000007".replace(' ', ""));
    let one = "668e33ef 0001 0001 0000000000000007 00000009 0000000000001000";
    assert_eq!(hex(&reply::read_head(true, 7, 4096, 1)), one.replace(' ', ""));
}

#[test]
fn contexts_belong_to_the_export_they_were_set_for() {
    let q = [name("vol"), 1u32.to_be_bytes().to_vec(), name("base:allocation")].concat();
    let go = [name("vol"), vec![0, 0]].concat();
    let Next::Transmission(a) = talk(&[opt(8, &[]), opt(10, &q), opt(7, &go)]).1 else { panic!() };
    assert!(a.base_allocation);
    // Without structured replies first, the query is refused and nothing is selected.
    let Next::Transmission(a) = talk(&[opt(10, &q), opt(8, &[]), opt(7, &go)]).1 else { panic!() };
    assert!(!a.base_allocation);
    // A later, empty selection removes the selection.
    let none = [name("vol"), 0u32.to_be_bytes().to_vec()].concat();
    let Next::Transmission(a) = talk(&[opt(8, &[]), opt(10, &q), opt(10, &none), opt(7, &go)]).1 else { panic!() };
    assert!(!a.base_allocation);
}

#[test]
fn rubbish_closes_and_never_panics() {
    let mut x = 88172645463325252u64;
    for round in 0..200_000 {
        let mut rnd = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        let mut b: Vec<u8> = vec![0, 0, 0, (rnd() % 4) as u8];
        for _ in 0..rnd() % 4 {
            let data: Vec<u8> = (0..rnd() % 40).map(|_| if rnd() % 3 == 0 { 0 } else { rnd() as u8 }).collect();
            b.extend(opt((rnd() % 12) as u32, &data));
        }
        if round % 2 == 0 && !b.is_empty() {
            let at = (rnd() % b.len() as u64) as usize;
            b[at] = rnd() as u8;
        }
        let (used, _) = Handshake::default().feed(&b, &One, &mut Vec::new());
        assert!(used <= b.len());
        let mut r = [0u8; HEADER_BYTES];
        r[..4].copy_from_slice(&0x25609513u32.to_be_bytes());
        r[4..].iter_mut().for_each(|c| *c = rnd() as u8);
        if let Some(q) = parse_request(&r) {
            let _ = q.check(1 << 20, rnd() % 2 == 0, true, true);
        }
    }
    assert_eq!(parse_request(&[0; HEADER_BYTES]), None);
    assert_eq!(talk(&[b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff".to_vec()]).1, Next::Close);
}

#[test]
fn requests_out_of_bounds_get_the_right_errno() {
    let r = |command, offset, len, flags| Request { flags, command, cookie: 1, offset, len };
    let size = 1 << 20;
    let check = |q: Request, ro| q.check(size, ro, true, true);
    assert_eq!(check(r(Command::Read, size, 1, 0), false), Err(Errno::Invalid));
    assert_eq!(check(r(Command::Write, size, 1, 0), false), Err(Errno::NoSpace));
    assert_eq!(check(r(Command::Write, u64::MAX, 2, 0), false), Err(Errno::NoSpace));
    assert_eq!(check(r(Command::WriteZeroes, size - 1, 2, 0), false), Err(Errno::NoSpace));
    assert_eq!(check(r(Command::Trim, size - 1, 2, 0), false), Err(Errno::Invalid));
    assert_eq!(check(r(Command::Cache, size - 1, 2, 0), false), Err(Errno::Invalid));
    assert_eq!(check(r(Command::BlockStatus, size - 1, 2, 0), false), Err(Errno::Invalid));
    assert_eq!(check(r(Command::Write, 0, 1, 0), true), Err(Errno::Perm));
    assert_eq!(check(r(Command::Trim, 0, 4096, 0), true), Err(Errno::Perm));
    assert_eq!(check(r(Command::Write, 0, 1, 2), false), Err(Errno::Invalid));
    assert_eq!(check(r(Command::Unknown(77), 0, 1, 0), false), Err(Errno::Invalid));
    assert_eq!(check(r(Command::BlockStatus, 0, 0, 0), false), Err(Errno::Invalid));
    assert_eq!(check(r(Command::Read, 0, 4096, 4), false), Ok(()));
    assert_eq!(check(r(Command::Flush, 0, 0, 0), true), Ok(()));
}
