//! A connection that comes back: made when it is wanted, shaken hands on, backed off from.

use std::time::{Duration, Instant};

use catena_wire::ErrorCode;

use super::{
    Step,
    backoff::Backoff,
    lane::Lane,
    link::{Hello, Link, Response},
    nodes::Dial,
};
use crate::error::Error;

#[derive(Debug)]
enum State {
    /// No connection; not before this time.
    Down(Option<Instant>),
    /// Asked for, not there yet.
    Connecting,
    /// There, and the handshake must be over by then.
    Shaking(Box<Link>, Instant),
    /// Requests can be made.
    Up(Box<Link>),
    /// To be dropped after these last bytes, then down until the time given.
    Broken(Vec<u8>, Instant),
}

/// The connection of a state machine.
#[derive(Debug)]
pub(crate) struct Session {
    lane: Lane,
    hello: Hello,
    /// Where the connection goes, and how long that and the handshake may take.
    dial: Dial,
    state: State,
    backoff: Backoff,
    failing_since: Option<Instant>,
    /// Since when a connection is being made.
    trying_since: Option<Instant>,
    /// Handshakes that failed since one succeeded.
    unshaken: u32,
}

impl Session {
    /// A lane without a connection.
    pub(crate) fn new(lane: Lane, hello: Hello, seed: u64) -> Self {
        Self {
            lane,
            hello,
            dial: Dial { address: String::new(), wait: Duration::ZERO },
            state: State::Down(None),
            backoff: Backoff::new(lane.seed(seed)),
            failing_since: None,
            trying_since: None,
            unshaken: 0,
        }
    }

    /// The core to ask for. One that does not answer, or takes no more connections, is given up
    /// every other time: any core answers for it.
    fn core(&self) -> Option<u16> {
        let stray = self.unshaken >= 2 && self.unshaken.is_multiple_of(2);
        self.lane.core.filter(|_| !stray)
    }

    /// The connection is there.
    ///
    /// # Errors
    /// When there can be no handshake; the session has failed then.
    pub(crate) fn on_connected(&mut self, now: Instant) -> Result<(), Error> {
        let hello = Hello { core: self.core(), ..self.hello.clone() };
        let link = Link::new(&hello, &self.dial.address)?;
        self.state = State::Shaking(Box::new(link), now + self.dial.wait);
        Ok(())
    }

    /// Takes bytes.
    ///
    /// # Errors
    /// The connection cannot go on; the owner then calls [`Session::fail`].
    pub(crate) fn on_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match &mut self.state {
            State::Shaking(link, _) => link.on_bytes(bytes).map_err(Error::before_asking)?,
            State::Up(link) => link.on_bytes(bytes)?,
            State::Down(_) | State::Connecting | State::Broken(..) => {}
        }
        if let State::Shaking(link, _) = &self.state
            && let Some(greeting) = link.greeting()
        {
            self.lane.check(greeting, &self.dial.address)?;
            let state = std::mem::replace(&mut self.state, State::Down(None));
            let State::Shaking(link, _) = state else { unreachable!("it was shaking hands") };
            self.state = State::Up(link);
            self.backoff.reset();
            (self.failing_since, self.trying_since) = (None, None);
            self.unshaken = 0;
        }
        Ok(())
    }

    /// The next response.
    pub(crate) fn poll_response(&mut self) -> Option<Response> {
        self.link()?.poll_response()
    }

    /// Whether requests can be made.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// The connection, once requests can be made.
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        match &mut self.state {
            State::Up(link) => Some(link),
            _ => None,
        }
    }

    /// Gives the connection up; another is made after a pause.
    pub(crate) fn fail(&mut self, now: Instant) {
        self.failing_since.get_or_insert(now);
        self.trying_since = None;
        if self.lane == Lane::SCOUT {
            // It goes to another server next.
            self.backoff.reset();
        }
        let again = now + self.backoff.pause();
        self.unshaken += u32::from(matches!(self.state, State::Shaking(..)));
        self.state = match &mut self.state {
            State::Down(_) | State::Connecting => State::Down(Some(again)),
            // Under TLS a server is told why.
            State::Shaking(link, _) => State::Broken(link.take_outbound(), again),
            State::Up(_) | State::Broken(..) => State::Broken(Vec::new(), again),
        };
    }

    /// The socket is gone: there is nothing left to close. Tells what that means.
    pub(crate) fn on_lost(&mut self, error: Error, now: Instant) -> Error {
        let error = match &self.state {
            State::Shaking(link, _) => link.explain(error).before_asking(),
            State::Down(_) | State::Connecting => error.before_asking(),
            State::Up(_) | State::Broken(..) => error,
        };
        self.fail(now);
        if let State::Broken(_, again) = self.state {
            self.state = State::Down(Some(again));
        }
        error
    }

    /// Since when there has been no connection; `None`: there is one, or none was wanted yet.
    pub(crate) fn failing_since(&self) -> Option<Instant> {
        self.failing_since
    }

    /// Begins to count anew for how long there has been no connection.
    pub(crate) fn forget_failing(&mut self, now: Instant) {
        self.failing_since = self.failing_since.map(|_| now);
    }

    /// Where the connection goes.
    pub(crate) fn address(&self) -> &str {
        &self.dial.address
    }

    /// Since when a connection is being made.
    pub(crate) fn trying_since(&self) -> Option<Instant> {
        self.trying_since
    }

    /// Whether the handshake has taken too long.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        matches!(self.state, State::Shaking(_, until) if now >= until)
    }

    /// What the connection needs; `None`: nothing now. One that is to be made goes where `dial`
    /// tells.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        wanted: bool,
        dial: impl FnOnce() -> Dial,
    ) -> Option<Step> {
        match &mut self.state {
            State::Broken(last, _) if !last.is_empty() => {
                Some(Step::Send(self.lane, std::mem::take(last)))
            }
            State::Broken(_, again) => {
                self.state = State::Down(Some(*again));
                Some(Step::Close(self.lane))
            }
            State::Down(again) if wanted && again.is_none_or(|again| now >= again) => {
                self.state = State::Connecting;
                self.trying_since = Some(now);
                self.dial = dial();
                Some(Step::Connect(self.lane, self.dial.clone()))
            }
            State::Down(_) | State::Connecting => None,
            State::Shaking(link, _) => send(self.lane, link),
            State::Up(link) => send(self.lane, link),
        }
    }

    /// When there is something to do by itself.
    pub(crate) fn timeout(&self, wanted: bool) -> Option<Instant> {
        match &self.state {
            State::Down(again) if wanted => *again,
            State::Shaking(_, until) => Some(*until),
            _ => None,
        }
    }
}

/// What a handshake that took too long is told.
pub(crate) fn late() -> Error {
    Error::Server { code: ErrorCode::Timeout, message: "(no answer in time)".to_owned() }
}

fn send(lane: Lane, link: &mut Link) -> Option<Step> {
    let bytes = link.take_outbound();
    (!bytes.is_empty()).then_some(Step::Send(lane, bytes))
}
