//! Log lines leave the cores through a bounded queue; a thread of its own writes them.
//!
//! ```text
//! core: tracing event -> filter -> formatted line -> queue (full: drop, count) -> writer thread
//! ```
//!
//! A slow or stuck output therefore never holds a core; how many lines it cost is known.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal, Write},
};

use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload};

use crate::config::{LogFormat, LogLevel, LogOutput, Logging};

/// Lines that wait for the writer thread; the next one is dropped.
const QUEUE_LINES: usize = 16_384;

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoggingError {
    /// The file cannot be opened.
    #[error("cannot log to {path}: {error}; see `logging.output`")]
    Output {
        /// The file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// Somebody else has set up logging in this process.
    #[error("logging was started before")]
    Started,
}

/// Logging as it runs; dropping it writes out what waits.
pub(crate) struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

impl Logs {
    /// Starts logging for the whole process.
    ///
    /// # Errors
    /// When the output cannot be opened, or logging runs already.
    pub(crate) fn start(config: &Logging) -> Result<Self, LoggingError> {
        let (output, colours) = open(&config.output)?;
        let (subscriber, logs) = subscriber(config, output, colours);
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Started)?;
        Ok(logs)
    }

    /// How many lines were lost because the output was slower than the log.
    pub(crate) fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }

    /// Logs by another level from now on.
    pub(crate) fn change_level(&self, level: &LogLevel) {
        self.filter.reload(level.filter()).expect("the subscriber lives as long as the process");
    }
}

type Output = Box<dyn Write + Send>;

/// Opens the output, and tells whether colours make sense there.
fn open(output: &LogOutput) -> Result<(Output, bool), LoggingError> {
    match output {
        LogOutput::Stdout => Ok((Box::new(io::stdout()), io::stdout().is_terminal())),
        LogOutput::Stderr => Ok((Box::new(io::stderr()), io::stderr().is_terminal())),
        LogOutput::File(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            let refused = |error| LoggingError::Output { path: path.display().to_string(), error };
            Ok((Box::new(file.map_err(refused)?), false))
        }
    }
}

fn subscriber(
    config: &Logging,
    output: Output,
    colours: bool,
) -> (impl Subscriber + Send + Sync, Logs) {
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_LINES);
    let (writer, guard) = queue.thread_name("catena-log").finish(output);
    let dropped = writer.error_counter();
    let (filter, handle) = reload::Layer::new(config.level.filter());
    let lines = lines(config.format, writer, colours);
    let subscriber = Registry::default().with(lines.with_filter(filter));
    (subscriber, Logs { filter: handle, dropped, _writer: guard })
}

fn lines(
    format: LogFormat,
    writer: NonBlocking,
    colours: bool,
) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = fmt::layer().with_writer(writer).with_ansi(colours).with_thread_names(true);
    match format {
        LogFormat::Pretty => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc, time::Duration};

    use tracing::{debug, info};

    use super::*;
    use crate::config::{Config, Flag, Sources};

    fn config(set: &[(&str, &str)]) -> Logging {
        let flag = |(key, value): &(&str, &str)| Flag {
            flag: "--set".to_owned(),
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        let sources = Sources { flags: set.iter().map(flag).collect(), ..Sources::default() };
        Config::load(&sources).unwrap().0.logging
    }

    #[test]
    fn json_lines_reach_the_file_once_the_logs_are_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("catena.log");
        let output = path.display().to_string();
        let config = config(&[("logging.format", "json"), ("logging.output", &output)]);
        let (output, colours) = open(&config.output).unwrap();
        let (subscriber, logs) = subscriber(&config, output, colours);
        tracing::subscriber::with_default(subscriber, || {
            info!(partition = 3, "opened");
            debug!("not at this level");
            logs.change_level(&self::config(&[("logging.level", "debug")]).level);
            debug!("now it is");
        });
        assert_eq!(logs.dropped_lines(), 0);
        drop(logs);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let messages: Vec<&str> = lines.iter().map(|l| l["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["opened", "now it is"]);
        assert_eq!(lines[0]["partition"], 3);
    }

    /// An output that takes nothing until it is told to.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv_timeout(Duration::from_secs(60));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_holds_nobody_and_every_lost_line_is_counted() {
        let (release, stuck) = mpsc::channel();
        let (subscriber, logs) = subscriber(&config(&[]), Box::new(Stuck(stuck)), false);
        let lines = QUEUE_LINES + 1000;
        tracing::subscriber::with_default(subscriber, || {
            for line in 0..lines {
                info!(line, "said while nothing is taken");
            }
        });
        // One line may be in the writer's hands, all others are queued or lost.
        let lost = logs.dropped_lines();
        assert!((999..=1000).contains(&lost), "{lost}");
        drop(release);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named_with_its_setting() {
        let error = open(&LogOutput::File("/nonexistent/catena.log".into())).err().unwrap();
        let expected = "cannot log to /nonexistent/catena.log: No such file or directory \
                        (os error 2); see `logging.output`";
        assert_eq!(error.to_string(), expected);
    }
}
