//! Assertions: what a program must never see of itself.
//!
//! [`broken!`](crate::broken!) reports that an invariant of our own code does not hold. In a build with debug
//! assertions (tests, the simulator, `make demo`) it panics where it happens. In a release build it is counted, its
//! first message is kept for the thread, and the caller goes on into its safe branch; whoever drives the core asks
//! [`take`] after each step and fences the shard or latches the disk that ran the step.
//!
//! It is never for input: what a disk, a socket or a user can cause is an error of its own type.

use std::cell::RefCell;
use std::fmt::Arguments;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
    static KEEP: RefCell<bool> = const { RefCell::new(false) };
}

/// How many reports this process has made since it started. The metric `holdfast_broken_invariants_total` shows it.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Takes the first report of this thread since the last call, as `file:line: message`.
pub fn take() -> Option<String> {
    FIRST.with_borrow_mut(Option::take)
}

/// Runs `work` as a release build would: reports of this thread are kept, they do not panic. For tests.
pub fn kept<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            KEEP.with_borrow_mut(|k| *k = self.0);
        }
    }
    let _restore = Restore(KEEP.with_borrow_mut(|k| std::mem::replace(k, true)));
    work()
}

/// What the macros call.
#[cold]
#[inline(never)]
#[allow(clippy::panic)]
pub fn report(file: &str, line: u32, message: Arguments) {
    if cfg!(debug_assertions) && !KEEP.with_borrow(|k| *k) {
        panic!("broken invariant: {file}:{line}: {message}");
    }
    COUNT.fetch_add(1, Ordering::Relaxed);
    FIRST.with_borrow_mut(|first| {
        first.get_or_insert_with(|| format!("{file}:{line}: {message}"));
    });
}

/// Reports that an invariant does not hold; takes what `format!` takes. It returns (see [`mod@crate::broken`]), so the
/// caller still needs a safe branch: `let Some(x) = map.get(&id) else { broken!("no entry for {id}"); return };`.
#[macro_export]
macro_rules! broken {
    ($($message:tt)+) => { $crate::broken::report(file!(), line!(), format_args!($($message)+)) };
}

/// States an invariant: reports by [`broken!`](crate::broken!) unless `condition` holds. Costs one branch.
#[macro_export]
macro_rules! invariant {
    ($condition:expr, $($message:tt)+) => { if !$condition { $crate::broken!($($message)+) } };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "broken invariant: volume-policy/src/broken.rs")]
    fn a_report_panics_in_tests() {
        invariant!(1 + 1 == 3, "arithmetic");
    }

    #[test]
    fn a_kept_report_is_counted_and_its_first_message_taken_once() {
        let before = count();
        kept(|| {
            broken!("first {}", 1);
            broken!("second");
        });
        assert!(count() >= before + 2);
        assert!(take().is_some_and(|m| m.ends_with("first 1")));
        assert_eq!(take(), None);
    }

    #[test]
    fn keeping_ends_with_its_call() {
        kept(|| kept(|| ()));
        let caught = std::panic::catch_unwind(|| broken!("after"));
        assert!(caught.is_err());
    }
}
