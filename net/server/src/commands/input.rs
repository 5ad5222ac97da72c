//! Lines of files and standard input: read by a thread, so that whoever sends them need not wait
//! for the next while there is none.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Instant,
};

/// Read at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that are read ahead, at most.
const CHUNKS_AHEAD: usize = 16;

/// Why there is no next line.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    /// A file cannot be read.
    #[error("cannot read {name}: {source}")]
    Read {
        /// Which.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A line is longer than any record may be.
    #[error("{name}:{line}: the line has more than {limit} bytes, which the topic does not take")]
    TooLong {
        /// The file.
        name: String,
        /// The line's number, from 1 on.
        line: u64,
        /// The most bytes.
        limit: usize,
    },
}

/// What came next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// A line, see [`Input::line`].
    Line,
    /// Nothing until the time given.
    Nothing,
    /// No further line.
    End,
}

/// What the reading thread sends.
enum Event {
    /// A file of this name begins.
    Begin(String),
    Bytes(Vec<u8>),
    Failed(io::Error),
}

/// The lines of several files, one file after the other. A last line needs no line break, and no
/// line goes on in the next file.
pub(super) struct Input {
    events: Receiver<Event>,
    line_bytes_max: usize,
    name: String,
    number: u64,
    chunk: Vec<u8>,
    at: usize,
    line: Vec<u8>,
    is_complete: bool,
    taken: u64,
}

impl Input {
    /// The lines of `files`; `-` or none: standard input.
    pub(super) fn open(files: &[PathBuf], line_bytes_max: usize) -> Self {
        let (sender, events) = sync_channel(CHUNKS_AHEAD);
        let files = if files.is_empty() { vec![PathBuf::from("-")] } else { files.to_vec() };
        // It ends with the files, or with whoever listens, and is waited for by nobody: it may
        // stand at a terminal.
        thread::spawn(move || files.iter().all(|file| read_file(file, &sender)));
        Self {
            events,
            line_bytes_max,
            name: String::new(),
            number: 0,
            chunk: Vec::new(),
            at: 0,
            line: Vec::new(),
            is_complete: true,
            taken: 0,
        }
    }

    /// The line that came last, without its line break.
    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }

    /// Bytes of all lines so far, with their line breaks.
    pub(super) fn bytes(&self) -> u64 {
        self.taken
    }

    /// The next line. Where it has to be waited for, `until` tells how long; `None`: as long as it
    /// takes.
    ///
    /// # Errors
    /// See [`InputError`]: nothing follows.
    pub(super) fn next(&mut self, until: impl Fn() -> Option<Instant>) -> Result<Next, InputError> {
        if self.is_complete {
            self.line.clear();
            self.is_complete = false;
        }
        loop {
            if self.cut()? {
                return Ok(self.complete());
            }
            match self.receive(until()) {
                Ok(Event::Bytes(bytes)) => (self.chunk, self.at) = (bytes, 0),
                Ok(Event::Failed(source)) => {
                    return Err(InputError::Read { name: self.name.clone(), source });
                }
                Ok(Event::Begin(name)) => {
                    let last = (!self.line.is_empty()).then(|| self.complete());
                    (self.name, self.number) = (name, 0);
                    if let Some(last) = last {
                        return Ok(last);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(Next::Nothing),
                Err(RecvTimeoutError::Disconnected) if self.line.is_empty() => {
                    return Ok(Next::End);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(self.complete()),
            }
        }
    }

    fn complete(&mut self) -> Next {
        self.number += 1;
        self.is_complete = true;
        Next::Line
    }

    /// Takes from the chunk up to a line break; whether there was one.
    fn cut(&mut self) -> Result<bool, InputError> {
        let rest = &self.chunk[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(rest.len());
        if self.line.len() + taken > self.line_bytes_max {
            let (name, line, limit) = (self.name.clone(), self.number + 1, self.line_bytes_max);
            return Err(InputError::TooLong { name, line, limit });
        }
        self.line.extend_from_slice(&rest[..taken]);
        let passed = taken + usize::from(end.is_some());
        self.at += passed;
        self.taken += passed as u64;
        Ok(end.is_some())
    }

    fn receive(&self, until: Option<Instant>) -> Result<Event, RecvTimeoutError> {
        match until {
            None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                self.events.recv_timeout(left)
            }
        }
    }
}

/// Whether the next file is to be read.
fn read_file(path: &Path, events: &SyncSender<Event>) -> bool {
    let is_stdin = path == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    if events.send(Event::Begin(name)).is_err() {
        return false;
    }
    let read = if is_stdin {
        read_all(&mut io::stdin().lock(), events)
    } else {
        File::open(path).and_then(|mut file| read_all(&mut file, events))
    };
    match read {
        Ok(is_heard) => is_heard,
        Err(error) => {
            // Whoever does not listen any more need not know.
            let _ = events.send(Event::Failed(error));
            false
        }
    }
}

/// Sends what `from` holds; whether anybody still listens.
fn read_all(from: &mut impl Read, events: &SyncSender<Event>) -> io::Result<bool> {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let length = match from.read(&mut chunk) {
            Ok(0) => return Ok(true),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        chunk.truncate(length);
        if events.send(Event::Bytes(chunk)).is_err() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(directory: &Path, name: &str, text: &[u8]) -> PathBuf {
        let path = directory.join(name);
        File::create(&path).unwrap().write_all(text).unwrap();
        path
    }

    /// All lines, and the error at which they end.
    fn lines(files: &[PathBuf], limit: usize) -> (Vec<String>, Option<InputError>) {
        let (mut input, mut lines) = (Input::open(files, limit), Vec::new());
        loop {
            match input.next(|| None) {
                Ok(Next::Line) => lines.push(String::from_utf8(input.line().to_vec()).unwrap()),
                Ok(next) => {
                    assert_eq!(next, Next::End);
                    return (lines, None);
                }
                Err(error) => return (lines, Some(error)),
            }
        }
    }

    #[test]
    fn a_last_line_needs_no_break_and_does_not_go_on_in_the_next_file() {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            file(directory.path(), "a", b"1\n\n2"),
            file(directory.path(), "b", b""),
            file(directory.path(), "c", b"3\r\n4\n"),
        ];
        let (lines, error) = lines(&files, 10);
        assert_eq!(lines, ["1", "", "2", "3\r", "4"]);
        assert!(error.is_none());
    }

    #[test]
    fn lines_may_be_longer_than_a_chunk() {
        let directory = tempfile::tempdir().unwrap();
        let long = "x".repeat(3 * CHUNK_BYTES + 1);
        let files = [file(directory.path(), "a", format!("{long}\n{long}").as_bytes())];
        assert_eq!(lines(&files, long.len()).0, [long.as_str(), &long]);
    }

    #[test]
    fn a_line_that_is_too_long_is_named_by_file_and_number() {
        let directory = tempfile::tempdir().unwrap();
        let long = "x".repeat(2 * CHUNK_BYTES);
        let files = [
            file(directory.path(), "a", b"1\n2\n"),
            file(directory.path(), "b", format!("3\n{long}\n5\n").as_bytes()),
        ];
        let (lines, error) = lines(&files, 100);
        assert_eq!(lines, ["1", "2", "3"]);
        let Some(InputError::TooLong { name, line, limit }) = error else { panic!("{error:?}") };
        assert!(name.ends_with("/b"), "{name}");
        assert_eq!((line, limit), (2, 100));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let files = [file(directory.path(), "a", b"1\n"), directory.path().join("missing")];
        let (lines, error) = lines(&files, 100);
        assert_eq!(lines, ["1"]);
        assert!(error.unwrap().to_string().contains("missing: No such file"));
    }
}
