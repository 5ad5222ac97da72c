//! The shell of one core: sockets, clock and files around a [`Node`], which decides everything.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    path::PathBuf,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use catena_log::{
    Finding, Now, RecoveryReport,
    io::{Done, OpId},
};
use catena_node::{Directory, LinkId, Node, Notice, Send, SessionId, Status};
use catena_uring::{DmaMemory, Folder, Hands, Share, attach_stream, create_directory};
use catena_wire::peer::PeerHeader;
use glommio::{
    net::{TcpListener, TcpStream},
    timer::sleep,
};
use tracing::Level;

use crate::{
    budget::Budget,
    cluster, connection,
    cores::{Cargo, Shared},
    live::Live,
    machine::wall_clock,
    metrics::{ConnectionEnds, Numbers},
    outbox::{Outbox, Unsent},
    received::{Ended, Received},
    serve::{OUTDATED, REMOVED},
    tasks::Task,
};

/// The longest nap of the core's clock.
const NAP_MAX: Duration = Duration::from_millis(10);
const NAP_MIN: Duration = Duration::from_micros(200);
/// How often a core that ends looks whether it may.
const DRAIN_NAP: Duration = Duration::from_millis(1);
/// How often the numbers for metrics and health are brought up to date.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);
/// Bytes that may wait for one client that does not read; beyond, its connection is cut.
const OUTBOX_BYTES_MAX: usize = 128 << 20;

/// Connections beyond the limit that are told so at a time; further ones are closed.
const REFUSALS_MAX: usize = 64;

/// What the shell of a core needs.
pub(crate) struct ShellOptions {
    pub(crate) core: u16,
    pub(crate) root: PathBuf,
    pub(crate) connections_max: usize,
    /// Bytes that may wait for clients.
    pub(crate) unsent_bytes_max: usize,
    /// Bytes for what clients are sending.
    pub(crate) receive_bytes_max: usize,
    /// How long a peer may be silent before it is probed.
    pub(crate) keepalive: Duration,
    pub(crate) shared: Arc<Shared>,
}

/// The directory of a log, and how many operations are under way in it.
struct Place {
    folder: Folder,
    operations: usize,
    /// It goes away when none is: the runtime does not bear that a file vanishes as it is opened.
    deleted: bool,
}

/// One core.
pub(crate) struct Shell {
    options: ShellOptions,
    node: RefCell<Node<DmaMemory>>,
    /// Somebody carries out what the node asks for.
    carrying_out: Cell<bool>,
    hands: Hands,
    places: RefCell<BTreeMap<Directory, Place>>,
    outboxes: RefCell<BTreeMap<SessionId, Rc<Outbox>>>,
    unsent: Rc<Unsent>,
    links: cluster::Links,
    /// Memory for what clients are sending.
    budget: Rc<Budget>,
    slow_consumers: Cell<u64>,
    ends: Cell<ConnectionEnds>,
    stalls: Cell<u64>,
    next_session: Cell<u64>,
    /// When the numbers were last told, and how the node stood.
    published: Cell<Option<(Duration, Status)>>,
    started: Instant,
}

impl Shell {
    pub(crate) fn new(options: ShellOptions, node: Node<DmaMemory>, hands: Hands) -> Rc<Self> {
        let longest = usize::try_from(node.limits().frame_limits().frame_bytes_max());
        let budget = Budget::new(options.receive_bytes_max, longest.unwrap_or(usize::MAX));
        Rc::new(Self {
            options,
            budget,
            node: RefCell::new(node),
            carrying_out: Cell::new(false),
            hands,
            places: RefCell::new(BTreeMap::new()),
            outboxes: RefCell::new(BTreeMap::new()),
            unsent: Rc::default(),
            links: cluster::Links::default(),
            slow_consumers: Cell::new(0),
            ends: Cell::default(),
            stalls: Cell::new(0),
            next_session: Cell::new(0),
            published: Cell::new(None),
            started: Instant::now(),
        })
    }

    pub(crate) fn keepalive(&self) -> Duration {
        self.options.keepalive
    }

    /// The settings in force that may change.
    pub(crate) fn live(&self) -> Arc<Live> {
        self.shared().live.get()
    }

    /// The links to other nodes.
    pub(crate) fn links(&self) -> &cluster::Links {
        &self.links
    }

    pub(crate) fn core(&self) -> u16 {
        self.options.core
    }

    /// What all cores share.
    pub(crate) fn shared(&self) -> &Shared {
        &self.options.shared
    }

    /// Tells the admin thread how this core stands.
    fn publish(&self) {
        let node = self.node.borrow();
        let mut numbers = Numbers {
            at: Some(Instant::now()),
            status: Some(node.status()),
            node: node.stats(),
            hands: self.hands.stats(),
            memory_bytes: self.hands.memory().used() as u64,
            descriptors: self.hands.descriptors() as u64,
            unsent_bytes: self.unsent.bytes() as u64,
            receiving_bytes: self.budget.used() as u64,
            slow_consumers: self.slow_consumers.get(),
            ends: self.ends.get(),
            stalls: self.stalls.get(),
            connections: self.outboxes.borrow().len() as u64,
            totals: node.totals(),
            ..Numbers::default()
        };
        let now = self.started.elapsed();
        for replica in node.replicas() {
            numbers.add(replica, now);
        }
        drop(node);
        self.shared().metrics.publish(self.core(), numbers);
    }

    pub(crate) fn now(&self) -> Now {
        Now { wall: wall_clock(), monotonic: self.started.elapsed() }
    }

    /// Gives the node an input, then carries out what follows.
    pub(crate) fn input<T>(self: &Rc<Self>, act: impl FnOnce(&mut Node<DmaMemory>, Now) -> T) -> T {
        let now = self.now();
        let result = act(&mut self.node.borrow_mut(), now);
        self.carry_out();
        result
    }

    /// Hands a message on, and answers it if it can be at once; [`Shell::carry_out`] follows when
    /// all that came are handed on. False when its client has been cut: it reads too little.
    pub(crate) fn message(
        &self,
        session: SessionId,
        header: &catena_wire::FrameHeader,
        head: &[u8],
        payload: &[u8],
        now: Now,
    ) -> bool {
        self.node.borrow_mut().on_message(session, header, head, payload, now);
        !self.send_all() || self.outboxes.borrow().contains_key(&session)
    }

    /// Hands a message of another node on; [`Shell::carry_out`] follows when all that came are
    /// handed on.
    pub(crate) fn link_message(
        &self,
        link: LinkId,
        header: &PeerHeader,
        head: &[u8],
        payload: &[u8],
        now: Now,
    ) {
        self.node.borrow_mut().on_link_message(link, header, head, payload, now);
    }

    /// Some bytes have left for another node.
    pub(crate) fn link_sent(self: &Rc<Self>, link: LinkId, bytes: usize) {
        let woken = self.node.borrow_mut().on_link_sent(link, bytes);
        if woken {
            self.carry_out();
        }
    }

    /// Some bytes have come from another node.
    pub(crate) fn link_heard(&self, link: LinkId) {
        let now = self.now();
        self.node.borrow_mut().on_link_heard(link, now);
    }

    /// Looks at the node.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Node<DmaMemory>) -> T) -> T {
        look(&self.node.borrow())
    }

    /// Performs what the node asks for. The node is never borrowed while a task is begun, for a new
    /// task runs at once; when it has ended at once, too, and gives the node an input, then what
    /// follows is left to whoever began it, lest thousands stand within each other.
    pub(crate) fn carry_out(self: &Rc<Self>) {
        if self.carrying_out.replace(true) {
            return;
        }
        let all = self.carry_out_some();
        self.carrying_out.set(false);
        if !all {
            let shell = self.clone();
            self.spawn(Task::Operation, async move {
                sleep(BREATH).await;
                shell.carry_out();
            });
        }
    }

    /// Begins some operations and does the rest; whether that was all. Some, for they may be those
    /// of a thousand partitions that are opened, and each takes the core for a while.
    fn carry_out_some(self: &Rc<Self>) -> bool {
        for _ in 0..OPERATIONS_MAX {
            let op = self.node.borrow_mut().poll_op();
            let Some((directory, id, op)) = op else {
                self.carry_out_beside();
                return true;
            };
            let (shell, folder) = (self.clone(), self.enter(directory));
            self.spawn(Task::Operation, async move {
                let result = folder.perform(op).await;
                shell.completed(directory, id, result);
            });
        }
        self.carry_out_beside();
        false
    }

    /// What is no operation: none of it gives the node an input before this returns.
    fn carry_out_beside(self: &Rc<Self>) {
        self.send_all();
        self.carry_out_in_cluster();
        loop {
            let parcel = self.node.borrow_mut().poll_parcel();
            let Some((to, parcel)) = parcel else { break };
            self.shared().send(self.core(), to, Cargo::Parcel(parcel));
        }
        loop {
            let uid = self.node.borrow_mut().poll_removal();
            let Some(uid) = uid else { break };
            self.remove(Directory::Partition(uid));
        }
        while let Some(notice) = self.node.borrow_mut().poll_notice() {
            tell(&notice);
        }
    }

    /// What other nodes are sent, and consensus is asked for.
    fn carry_out_in_cluster(self: &Rc<Self>) {
        let Some(consensus) = &self.shared().consensus else { return };
        loop {
            let proposal = self.node.borrow_mut().poll_proposal();
            let Some((number, entry)) = proposal else { break };
            if let Some(refused) = cluster::propose(consensus, number, entry) {
                let now = self.now();
                self.node.borrow_mut().on_ordered(refused, now);
            }
        }
        loop {
            let send = self.node.borrow_mut().poll_link_send();
            let Some(send) = send else { break };
            self.links.send(send);
        }
        loop {
            let dial = self.node.borrow_mut().poll_dial();
            let Some(dial) = dial else { return };
            self.spawn(Task::Link, cluster::dial(self.clone(), dial));
        }
    }

    /// Begins a task under its name.
    pub(crate) fn spawn(self: &Rc<Self>, task: Task, future: impl Future<Output = ()> + 'static) {
        // Every layer around it would move it, and keep room for it twice.
        let future = Box::pin(future);
        let shell = self.clone();
        glommio::spawn_local(async move { shell.watch(task, future).await }).detach();
    }

    /// Does something that is no task of its own under a task's name.
    pub(crate) async fn watch<T>(&self, task: Task, future: impl Future<Output = T>) -> T {
        let stalls = |_| self.stalls.set(self.stalls.get() + 1);
        self.shared().metrics.running(self.core()).watch(task, future, stalls).await
    }

    /// Takes what other cores send, for as long as the server runs.
    pub(crate) async fn receive(self: Rc<Self>, arrivals: flume::Receiver<(u16, Cargo)>) {
        let mut turns = 0;
        while let Ok((from, cargo)) = arrivals.recv_async().await {
            match cargo {
                Cargo::Parcel(parcel) => {
                    self.input(|node, now| node.on_parcel(from, parcel, now));
                }
                Cargo::Peer(descriptor) => {
                    let (shell, stream) = (self.clone(), attach_stream(descriptor));
                    self.spawn(Task::Link, async move {
                        cluster::serve_peer(&shell, stream, true).await;
                    });
                }
                Cargo::Connection(descriptor, deadline) => {
                    self.serve(attach_stream(descriptor), deadline, true);
                }
            }
            breathe(&mut turns).await;
        }
    }

    fn completed(
        self: &Rc<Self>,
        directory: Directory,
        id: OpId,
        result: Result<catena_log::io::Outcome<Share>, catena_log::io::IoError>,
    ) {
        self.leave(directory);
        self.input(|node, now| node.on_done(directory, Done { id, result }, now));
    }

    fn path(&self, directory: Directory) -> PathBuf {
        match directory {
            Directory::Catalog => self.options.root.join("meta").join("catalog"),
            Directory::Partition(uid) => {
                self.options.root.join("p").join(directory_name(uid.get()))
            }
        }
    }

    fn place<T>(&self, directory: Directory, act: impl FnOnce(&mut Place) -> T) -> T {
        let mut places = self.places.borrow_mut();
        act(places.entry(directory).or_insert_with(|| {
            let folder = self.hands.folder(self.path(directory));
            let folder = match directory {
                // Topics can be deleted and trimmed when the disk is full.
                Directory::Catalog => folder.with_reserve(),
                Directory::Partition(_) => folder,
            };
            Place { folder, operations: 0, deleted: false }
        }))
    }

    /// An operation begins.
    fn enter(&self, directory: Directory) -> Folder {
        self.place(directory, |place| {
            place.operations += 1;
            place.folder.clone()
        })
    }

    /// It has ended.
    fn leave(self: &Rc<Self>, directory: Directory) {
        self.place(directory, |place| place.operations -= 1);
        self.remove_idle(directory);
    }

    /// Removes the directory of a deleted partition when nothing is under way in it; what a crash
    /// leaves the next start removes.
    fn remove(self: &Rc<Self>, directory: Directory) {
        self.place(directory, |place| place.deleted = true);
        self.remove_idle(directory);
    }

    fn remove_idle(self: &Rc<Self>, directory: Directory) {
        if !self.place(directory, |place| place.deleted && place.operations == 0) {
            return;
        }
        let Some(place) = self.places.borrow_mut().remove(&directory) else { return };
        let (shell, path) = (self.clone(), self.path(directory));
        self.spawn(Task::Removal, async move {
            place.folder.close().await;
            shell.shared().remover.remove(path);
        });
    }

    /// Whether there was anything to send.
    fn send_all(&self) -> bool {
        let mut any = false;
        loop {
            let send = self.node.borrow_mut().poll_send();
            let Some(send) = send else { return any };
            self.send(send);
            any = true;
        }
    }

    fn send(&self, send: Send<Share>) {
        let session = send.session;
        let mut outboxes = self.outboxes.borrow_mut();
        let Some(outbox) = outboxes.get(&session) else { return };
        outbox.send(send);
        if outbox.bytes() > OUTBOX_BYTES_MAX {
            self.cut(&mut outboxes, session);
        }
        // What clients do not read must not take the memory of those who write.
        while self.unsent.bytes() > self.options.unsent_bytes_max {
            let slowest = outboxes.iter().max_by_key(|(_, outbox)| outbox.bytes());
            let Some(slowest) = slowest.map(|(session, _)| *session) else { return };
            self.cut(&mut outboxes, slowest);
        }
    }

    fn cut(&self, outboxes: &mut BTreeMap<SessionId, Rc<Outbox>>, session: SessionId) {
        let Some(outbox) = outboxes.remove(&session) else { return };
        let bytes = outbox.bytes();
        self.slow_consumers.set(self.slow_consumers.get() + 1);
        tracing::warn!("{session:?} was cut: its client did not read what holds {bytes} bytes");
        outbox.cut();
    }

    /// Counts why a connection ends here.
    pub(crate) fn connection_ended(&self, why: &Ended) -> connection::End {
        let mut ends = self.ends.get();
        match why {
            Ended::Closed => {}
            Ended::NotOurs => ends.bad_frames += 1,
            Ended::Late => ends.late += 1,
            Ended::Idle => ends.idle += 1,
            Ended::Refused(..) => ends.refused += 1,
        }
        self.ends.set(ends);
        connection::End::Here
    }

    /// Counts a connection of a node that cannot be spoken with.
    pub(crate) fn peer_refused(&self) {
        self.ends.update(|ends| ConnectionEnds { peers: ends.peers + 1, ..ends });
    }

    /// Takes connections for as long as the server runs.
    pub(crate) async fn listen(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok(stream) => self.accept(stream),
                // Out of descriptors, most likely: what is open goes on, new ones wait.
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn accept(self: &Rc<Self>, stream: TcpStream) {
        let open = self.shared().connections.fetch_add(1, Ordering::Relaxed);
        let limit = self.options.connections_max;
        let deadline = Instant::now() + self.live().handshake;
        if open < limit {
            self.serve(stream, deadline, false);
        } else if open < limit + REFUSALS_MAX {
            let shell = self.clone();
            self.spawn(Task::Connection, async move {
                connection::refuse(&shell, stream, deadline).await;
                shell.shared().connections.fetch_sub(1, Ordering::Relaxed);
            });
        } else {
            // More than can be told why: counted, and no more.
            self.shared().connections.fetch_sub(1, Ordering::Relaxed);
            self.ends.update(|ends| ConnectionEnds { flooded: ends.flooded + 1, ..ends });
        }
    }

    /// Serves a connection to its end, here or on the core that its client asks for; `arrived`: it
    /// is here because of that.
    fn serve(self: &Rc<Self>, stream: TcpStream, deadline: Instant, arrived: bool) {
        let shell = self.clone();
        self.spawn(Task::Connection, async move {
            let run = connection::run(&shell, stream, deadline, arrived);
            if run.await == connection::End::Here {
                shell.shared().connections.fetch_sub(1, Ordering::Relaxed);
            }
        });
    }

    /// What a connection receives into.
    pub(crate) fn receive_buffer(&self) -> Received {
        Received::new(&self.budget)
    }

    /// A connection has said that it speaks our protocol.
    pub(crate) fn open_session(&self) -> (SessionId, Rc<Outbox>) {
        let number = self.next_session.get();
        self.next_session.set(number + 1);
        let session = SessionId { core: self.core(), number };
        let outbox = Outbox::new(self.unsent.clone());
        self.outboxes.borrow_mut().insert(session, outbox.clone());
        self.node.borrow_mut().on_connect(session);
        (session, outbox)
    }

    pub(crate) fn close_session(self: &Rc<Self>, session: SessionId) {
        self.outboxes.borrow_mut().remove(&session);
        self.input(|node, _| node.on_disconnect(session));
    }

    /// The core's clock: wakes the node when it has something to do, until the server is stopped.
    pub(crate) async fn run(self: &Rc<Self>) {
        while !self.shared().stops() {
            let next = self.node.borrow().next_tick();
            let nap = next.map_or(NAP_MAX, |at| at.saturating_sub(self.started.elapsed()));
            sleep(nap.clamp(NAP_MIN, NAP_MAX)).await;
            self.tick();
        }
    }

    fn tick(self: &Rc<Self>) {
        self.input(Node::on_tick);
        let (now, status) = (self.started.elapsed(), self.node.borrow().status());
        match status {
            Status::Outdated => self.shared().fail(OUTDATED.to_owned()),
            Status::Removed => self.shared().fail(REMOVED.to_owned()),
            _ => {}
        }
        let last = self.published.get();
        if last.is_none_or(|(at, told)| now >= at + PUBLISH_EVERY || told != status) {
            self.published.set(Some((now, status)));
            let live = self.live();
            let mut node = self.node.borrow_mut();
            let limits = node.limits_mut();
            limits.wait_max = live.request;
            (limits.scrub_rate, limits.scrub_period) = (live.scrub_rate, live.scrub_period);
            limits.catch_up_rate = live.catch_up_rate;
            drop(node);
            self.budget.sweep(Instant::now(), live.request);
            self.publish();
        }
    }

    /// Refuses new work and waits until what was taken is on the disk and answered, here and on the
    /// other cores, which may wait for this one.
    pub(crate) async fn drain(self: &Rc<Self>) {
        let longest = self.live().drain;
        self.input(Node::drain);
        let (began, mut idle) = (Instant::now(), false);
        while !self.shared().drained() && began.elapsed() < longest {
            sleep(DRAIN_NAP).await;
            self.tick();
            let now_idle = self.look(Node::is_idle) && self.unsent.bytes() == 0;
            if now_idle != std::mem::replace(&mut idle, now_idle) {
                self.shared().note_idle(now_idle);
            }
        }
    }

    /// Removes directories of partitions that the catalog does not name: of deleted topics, and of
    /// copies that have moved away. Such a partition may come back: what a crash in between left
    /// of it must not be taken for its log, so the directory gets another name first, durably.
    pub(crate) fn remove_leftovers(&self) -> anyhow::Result<usize> {
        let root = self.options.root.join("p");
        create_directory(&root)?;
        let (known, next) = self.look(|node| (node.known(), node.next_uid()));
        let mut leftovers = Vec::new();
        for entry in std::fs::read_dir(&root)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.ends_with(GONE)) {
                std::fs::remove_dir_all(&path)?;
                continue;
            }
            let Some(uid) = name.and_then(directory_uid) else { continue };
            if uid >= next {
                anyhow::bail!(
                    "{} is of a partition that the catalog never had: the catalog under meta is \
                     an older one than the partitions. Restore that of the same time, or, if the \
                     partition is not wanted, move its directory away",
                    path.display(),
                );
            }
            if !known.contains(&uid) {
                leftovers.push(path);
            }
        }
        // None goes before all are looked at: what does not fit may be the catalog.
        let gone = |path: &PathBuf| PathBuf::from(format!("{}{GONE}", path.display()));
        leftovers.iter().try_for_each(|path| std::fs::rename(path, gone(path)))?;
        std::fs::File::open(&root)?.sync_all()?;
        leftovers.iter().try_for_each(|path| std::fs::remove_dir_all(gone(path)))?;
        Ok(leftovers.len())
    }
}

/// What the name of a directory ends with that is being removed.
const GONE: &str = ".gone";

/// Tells the operator what happened to a log.
fn tell(notice: &Notice) {
    match notice {
        Notice::Opened(log, report) => tell_recovery(&place_of(log), report),
        Notice::CatalogOpened(report) => tell_recovery("the catalog (meta/catalog)", report),
        Notice::Postponed(log, error) => {
            tracing::warn!("{} cannot be opened yet and is tried again: {error}", name_of(log));
        }
        Notice::Failed(log, error) => tracing::error!("{} is closed: {error}", place_of(log)),
        Notice::Poisoned(log, error) => tracing::error!("{} is read-only: {error}", name_of(log)),
        Notice::CatalogPoisoned(error) => {
            tracing::error!("topics cannot be changed until the next start: {error}");
        }
        Notice::Cut(log, end, _) => {
            tracing::info!("{} ends at {end} from now on, as its chain says", name_of(log));
        }
        Notice::Repaired(log, offsets) => {
            let Range { start, end } = offsets;
            tracing::info!("{}: offsets {start} to {end} are repaired", name_of(log));
        }
        Notice::RepairFailed(log, offsets, why) => {
            let Range { start, end } = offsets;
            tracing::error!("{}: offsets {start} to {end} stay damaged: {why}", name_of(log));
        }
        Notice::Lost(log, offsets) => {
            let (name, Range { start, end }) = (name_of(log), offsets);
            tracing::error!("{name}: offsets {start} to {end} are damaged on every node asked");
        }
        Notice::Contradicted(log, why) => {
            tracing::error!("{} does not follow its chain: {why}", name_of(log));
        }
        Notice::Stalled(log, node) => {
            tracing::warn!("{}: the chain is to go on without node {node}", name_of(log));
        }
        Notice::Found(log, finding) => {
            let (name, directory) = (name_of(log), directory_name(log.uid.get()));
            match finding {
                Finding::Damaged { .. } => tracing::error!("{name}: p/{directory}/{finding}"),
                _ => tracing::warn!("{name}: p/{directory}/{finding}"),
            }
        }
    }
}

fn tell_recovery(log: &str, report: &RecoveryReport) {
    match level_of(report) {
        Level::WARN => tracing::warn!("{log}: {report}"),
        Level::INFO => tracing::info!("{log}: {report}"),
        _ if report.batches > 0 => tracing::debug!("{log}: {report}"),
        _ => {}
    }
}

/// How much the operator wants to know what a recovery found: losses in any case, and what a crash
/// leaves, which is no loss, but not every log that was written before the start.
fn level_of(report: &RecoveryReport) -> Level {
    if report.lost_something() {
        Level::WARN
    } else if report.batches_cut > 0 || report.manifest_repaired {
        Level::INFO
    } else {
        Level::DEBUG
    }
}

fn name_of(log: &catena_log::LogIdentity) -> String {
    format!("partition {} of topic {:032x}", log.partition, log.topic.get())
}

/// A partition, and where its files are.
fn place_of(log: &catena_log::LogIdentity) -> String {
    format!("{} (p/{})", name_of(log), directory_name(log.uid.get()))
}

/// The partition that a directory of this name belongs to; nobody else's is touched.
fn directory_uid(name: &str) -> Option<catena_format::PartitionUid> {
    let uid = u64::from_str_radix(name, 16).ok()?;
    (directory_name(uid) == name).then(|| catena_format::PartitionUid::new(uid))
}

fn directory_name(uid: u64) -> String {
    format!("{uid:016x}")
}

/// Operations that are begun at once.
const OPERATIONS_MAX: usize = 32;
/// Turns that a task may take without a look at what has completed meanwhile.
const TURNS_MAX: u32 = 16;
/// Long enough to be waited for.
const BREATH: Duration = Duration::from_micros(1);

/// For a task that may always find its next input there already: every so many turns it lets the
/// executor look for what has completed. (A mere yield would not: the task stays runnable.)
pub(crate) async fn breathe(turns: &mut u32) {
    *turns += 1;
    if *turns == TURNS_MAX {
        *turns = 0;
        sleep(BREATH).await;
    }
}

/// How long a listener is waited for: the sockets of a server that was just killed live on until
/// the kernel has ended what it had under way.
const BIND_WAIT: Duration = Duration::from_secs(10);

/// Binds the client listener. Listeners here may share a port with others of the same user (the
/// runtime sets SO_REUSEPORT), and a bound check would stumble over connections of an earlier life;
/// so whether somebody listens is found out by knocking.
pub(crate) async fn bind_alone(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let began = Instant::now();
    while address.port() != 0
        && std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok()
    {
        if began.elapsed() > BIND_WAIT {
            anyhow::bail!("cannot listen on {address}: another server answers there");
        }
        sleep(NAP_MAX).await;
    }
    bind(address)
}

/// Binds the client listener once more, for another core: the kernel spreads connections.
pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).map_err(|e| anyhow::anyhow!("cannot listen on {address}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_is_told_and_what_is_lost_more_so() {
        let nothing = RecoveryReport { batches: 9, ..RecoveryReport::default() };
        let cut = RecoveryReport { batches_cut: 1, bytes_cut: 70, ..nothing.clone() };
        let repaired = RecoveryReport { manifest_repaired: true, ..nothing.clone() };
        let lost = RecoveryReport { offsets_damaged: 1, ..cut.clone() };
        let levels = [nothing, cut, repaired, lost].map(|report| level_of(&report));
        assert_eq!(levels, [Level::DEBUG, Level::INFO, Level::INFO, Level::WARN]);
    }
}
