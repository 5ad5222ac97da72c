//! The wall clock of a world: it jumps, and everybody may be told what it showed when.

/// What it shows when the world begins, in milliseconds.
const BASE_MS: i64 = 1_000_000_000_000;

/// A clock that jumps.
#[derive(Debug)]
pub struct Wall {
    /// From when on it was how many milliseconds ahead.
    skews: Vec<(u64, i64)>,
    most_ms: i64,
}

impl Default for Wall {
    fn default() -> Self {
        Self { skews: vec![(0, 0)], most_ms: 0 }
    }
}

/// A clock that does not jump, for clients.
#[must_use]
pub const fn steady_ms(now_ns: u64) -> i64 {
    BASE_MS + (now_ns / 1_000_000).cast_signed()
}

impl Wall {
    /// What it shows.
    #[must_use]
    pub fn now_ms(&self, now_ns: u64) -> i64 {
        steady_ms(now_ns) + self.skew_ms()
    }

    /// How far it is ahead.
    #[must_use]
    pub fn skew_ms(&self) -> i64 {
        self.skews.last().map_or(0, |(_, skew)| *skew)
    }

    /// From now on it is so many milliseconds ahead.
    pub fn jump(&mut self, now_ns: u64, skew_ms: i64) {
        self.most_ms = self.most_ms(now_ns);
        self.skews.push((now_ns, skew_ms));
    }

    /// The least that it has shown since then.
    #[must_use]
    pub fn least_ms(&self, since_ns: u64) -> i64 {
        let first = self.skews.partition_point(|(at, _)| *at <= since_ns).saturating_sub(1);
        let shown =
            self.skews[first..].iter().map(|(at, skew)| steady_ms(since_ns.max(*at)) + skew);
        shown.min().unwrap_or(BASE_MS)
    }

    /// The most that it has ever shown.
    #[must_use]
    pub fn most_ms(&self, now_ns: u64) -> i64 {
        self.most_ms.max(self.now_ms(now_ns))
    }

    /// Whether it has been so far behind since then.
    #[must_use]
    pub fn was_behind(&self, since_ns: u64, by_ms: i64) -> bool {
        let first = self.skews.partition_point(|(at, _)| *at <= since_ns).saturating_sub(1);
        self.skews[first..].iter().any(|(_, skew)| *skew <= -by_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_what_it_showed() {
        let mut wall = Wall::default();
        wall.jump(10_000_000, -50);
        wall.jump(20_000_000, 70);
        assert_eq!(wall.now_ms(21_000_000), BASE_MS + 91);
        assert_eq!(wall.least_ms(5_000_000), BASE_MS - 40);
        assert_eq!(wall.least_ms(15_000_000), BASE_MS - 35);
        assert_eq!(wall.least_ms(20_000_000), BASE_MS + 90);
        assert!(wall.was_behind(15_000_000, 50) && !wall.was_behind(20_000_000, 50));
        wall.jump(30_000_000, 0);
        assert_eq!(wall.most_ms(30_000_000), BASE_MS + 100);
    }
}
