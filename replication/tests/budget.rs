//! The payload budget: nobody is held up by what others do not finish, nothing is given out twice,
//! everything comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_repl::budget::{Budget, Claim, Class, PIECE, Permit, SMALL};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Takes as much as it is given at once, in requests of `n` bytes.
fn greed(c: &Claim, n: u64) -> Vec<Permit> {
    std::iter::from_fn(|| c.try_take(n)).collect()
}

fn bytes(p: &[Permit]) -> u64 {
    p.iter().map(Permit::bytes).sum()
}

#[test]
fn greedy_claims_leave_room_for_whoever_comes_next() {
    let b = Budget::new(512 * MIB);
    let volume = b.account();
    for n in [SMALL, PIECE, 32 * MIB] {
        let held: Vec<_> = (0..8).map(|_| volume.claim()).map(|c| (greed(&c, n), c)).collect();
        let all: u64 = held.iter().map(|(p, _)| bytes(p)).sum();
        assert!(all > 0 && all <= b.capacity() / 2, "{all}");
        // Of requests that cannot be cut there is room for four; of all others, for every newcomer.
        if n != 32 * MIB {
            assert!(volume.claim().try_take(n).is_some(), "another connection: {n}");
        }
        assert!(b.account().claim().try_take(n).is_some(), "another volume: {n}");
    }
    assert_eq!((b.taken(), volume.taken(), b.waiting()), (0, 0, 0));
}

#[test]
fn greedy_accounts_share_alike_and_leave_one_part() {
    let b = Budget::new(512 * MIB);
    let accounts: Vec<_> = (0..10).map(|_| b.account()).collect();
    let claims: Vec<Vec<Claim>> = accounts.iter().map(|a| (0..64).map(|_| a.claim()).collect()).collect();
    let mut held = Vec::new();
    for round in 0..64 {
        for c in &claims {
            held.extend(c[round].try_take(PIECE));
        }
    }
    let shares: Vec<u64> = accounts.iter().map(|a| a.taken() / MIB).collect();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(*least >= 192 / 12 - 1 && most - least <= 1, "{shares:?}");
    assert!(b.account().claim().try_take(PIECE).is_some(), "an eleventh one");
    assert_eq!(bytes(&held), b.taken());
}

/// A volume that took much while it was alone holds more than its share once others came: a
/// connection of it that holds nothing is served all the same.
#[test]
fn a_newcomer_of_an_account_that_holds_much_is_served() {
    let b = Budget::new(512 * MIB);
    let early = b.account();
    let greed_of =
        |a: &hf_repl::budget::Account| (0..16).map(|_| a.claim()).flat_map(|c| greed(&c, SMALL)).collect::<Vec<_>>();
    let first = greed_of(&early);
    let accounts: Vec<_> = (0..9).map(|_| b.account()).collect();
    let others: Vec<_> = accounts.iter().map(greed_of).collect();
    assert!(bytes(&first) > 4 * bytes(others.last().unwrap()), "the first one has more than its share");
    for a in accounts.iter().chain([&early]) {
        assert!(a.claim().try_take(4096).is_some());
    }
}

#[test]
fn classes_do_not_hold_each_other_up() {
    let b = Budget::new(64 * MIB);
    let whole: Vec<_> = (0..8).map(|_| b.account().claim()).map(|c| greed(&c, 32 * MIB)).collect();
    assert_eq!(whole.iter().map(|p| bytes(p)).sum::<u64>(), 32 * MIB, "half of it, and no more");
    let c = b.account().claim();
    assert!(c.try_take(PIECE).is_some() && c.try_take(SMALL).is_some() && c.try_take(0).is_some());
    assert_eq!([0, SMALL, SMALL + 1, PIECE, PIECE + 1].map(Class::of).map(|c| c as usize), [0, 0, 1, 1, 2]);
}

/// One who has taken more than its share waits alone; the others of its account are not behind it.
#[tokio::test(flavor = "current_thread")]
async fn who_is_over_its_share_stands_in_nobodys_way() {
    let b = Budget::new(64 * MIB);
    let volume = b.account();
    let greedy = volume.claim();
    let mut held = greed(&greedy, PIECE);
    let late = {
        let greedy = greedy.clone();
        async move { greedy.take(PIECE).await }
    };
    let mut late = std::pin::pin!(late);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut late).await.is_err());
    let (_, waited) = volume.claim().take(PIECE).await;
    assert!(!waited && b.waiting() == 0);
    held.clear();
    assert!(late.await.1);
}

/// Takers on several threads, first come, first served on each: all are served, never more than the
/// capacity is out.
#[test]
fn threads_share_one_budget() {
    let b = Budget::new(64 * MIB);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let set = tokio::task::LocalSet::new();
                let account = b.account();
                for i in 0..32u64 {
                    let (c, b) = (account.claim(), b.clone());
                    set.spawn_local(async move {
                        for j in 0..200u64 {
                            let n = [4096, SMALL, PIECE, 20 * MIB][((i + j) % 4) as usize];
                            let (p, _) = if j % 3 == 0 { c.take_piece(n).await } else { c.take(n).await };
                            assert!(b.taken() <= b.capacity());
                            tokio::task::yield_now().await;
                            drop(p);
                        }
                    });
                }
                rt.block_on(async {
                    tokio::time::timeout(Duration::from_secs(60), set).await.expect("nobody waits for ever")
                });
            });
        }
    });
    assert_eq!((b.taken(), b.waiting()), (0, 0));
}
