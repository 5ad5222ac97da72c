//! In place of TLS, in a build without it: there is no value of these types.

use crate::{error::Error, tls::TlsOptions};

/// Nobody is trusted.
#[derive(Clone, Debug)]
pub(crate) enum Trust {}

impl Trust {
    /// # Errors
    /// [`Error::Option`], always.
    pub(crate) fn load(_: &TlsOptions) -> Result<Self, Error> {
        Err(Error::Option("this build has no TLS (its cargo feature `tls` is off)".to_owned()))
    }
}

/// No connection's TLS.
#[derive(Debug)]
pub(crate) enum Secure {}

impl Secure {
    pub(crate) fn new(trust: &Trust, _: &str) -> Result<Self, Error> {
        match *trust {}
    }

    pub(crate) fn open(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn seal(&mut self, _: &[u8], _: &mut Vec<u8>) {
        match *self {}
    }

    pub(crate) fn explain(&self, _: Error) -> Error {
        match *self {}
    }
}
