//! The node's payload memory: one budget from which every holder of clients' or replicas' bytes
//! draws, shared so that no unfinished request holds what others need.
//!
//! * [`Budget`]: the node's bytes, in three pools by the size of a request ([`Class`]). It is
//!   shared by all threads.
//! * [`Account`]: one user of the budget on one thread, such as an attached volume's clients, or a link.
//! * [`Claim`]: one party within an account, such as a connection.
//! * [`Permit`]: bytes that are held, given back when it is dropped.
//!
//! Shares follow what is free (the "dynamic threshold" of shared-memory switches): an account may
//! take more while it holds no more than half of what its pool has free, a claim while it holds no
//! more than what its account could still take. So greedy accounts and claims, however many, leave
//! a part as large as theirs, and a newcomer is served at once. The pools are apart, so large
//! requests never hold up small ones.
//!
//! A take that succeeds at once costs one atomic operation, and none of the kernel's.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{Mutex, Notify};

/// The largest request of the small class, in bytes.
pub const SMALL: u64 = 64 << 10;
/// The largest request of the middle class, in bytes. Larger requests are cut into pieces of this
/// size where possible.
pub const PIECE: u64 = 1 << 20;

/// A newcomer of an account that holds more than its share leaves room for so many requests like its own.
const NEWCOMERS: u64 = 4;

/// What an account may hold before it takes more, of so many bytes that are free.
fn share(free: u64) -> u64 {
    free / 2
}

/// The pool that a request draws from, by its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// At most [`SMALL`] bytes; the pool is an eighth of the budget.
    Small,
    /// At most [`PIECE`] bytes; the pool is three eighths.
    Piece,
    /// More bytes, because it cannot be cut; the pool is a half.
    Whole,
}

impl Class {
    const ALL: [Class; 3] = [Class::Small, Class::Piece, Class::Whole];

    /// The class of a request of `n` bytes.
    pub fn of(n: u64) -> Class {
        match n {
            0..=SMALL => Class::Small,
            n if n <= PIECE => Class::Piece,
            _ => Class::Whole,
        }
    }

    fn eighths(self) -> u64 {
        [1, 3, 4][self as usize]
    }
}

struct Pool {
    capacity: u64,
    taken: AtomicU64,
    /// Takers that are within their share and find no room.
    waiting: AtomicUsize,
    /// Takers beyond their share, who look again when anything is given back.
    watching: AtomicUsize,
    room: Notify,
}

/// Counts one more watcher of a pool, as long as it lives.
struct Watching<'a>(&'a AtomicUsize);

impl<'a> Watching<'a> {
    fn new(n: &'a AtomicUsize) -> Self {
        n.fetch_add(1, Ordering::SeqCst);
        Watching(n)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Pool {
    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.taken.load(Ordering::SeqCst))
    }

    /// Takes `n` bytes if they fit, or if nothing is out.
    fn try_take(&self, n: u64) -> bool {
        let more = |t: u64| Some(t + n).filter(|sum| t == 0 || *sum <= self.capacity);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn give_back(&self, n: u64) {
        self.taken.fetch_sub(n, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) + self.watching.load(Ordering::SeqCst) > 0 {
            self.room.notify_waiters();
        }
    }
}

/// The node's payload memory.
#[derive(Clone)]
pub struct Budget(Arc<[Pool; 3]>);

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Budget {
        let pool = |c: Class| Pool {
            capacity: bytes / 8 * c.eighths(),
            taken: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            watching: AtomicUsize::new(0),
            room: Notify::new(),
        };
        Budget(Arc::new(Class::ALL.map(pool)))
    }

    fn pool(&self, c: Class) -> &Pool {
        &self.0[c as usize]
    }

    /// Bytes that may be out at once.
    pub fn capacity(&self) -> u64 {
        self.0.iter().map(|p| p.capacity).sum()
    }

    /// Bytes that are out.
    pub fn taken(&self) -> u64 {
        self.0.iter().map(|p| p.taken.load(Ordering::Relaxed)).sum()
    }

    /// Takers that are within their share and wait for what others hold.
    pub fn waiting(&self) -> usize {
        self.0.iter().map(|p| p.waiting.load(Ordering::Relaxed)).sum()
    }

    /// A new user of the budget.
    pub fn account(&self) -> Account {
        let (taken, turns) = (Default::default(), Default::default());
        Account(Rc::new(AccountState { budget: self.clone(), taken, turns, queued: Default::default() }))
    }
}

struct AccountState {
    budget: Budget,
    taken: [Cell<u64>; 3],
    /// First come, first served among the account's takers of a class that are within their share.
    turns: [Mutex<()>; 3],
    queued: [Cell<usize>; 3],
}

/// One user of the budget. It belongs to one thread.
#[derive(Clone)]
pub struct Account(Rc<AccountState>);

impl Account {
    /// A new party within the account.
    pub fn claim(&self) -> Claim {
        Claim(Rc::new(ClaimState { account: self.clone(), taken: Default::default(), released: Notify::new() }))
    }

    /// Bytes that the account holds.
    pub fn taken(&self) -> u64 {
        self.0.taken.iter().map(Cell::get).sum()
    }

    /// The node's budget.
    pub fn budget(&self) -> &Budget {
        &self.0.budget
    }

    /// What the account may take before it has its share.
    fn room(&self, c: Class) -> u64 {
        share(self.0.budget.pool(c).free()).saturating_sub(self.0.taken[c as usize].get())
    }
}

struct ClaimState {
    account: Account,
    taken: [Cell<u64>; 3],
    /// The account has given something back.
    released: Notify,
}

/// One party within an account.
#[derive(Clone)]
pub struct Claim(Rc<ClaimState>);

/// Counts one more in two numbers, as long as it lives.
struct Queued<'a>(&'a Cell<usize>, &'a AtomicUsize);

impl<'a> Queued<'a> {
    fn new(account: &'a Cell<usize>, pool: &'a AtomicUsize) -> Queued<'a> {
        account.set(account.get() + 1);
        pool.fetch_add(1, Ordering::SeqCst);
        Queued(account, pool)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Claim {
    fn account(&self) -> &AccountState {
        &self.0.account.0
    }

    fn pool(&self, c: Class) -> &Pool {
        self.account().budget.pool(c)
    }

    /// The claim holds bytes of the class, and more than it may: it waits until it gives some of them back.
    fn is_over_share(&self, c: Class) -> bool {
        let own = self.0.taken[c as usize].get();
        own > 0 && own > self.0.account.room(c)
    }

    fn try_take_in_turn(&self, n: u64) -> Option<Permit> {
        let c = Class::of(n);
        let (account, own) = (&self.account().taken[c as usize], &self.0.taken[c as usize]);
        let free = self.pool(c).free();
        // An account may come to hold more than its share because others took the rest. A claim of
        // it that holds nothing is still served while there is room for some such.
        let newcomer = own.get() == 0 && n.saturating_mul(NEWCOMERS) <= free;
        let within = account.get() == 0 || account.get() <= share(free) || newcomer;
        if self.is_over_share(c) || !within || !self.pool(c).try_take(n) {
            return None;
        }
        account.set(account.get() + n);
        own.set(own.get() + n);
        Some(Permit { claim: self.clone(), n })
    }

    /// Takes `n` bytes if that needs no waiting.
    pub fn try_take(&self, n: u64) -> Option<Permit> {
        let queued = self.account().queued[Class::of(n) as usize].get() > 0;
        if n == 0 {
            return Some(Permit { claim: self.clone(), n });
        }
        if queued { None } else { self.try_take_in_turn(n) }
    }

    /// Takes `n` bytes, and says whether that took waiting.
    pub async fn take(&self, n: u64) -> (Permit, bool) {
        match self.try_take(n) {
            Some(p) => (p, false),
            None => (self.wait_for(n).await, true),
        }
    }

    /// Takes as much of `most` bytes as there is, if that needs no waiting and is at least a small request's.
    pub fn try_take_piece(&self, most: u64) -> Option<Permit> {
        self.try_take(most.min(PIECE)).or_else(|| self.try_take(most.min(SMALL)))
    }

    /// Takes as much of `most` bytes as there is without waiting, or waits for a small request's
    /// bytes: for a taker that can cut a request into pieces. Says whether that took waiting.
    pub async fn take_piece(&self, most: u64) -> (Permit, bool) {
        match self.try_take_piece(most) {
            Some(p) => (p, false),
            None => (self.wait_for(most.min(SMALL)).await, true),
        }
    }

    async fn wait_for(&self, n: u64) -> Permit {
        let c = Class::of(n);
        loop {
            // It is in no other taker's way meanwhile: what it may hold grows with what it gives
            // back, and with what others do.
            while self.is_over_share(c) {
                let _watching = Watching::new(&self.pool(c).watching);
                let mut room = pin!(self.pool(c).room.notified());
                let mut released = pin!(self.0.released.notified());
                room.as_mut().enable();
                released.as_mut().enable();
                if !self.is_over_share(c) {
                    break;
                }
                tokio::select! {
                    () = room => {}
                    () = released => {}
                }
            }
            let _queued = Queued::new(&self.account().queued[c as usize], &self.pool(c).waiting);
            let _turn = self.account().turns[c as usize].lock().await;
            loop {
                let mut room = pin!(self.pool(c).room.notified());
                // Armed before looking: what another thread gives back from here on is heard of.
                room.as_mut().enable();
                if let Some(p) = self.try_take_in_turn(n) {
                    return p;
                }
                if self.is_over_share(c) {
                    break;
                }
                room.await;
            }
        }
    }
}

/// Bytes of the budget; given back when dropped.
pub struct Permit {
    claim: Claim,
    n: u64,
}

impl Permit {
    /// The number of bytes that are held.
    pub fn bytes(&self) -> u64 {
        self.n
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let c = Class::of(self.n);
        for taken in [&self.claim.0.taken[c as usize], &self.claim.account().taken[c as usize]] {
            taken.set(taken.get().saturating_sub(self.n));
        }
        self.claim.pool(c).give_back(self.n);
        self.claim.0.released.notify_waiters();
    }
}
