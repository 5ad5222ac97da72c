//! What the runtime's sockets lack: a descriptor that can be borrowed, and a way to another
//! executor.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
};

use glommio::net::TcpStream;

/// The descriptor of a stream, for as long as the stream is borrowed.
#[must_use]
pub fn stream_descriptor(stream: &TcpStream) -> BorrowedFd<'_> {
    #[allow(unsafe_code)]
    // SAFETY: the stream owns its descriptor and is open for as long as it is borrowed.
    unsafe {
        BorrowedFd::borrow_raw(stream.as_raw_fd())
    }
}

/// Takes a stream off its executor; nothing may be under way on it.
///
/// # Errors
/// When there is no further descriptor.
pub fn detach_stream(stream: TcpStream) -> io::Result<OwnedFd> {
    stream_descriptor(&stream).try_clone_to_owned()
}

/// A detached stream, on the executor that runs this.
#[must_use]
pub fn attach_stream(descriptor: OwnedFd) -> TcpStream {
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is owned, and is handed over.
    unsafe {
        TcpStream::from_raw_fd(descriptor.into_raw_fd())
    }
}
