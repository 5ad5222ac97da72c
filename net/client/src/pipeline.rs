//! Produce requests on a bare connection, for those who build batches and keep books themselves.

use catena_wire::{Api, Message, ProduceRequest, ProduceResponse};

use crate::{connection::Connection, error::Error};

/// Nothing is gathered, retried or waited for here: [`Producer`](crate::Producer) does that.
impl Connection {
    /// Sends one finished batch; tells the correlation id that its answer will have.
    ///
    /// # Errors
    /// [`Error::Connection`]; the batch may have been stored.
    pub fn send_batch(&mut self, request: &ProduceRequest, batch: &[u8]) -> Result<u32, Error> {
        self.send(Api::Produce, request, batch)
    }

    /// Waits for the next answer to a batch; tells its correlation id. Answers of different
    /// partitions may overtake each other. Whether it is a receipt, its `error` says.
    ///
    /// # Errors
    /// [`Error::Connection`], also when nothing comes in the time that [`Connection::open`] was
    /// given, and [`Error::Server`] when the request could not even be read.
    pub fn receive_answer(&mut self) -> Result<(u32, ProduceResponse<'static>), Error> {
        let response = self.receive()?;
        Ok((response.correlation, ProduceResponse::decode_owned(&response.head)?))
    }
}
