//! One producer: a thread, a connection, batches in flight, and its own books.

use std::{
    collections::VecDeque,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use catena_client::{
    Connection, Durability, Error as ClientError, ErrorCode, ProduceRequest, ProduceResponse,
    format::{PartitionIndex, TopicId},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{error::Error, pace::Pace, payload::Payload, tally::Tally};

/// What a producer does, and with what.
pub(crate) struct Producer {
    pub(crate) connection: Connection,
    pub(crate) topic: TopicId,
    /// The partitions that it sends to in turn; not empty.
    pub(crate) partitions: Vec<PartitionIndex>,
    pub(crate) payload: Payload,
    pub(crate) durability: Durability,
    pub(crate) in_flight: usize,
    /// How long one answer is waited for; what the connection was opened with.
    pub(crate) timeout: Duration,
}

/// A batch on its way.
struct Sent {
    correlation: u32,
    due: Instant,
    sent: Instant,
}

/// A producer at work.
struct Running<'a> {
    producer: &'a mut Producer,
    pace: Pace,
    next: u64,
    in_flight: VecDeque<Sent>,
    tally: Tally,
}

impl Producer {
    /// Keeps to `pace` until that ends, and waits for what is in flight then.
    pub(crate) fn run(mut self, pace: Pace) -> Tally {
        // A thread may else be woken up to 50 us late. Where that cannot be had, it shows in the
        // delays.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let (next, in_flight, tally) = (0, VecDeque::new(), Tally::new());
        let mut running = Running { producer: &mut self, pace, next, in_flight, tally };
        if let Err(error) = running.work() {
            running.give_up(error);
        }
        running.count_unsent();
        running.tally
    }
}

impl Running<'_> {
    fn work(&mut self) -> Result<(), Error> {
        loop {
            let has_room = self.in_flight.len() < self.producer.in_flight;
            if has_room && !self.in_flight.is_empty() && self.has_answer(Some(Instant::now()))? {
                self.receive()?;
                continue;
            }
            let now = Instant::now();
            let due = self.pace.due(self.next, now).filter(|_| now < self.pace.end());
            match due {
                Some(due) if has_room && due <= now => self.send(due)?,
                Some(due) if has_room => self.wait(due)?,
                None if self.in_flight.is_empty() => return Ok(()),
                _ => self.receive()?,
            }
        }
    }

    fn send(&mut self, due: Instant) -> Result<(), Error> {
        let producer = &mut *self.producer;
        let at = (self.next % producer.partitions.len() as u64) as usize;
        let since_start = due.duration_since(self.pace.start());
        let batch = producer.payload.batch(self.next, at, since_start)?;
        let request = ProduceRequest {
            topic: producer.topic,
            partition: producer.partitions[at],
            durability: producer.durability,
            expect_next_offset: None,
            deadline_ms: 0,
        };
        let sent = Instant::now();
        // A closed loop has no time table: what it takes to put the batch together is not waited
        // for by anybody.
        let due = if self.pace.is_open() { due } else { sent };
        let correlation = producer.connection.send_batch(&request, &batch)?;
        if self.pace.is_measured(due) {
            self.tally.delays.record(sent.duration_since(due));
        }
        self.in_flight.push_back(Sent { correlation, due, sent });
        self.next += 1;
        Ok(())
    }

    /// Waits until `due`, or until an answer comes.
    fn wait(&mut self, due: Instant) -> Result<(), Error> {
        let given_up = self.in_flight.front().map(|first| first.sent + self.producer.timeout);
        let until = given_up.map_or(due, |given_up| given_up.min(due));
        let answered = self.has_answer(Some(until))?;
        if !answered && given_up.is_some_and(|given_up| given_up <= Instant::now()) {
            let batches = self.in_flight.len() as u64;
            return Err(Error::Unanswered { batches, waited: self.producer.timeout });
        }
        Ok(())
    }

    /// Whether there is something to receive; waits for it until then, or as long as it takes.
    fn has_answer(&self, until: Option<Instant>) -> Result<bool, Error> {
        let connection = &self.producer.connection;
        if connection.has_buffered() {
            return Ok(true);
        }
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut sockets = [PollFd::new(connection, PollFlags::IN)];
            match poll(&mut sockets, left.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::system("wait at a socket")(error.into())),
            }
        }
    }

    fn receive(&mut self) -> Result<(), Error> {
        let (correlation, answer) = self.producer.connection.receive_answer()?;
        let now = Instant::now();
        let found = self.in_flight.iter().position(|sent| sent.correlation == correlation);
        let Some(sent) = found.and_then(|at| self.in_flight.remove(at)) else { return Ok(()) };
        self.answered(&sent, &answer, now);
        Ok(())
    }

    fn answered(&mut self, sent: &Sent, answer: &ProduceResponse<'_>, now: Instant) {
        let (asked, reached) = (self.producer.durability, answer.level);
        if answer.error != ErrorCode::None {
            let message = answer.message.clone().into_owned();
            let first = ClientError::Server { code: answer.error, message };
            self.tally.refused += 1;
            return self.tally.fail(Error::Refused { batches: 1, first });
        }
        if reached < asked {
            self.tally.fail(Error::Level { asked, reached });
        }
        self.tally.acknowledged += self.producer.payload.records();
        if self.pace.is_measured(sent.due) {
            self.tally.latencies.record(now.duration_since(sent.due));
            self.tally.batches += 1;
            self.tally.last = Some(now);
        }
    }

    /// What is in flight will not be answered; its age so far stands for its latency.
    fn give_up(&mut self, error: Error) {
        let now = Instant::now();
        for sent in self.in_flight.drain(..) {
            self.tally.unanswered += 1;
            if self.pace.is_measured(sent.due) {
                self.tally.latencies.record(now.duration_since(sent.due));
            }
        }
        let (batches, waited) = (self.tally.unanswered, self.producer.timeout);
        let late = error.is_timeout() && batches > 0;
        self.tally.fail(if late { Error::Unanswered { batches, waited } } else { error });
    }

    /// Of an open loop, what was due and found no room: its age stands for its latency, too.
    fn count_unsent(&mut self) {
        let now = Instant::now();
        while self.pace.is_open()
            && let Some(due) = self.pace.due(self.next, now).filter(|due| *due <= now)
        {
            self.next += 1;
            self.tally.unsent += 1;
            if self.pace.is_measured(due) {
                self.tally.latencies.record(now.duration_since(due));
            }
        }
    }
}
