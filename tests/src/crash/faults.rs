//! What befalls a world.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use catena_client::format::{Offset, PartitionIndex};

use super::{
    disk::{Fault, Odds, Request},
    server::{PATIENCE, Server},
    tally::Tally,
    world::{LIFE_BYTES, World},
};
use crate::sim::random::{MILLION, Random};

/// How often it is looked whether something has come.
const GLANCE: Duration = Duration::from_millis(5);
/// So long nothing is acknowledged on a disk that is full.
const STANDSTILL: Duration = Duration::from_millis(150);

impl World {
    /// Cuts the power: at once, or at a write or flush that comes.
    ///
    /// # Errors
    /// When what is left cannot be taken down.
    pub fn cut(&mut self, tally: &mut Tally) -> Result<()> {
        self.draw_odds();
        let disk = self.stack.disk();
        match self.random.below(3) {
            0 => tally.fault("cut at once"),
            at => {
                let (request, name) =
                    [(Request::Write, "cut at a write"), (Request::Flush, "cut at a flush")]
                        [at as usize - 1];
                disk.plan(request, self.random.below(50), Fault::Cut);
                let came = disk.wait_for_plan(Duration::from_secs(1));
                tally.fault(if came { name } else { "cut at once" });
            }
        }
        tally.depth(self.load.in_flight());
        disk.cut();
        self.take_down()
    }

    /// Crashes the operating system: what ext4 has not written yet is lost.
    ///
    /// # Errors
    /// When that does not happen, or what is left cannot be taken down.
    pub fn shut_down(&mut self, tally: &mut Tally) -> Result<()> {
        let shutdown = self.stack.prepare_shutdown()?;
        tally.depth(self.load.in_flight());
        tally.fault("shutdown");
        shutdown.carry_out()?;
        self.take_down()
    }

    /// From now on the disk lies.
    pub fn lie(&mut self) {
        self.stack.disk().lie();
    }

    /// Kills the server, perhaps while the disk is slow, and starts the next at once.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kill(&mut self, tally: &mut Tally) -> Result<()> {
        if self.random.chance(MILLION / 3) {
            self.stack.disk().slow(Duration::from_micros(200 + self.random.below(3_000)));
            thread::sleep(Duration::from_micros(self.random.below(60_000)));
            tally.fault("kill on a slow disk");
            tally.slow_depth(self.load.in_flight(), self.stack.disk().waiting());
        } else {
            tally.fault("kill");
        }
        tally.depth(self.load.in_flight());
        self.server.kill()?;
        self.server = Server::start(&self.setup)?;
        while self.random.chance(MILLION / 4) {
            thread::sleep(Duration::from_micros(self.random.below(60_000)));
            tally.fault("kill in recovery");
            self.server.kill()?;
            self.server = Server::start(&self.setup)?;
        }
        Ok(())
    }

    /// Switches everything on again, now and then with a further cut while it comes back.
    ///
    /// # Errors
    /// When the file system or the server does not come back.
    pub fn bring_up(&mut self, cuts: bool, tally: &mut Tally) -> Result<()> {
        while cuts && self.random.chance(MILLION / 4) {
            self.stack.disk().switch_on();
            self.draw_odds();
            self.stack.disk().plan(Request::Write, self.random.below(60), Fault::Cut);
            if self.stack.mount().is_ok() {
                self.server = Server::start(&self.setup)?;
                let patience = Duration::from_millis(20 + self.random.below(100));
                let came = self.stack.disk().wait_for_plan(patience);
                tally.fault(if came { "cut in recovery" } else { "cut after recovery" });
            } else {
                tally.fault("cut in journal recovery");
            }
            self.stack.disk().cut();
            self.take_down()?;
        }
        self.stack.disk().switch_on();
        self.stack.mount()?;
        self.server = Server::start(&self.setup)?;
        Ok(())
    }

    /// Lets the disk answer a write or a flush with an error. The server lives and serves what it
    /// has; then it is killed, or the power goes, and the next reads all back.
    ///
    /// # Errors
    /// When it does not.
    pub fn fail(&mut self, tally: &mut Tally) -> Result<()> {
        let (request, name) =
            [(Request::Write, "error at a write"), (Request::Flush, "error at a flush")]
                [self.random.below(2) as usize];
        self.stack.disk().plan(request, self.random.below(100), Fault::Error);
        tally.depth(self.load.in_flight());
        let came = self.stack.disk().wait_for_plan(Duration::from_secs(2));
        tally.fault(if came { name } else { "no error" });
        // It is to be seen by those who wait for what failed, and by some who come later.
        self.load.allow(LIFE_BYTES);
        thread::sleep(Duration::from_micros(self.random.below(50_000)));
        self.server.must_live().context("after an error of the disk")?;
        self.read_back().context("after an error of the disk")?;
        self.server.must_live().context("after an error of the disk")?;
        if self.server.metric(&self.setup, "catena_partitions_poisoned")? > 0 {
            tally.fault("partitions poisoned");
        }
        if self.random.chance(MILLION / 2) {
            self.draw_odds();
            self.stack.disk().cut();
            tally.fault("cut after an error");
        }
        self.take_down()?;
        self.bring_up(false, tally)
    }

    /// Fills the disk. What is there is served; after a crash, or none, it is trimmed, and writes
    /// go on by themselves.
    ///
    /// # Errors
    /// When they do not.
    pub fn fill(&mut self, tally: &mut Tally) -> Result<()> {
        self.load.allow(u64::MAX >> 1);
        self.wait_until_full()?;
        tally.fault("disk full");
        tally.depth(self.load.in_flight());
        self.read_back().context("on a full disk")?;
        match self.random.below(4) {
            _ if !self.has_reserve => {}
            0 => {
                tally.fault("kill on a full disk");
                self.server.kill()?;
                self.server = Server::start(&self.setup)?;
            }
            1 => {
                tally.fault("cut on a full disk");
                self.draw_odds();
                self.stack.disk().cut();
                self.take_down()?;
                self.bring_up(false, tally)?;
            }
            _ => {}
        }
        self.check(tally)?;
        for partition in 0..self.books.partitions() {
            self.trim(partition)?;
        }
        let (acked, until) = (self.acked(), Instant::now() + PATIENCE);
        while self.acked() == acked {
            self.server.must_live()?;
            ensure!(Instant::now() < until, "there is room, and writes do not go on");
            thread::sleep(GLANCE);
        }
        // It is not to be full again before somebody wants that.
        self.load.allow(0);
        Ok(())
    }

    fn wait_until_full(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let (mut acked, mut since) = (self.acked(), Instant::now());
        while since.elapsed() < STANDSTILL
            || self.server.metric(&self.setup, "catena_partitions_disk_full")? == 0
        {
            self.server.must_live().context("on a disk that fills up")?;
            ensure!(Instant::now() < until, "the disk does not fill up");
            if self.acked() > acked {
                (acked, since) = (self.acked(), Instant::now());
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Gives half or more of a partition up.
    fn trim(&mut self, partition: u32) -> Result<()> {
        let page = self.books.copy_of(partition);
        let Some((&last, _)) = page.must.last_key_value() else { return Ok(()) };
        let half = (last - page.start) / 2;
        let to = Offset::new(page.start + half + self.random.below(half + 1));
        let index = PartitionIndex::new(partition);
        let start = self.client.trim(self.topic, index, to).context("trim on a full disk")?;
        ensure!(start == to, "a trim to {to} came to {start}");
        self.books.on_start(partition, start.get());
        Ok(())
    }

    /// Nobody uses the file system any more, and it is gone.
    fn take_down(&mut self) -> Result<()> {
        self.server.kill()?;
        self.stack.unmount()
    }

    fn draw_odds(&mut self) {
        let of = |random: &mut Random| [0, MILLION / 3, MILLION * 3 / 4][random.below(3) as usize];
        let odds = Odds { kept: of(&mut self.random), torn: of(&mut self.random) };
        self.stack.disk().treat(odds);
    }
}
