//! Bugs planted on purpose: each shows that a harness finds what it is there to find.
//!
//! A build with `--cfg planted` has all of them asleep, and wakes the one that the environment
//! variable `CATENA_PLANTED` names. In any other build [`planted!`](crate::planted!) is the constant
//! `false`, and nothing is left of them. An optimised build without checks cannot have them.

#[cfg(all(planted, not(debug_assertions)))]
compile_error!("a release build has no planted bugs");

/// Whether a bug is awake: never, in a build without them.
#[cfg(not(planted))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

/// Whether a bug is awake.
#[cfg(planted)]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is_awake($crate::planted::Bug::$bug)
    };
}

#[cfg(planted)]
macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident,)*) => {
        /// What can be wrong.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug { $($(#[$doc])* $bug,)* }

        impl Bug {
            /// All of them, by name.
            pub const ALL: &[(&str, Self)] = &[$((stringify!($bug), Self::$bug)),*];
        }
    };
}

// Bugs of the hands (a directory sync that is skipped there, a lock that is not waited for) are
// none of these: a simulated disk has hands of its own, and only a harness with the real binary
// on a real file system can see them.
#[cfg(planted)]
bugs! {
    /// Groups are written without waiting for stable storage.
    NoFlush,
    /// A batch is acknowledged, as if it were on the disk, when it is taken in.
    AckBeforeDurable,
    /// The high watermark is the log's end.
    WatermarkBeforeDurable,
}

/// Whether this is the bug that the environment names.
///
/// # Panics
/// When the environment names a bug that there is not.
#[cfg(planted)]
#[must_use]
pub fn is_awake(bug: Bug) -> bool {
    static AWAKE: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let named = |name: String| {
        let known = Bug::ALL.iter().find(|(known, _)| *known == name);
        known.unwrap_or_else(|| panic!("CATENA_PLANTED names no bug: {name}")).1
    };
    *AWAKE.get_or_init(|| std::env::var("CATENA_PLANTED").ok().map(named)) == Some(bug)
}
