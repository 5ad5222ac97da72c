//! What the server takes from the machine beside sockets and segments: chance, the time of day, and
//! small files that are replaced whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use catena_format::Millis;
use catena_uring::create_directory;

/// Bytes that nobody can guess.
///
/// # Errors
/// The kernel gives none.
pub(crate) fn random<const BYTES: usize>() -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

/// The time of day.
pub(crate) fn wall_clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::new(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Writes a file durably, whole or not at all; on its way it is called `name.new`. The directory
/// is made if it is missing.
///
/// # Errors
/// It is as before.
pub(crate) fn replace_file(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    create_directory(directory)?;
    let new = directory.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}
