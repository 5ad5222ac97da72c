//! Lines of files and standard input, one file after the other.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
    vec,
};

/// Read at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

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
    #[error("{place}: the line has more than {limit} bytes, which the topic does not take")]
    TooLong {
        /// The file, and the line's number from 1 on.
        place: String,
        /// The most bytes.
        limit: usize,
    },
}

/// Where a line stands: its file, and its number there, from 1 on.
#[derive(Clone, Debug)]
pub(super) struct Place {
    file: Arc<str>,
    line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The lines of several files. A last line needs no line break, and no line goes on in the next
/// file. No more than one line is held.
pub(super) struct Input {
    files: vec::IntoIter<PathBuf>,
    reader: Option<Box<dyn BufRead>>,
    line_bytes_max: usize,
    place: Place,
    line: Vec<u8>,
    bytes: u64,
}

impl Input {
    /// The lines of `files`; `-` or none: standard input.
    pub(super) fn new(files: &[PathBuf], line_bytes_max: usize) -> Self {
        let files = if files.is_empty() { vec![PathBuf::from("-")] } else { files.to_vec() };
        Self {
            files: files.into_iter(),
            reader: None,
            line_bytes_max,
            place: Place { file: "".into(), line: 0 },
            line: Vec::new(),
            bytes: 0,
        }
    }

    /// The line that came last, without its line break.
    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }

    /// Where it stands.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Bytes of all lines so far, with their line breaks.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next line; false: there is none.
    ///
    /// # Errors
    /// See [`InputError`]: nothing follows.
    pub(super) fn next_line(&mut self) -> Result<bool, InputError> {
        loop {
            let Some(reader) = &mut self.reader else {
                let Some(file) = self.files.next() else { return Ok(false) };
                self.open(&file)?;
                continue;
            };
            self.line.clear();
            // Room for the line break, and for a byte that shows a line to be too long.
            let limit = self.line_bytes_max as u64 + 2;
            let read = reader.by_ref().take(limit).read_until(b'\n', &mut self.line);
            match read {
                Ok(0) => self.reader = None,
                Ok(length) => {
                    self.bytes += length as u64;
                    return self.cut();
                }
                Err(source) => {
                    return Err(InputError::Read { name: self.place.file.to_string(), source });
                }
            }
        }
    }

    fn open(&mut self, file: &Path) -> Result<(), InputError> {
        if file == Path::new("-") {
            self.place = Place { file: "standard input".into(), line: 0 };
            self.reader = Some(Box::new(BufReader::with_capacity(CHUNK_BYTES, io::stdin())));
            return Ok(());
        }
        let name = file.display().to_string();
        self.place = Place { file: name.as_str().into(), line: 0 };
        let opened = File::open(file).map_err(|source| InputError::Read { name, source })?;
        self.reader = Some(Box::new(BufReader::with_capacity(CHUNK_BYTES, opened)));
        Ok(())
    }

    /// The line without its break.
    fn cut(&mut self) -> Result<bool, InputError> {
        self.place.line += 1;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        }
        if self.line.len() > self.line_bytes_max {
            let (place, limit) = (self.place.to_string(), self.line_bytes_max);
            return Err(InputError::TooLong { place, limit });
        }
        Ok(true)
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
        let (mut input, mut lines) = (Input::new(files, limit), Vec::new());
        loop {
            match input.next_line() {
                Ok(true) => lines.push(String::from_utf8(input.line().to_vec()).unwrap()),
                Ok(false) => return (lines, None),
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
    fn a_line_may_be_just_as_long_as_it_may_be() {
        let directory = tempfile::tempdir().unwrap();
        let files = [file(directory.path(), "a", b"1234\n123\n1234")];
        let (four, error) = lines(&files, 4);
        assert_eq!(four, ["1234", "123", "1234"]);
        assert!(error.is_none());
        let (three, error) = lines(&files, 3);
        assert!(three.is_empty() && error.is_some());
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
        let Some(InputError::TooLong { place, limit }) = error else { panic!("{error:?}") };
        assert!(place.ends_with("/b:2"), "{place}");
        assert_eq!(limit, 100);
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
