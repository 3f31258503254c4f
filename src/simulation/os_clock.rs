//! The operating system's clocks, as a thread that simulates has them: they show simulated time.
//!
//! Some crates ask the clock and not `env`: hyper for the `date` header, h2 for how long it remembers a stream that was reset.
//! With real time there, what is sent on the simulated network would depend on how fast the machine is, and a seed would not
//! decide everything. So programs with the feature `simulation` bring the C library's `clock_gettime` themselves, which
//! `std::time` calls; threads that do not simulate get the time from the kernel, as ever.

use std::cell::Cell;

use rustix::time::{ClockId, clock_gettime as kernel_time};

use super::world::BEGIN_UNIX_MILLIS;

/// Where the monotonic clock begins: such that an instant minus some hours still is one.
const BEGIN_MONOTONIC_MILLIS: u64 = 1_000_000_000;

thread_local! {
    static NOW: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Until it is dropped, the clocks of this thread show simulated time.
#[derive(Debug)]
pub(super) struct Simulated(());

impl Simulated {
    /// From now on they do, and show the begin.
    pub(super) fn begin() -> Self {
        NOW.set(Some(0));
        Self(())
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        NOW.set(None);
    }
}

/// Moves them to this many milliseconds after the begin.
pub(super) fn set(millis: u64) {
    NOW.set(Some(millis));
}

/// The C library's `struct timespec` on 64-bit Linux.
#[repr(C)]
#[derive(Debug)]
pub struct Timespec {
    seconds: i64,
    nanos: i64,
}

/// As in POSIX; -1 for a clock that nothing here asks for.
#[allow(unsafe_code)] // The C library's interface. Nothing else replaces the clock under a dependency.
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: i32, time: Option<&mut Timespec>) -> i32 {
    let (Some(time), Ok(clock)) = (time, ClockId::try_from(clock)) else { return -1 };
    let begin = match clock {
        ClockId::Realtime | ClockId::RealtimeCoarse => Some(BEGIN_UNIX_MILLIS),
        ClockId::Monotonic | ClockId::MonotonicRaw | ClockId::MonotonicCoarse | ClockId::Boottime => {
            Some(BEGIN_MONOTONIC_MILLIS)
        }
        _ => None,
    };
    *time = if let (Some(begin), Some(now)) = (begin, NOW.get()) {
        let millis = (begin + now).cast_signed();
        Timespec { seconds: millis / 1_000, nanos: millis % 1_000 * 1_000_000 }
    } else {
        let now = kernel_time(clock);
        Timespec { seconds: now.tv_sec, nanos: now.tv_nsec }
    };
    0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_clocks_of_a_thread_that_simulates_stand_still() {
        let real = SystemTime::now();
        assert!(real.duration_since(UNIX_EPOCH).is_ok_and(|since| since.as_millis() > 1_700_000_000_000));
        let simulated = Simulated::begin();
        let began = Instant::now();
        set(1_500);
        assert_eq!(began.elapsed(), Duration::from_millis(1_500));
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_millis());
        assert_eq!(wall.ok(), Some(u128::from(BEGIN_UNIX_MILLIS) + 1_500));
        drop(simulated);
        assert!(SystemTime::now() >= real);
    }
}
