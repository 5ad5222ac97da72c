//! How far a long input has been sent: a bar on standard error, if anybody looks.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is sent sooner needs no bar.
const DELAY: Duration = Duration::from_millis(500);
/// Nobody sees more than this.
const PAUSE: Duration = Duration::from_millis(50);

const WITH_END: &str = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
const WITHOUT_END: &str = "{spinner} {bytes} {bytes_per_sec} {msg}";

/// A bar, or none.
pub(super) struct Progress {
    /// When it is to be drawn next.
    next: Instant,
    /// Bytes of the whole input, where they can be known.
    total: Option<u64>,
    is_wanted: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of these files; none: of standard input.
    pub(super) fn new(files: &[PathBuf], is_wanted: bool) -> Self {
        let is_wanted = is_wanted && io::stderr().is_terminal();
        let total = if is_wanted { total_bytes(files) } else { None };
        Self { next: Instant::now() + DELAY, total, is_wanted, bar: None }
    }

    /// So many bytes and lines have been read.
    pub(super) fn set(&mut self, bytes: u64, lines: u64) {
        if !self.is_wanted || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + PAUSE;
        let total = self.total;
        let bar = self.bar.get_or_insert_with(|| bar(total));
        bar.set_position(bytes);
        bar.set_message(format!("{lines} lines"));
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = if total.is_some() { WITH_END } else { WITHOUT_END };
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
    bar
}

/// Unless one of them is no plain file.
fn total_bytes(files: &[PathBuf]) -> Option<u64> {
    let size = |file: &PathBuf| {
        let found = fs::metadata(if file == Path::new("-") { stdin() } else { file }).ok()?;
        found.is_file().then_some(found.len())
    };
    if files.is_empty() { size(&stdin().to_owned()) } else { files.iter().map(size).sum() }
}

fn stdin() -> &'static Path {
    Path::new("/dev/stdin")
}
