//! The clock of the process: server time never jumps, the wall clock may.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Server time is the wall clock at boot plus the monotonic time since (`Turn::now_ms`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    boot: Instant,
    boot_unix: Duration,
}

impl Clock {
    /// Starts at the wall clock's time.
    pub(crate) fn start() -> Self {
        Self { boot: Instant::now(), boot_unix: wall() }
    }

    /// Server time in ms. Costs one read of the monotonic clock (35–50 ns): once per turn, not per command.
    #[inline]
    pub(crate) fn now_ms(&self) -> u64 {
        self.at_ms(Instant::now())
    }

    /// Server time in ms at `instant`.
    #[inline]
    pub(crate) fn at_ms(&self, instant: Instant) -> u64 {
        (self.boot_unix + instant.saturating_duration_since(self.boot)).as_millis() as u64
    }

    /// Wall clock at boot in ms since 1970.
    pub(crate) fn boot_unix_ms(&self) -> u64 {
        self.boot_unix.as_millis() as u64
    }

    /// Time since boot.
    pub(crate) fn uptime(&self) -> Duration {
        self.boot.elapsed()
    }

    /// Wall clock in µs since 1970.
    pub(crate) fn wall_us(&self) -> u64 {
        wall().as_micros() as u64
    }

    /// Wall clock minus server time in ms; moves when somebody sets the wall clock.
    pub(crate) fn wall_offset_ms(&self) -> i64 {
        wall().as_millis() as i64 - self.now_ms() as i64
    }
}

/// Monotonic time in ns since it was first asked for.
#[cfg(feature = "hold-times")]
pub(crate) fn since_start_ns() -> u64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

    START.elapsed().as_nanos() as u64
}

/// Wall clock since 1970; zero before that.
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_time_starts_at_the_wall_clock_and_grows_with_the_monotonic_clock() {
        let clock = Clock::start();
        assert!(clock.wall_offset_ms().abs() < 1_000);
        assert_eq!(clock.at_ms(clock.boot), clock.boot_unix_ms());
        let later = clock.at_ms(clock.boot + Duration::from_millis(1_234));
        assert!((1_234..=1_235).contains(&(later - clock.boot_unix_ms())));
    }
}
