//! Calls go on at the next head though the nodes that are asked know less, or say nothing.

mod greeting;
mod talk;

use std::{
    collections::BTreeMap,
    io::{self, Read},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

#[cfg(feature = "tokio")]
use catena_client::tokio as tasks;
use catena_client::{Client, Error, OffsetQuery, Options};
use catena_format::{
    Epoch, NodeId, Offset, PartitionIndex, PartitionUid, ProducerEpoch, ProducerId, TopicId,
};
use catena_wire::{
    Api, ErrorCode, HeadAddress, ListOffsetsResponse, MetadataResponse, NodeAddress,
    PartitionMetadata, ProducerIdResponse, StatusResponse, TopicMetadata,
};
use greeting::greeting;

const TOPIC: TopicId = TopicId::new(1);
const PARTITION: PartitionIndex = PartitionIndex::new(0);
/// What waits longer than it should for a node that is of no use.
const LATE: Duration = Duration::from_secs(3);

/// What a node thinks of the only partition.
#[derive(Clone, Copy)]
struct View {
    head: u64,
    epoch: u32,
    silent: bool,
}

/// Nodes 1 to 3, of which the second is the head.
#[derive(Clone)]
struct Cluster {
    addresses: Arc<Vec<String>>,
    views: Arc<Mutex<BTreeMap<u64, View>>>,
    /// Nodes tell where the head is when they are not.
    tells: bool,
    /// How often anything was asked, and how often metadata.
    asked: Arc<[AtomicU64; 2]>,
}

impl Cluster {
    fn start() -> Self {
        Self::start_that_tells(false)
    }

    fn start_that_tells(tells: bool) -> Self {
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let addresses = Arc::new(listeners.iter().map(address).collect());
        let view = View { head: 2, epoch: 1, silent: false };
        let views = Arc::new(Mutex::new((1..4).map(|node| (node, view)).collect()));
        let cluster = Self { addresses, views, tells, asked: Arc::default() };
        for (node, listener) in (1..).zip(listeners) {
            let cluster = cluster.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let cluster = cluster.clone();
                    thread::spawn(move || cluster.serve(node, stream.unwrap()));
                }
            });
        }
        cluster
    }

    fn servers(&self) -> Options {
        Options::new(&self.addresses[0])
    }

    fn set(&self, node: u64, head: u64, epoch: u32, silent: bool) {
        self.views.lock().unwrap().insert(node, View { head, epoch, silent });
    }

    fn serve(&self, node: u64, mut stream: TcpStream) -> io::Result<()> {
        stream.read_exact(&mut [0; talk::PREFACE_BYTES])?;
        let own = || self.views.lock().unwrap()[&node];
        while own().silent {
            thread::sleep(Duration::from_millis(10));
        }
        let greeting =
            catena_wire::HandshakeResponse { node: NodeId::new(node), ..greeting(1 << 20) };
        talk::shake_hands(&mut stream, &greeting)?;
        loop {
            let asked = talk::request(&mut stream)?;
            let view = own();
            self.asked[0].fetch_add(1, SeqCst);
            self.asked[1].fetch_add(u64::from(asked.api == Api::Metadata as u8), SeqCst);
            let (error, message) = (ErrorCode::None, "".into());
            match Api::from_number(asked.api).unwrap() {
                _ if view.silent => {}
                Api::Metadata => talk::answer(&mut stream, asked, &self.metadata(view))?,
                Api::ListOffsets => {
                    let found = node == view.head;
                    let error = if found { error } else { ErrorCode::NotHead };
                    let (offset, epoch) = (Offset::new(7), Epoch::new(view.epoch));
                    let told = HeadAddress {
                        node: NodeId::new(view.head),
                        epoch,
                        core: 0,
                        address: self.addresses[view.head as usize - 1].clone().into(),
                    };
                    let head = (!found && self.tells).then_some(told);
                    let answer = ListOffsetsResponse { error, found, offset, epoch, message, head };
                    talk::answer(&mut stream, asked, &answer)?;
                }
                Api::ProducerId => {
                    let (id, epoch) = (ProducerId::new(1), ProducerEpoch::new(1));
                    let answer = ProducerIdResponse { error, id, epoch, message };
                    talk::answer(&mut stream, asked, &answer)?;
                }
                _ => talk::answer(&mut stream, asked, &StatusResponse { error, message })?,
            }
        }
    }

    fn metadata(&self, view: View) -> MetadataResponse<'static> {
        let partition = PartitionMetadata {
            index: PARTITION,
            uid: PartitionUid::new(1),
            epoch: Epoch::new(view.epoch),
            core: 0,
            chain: vec![NodeId::new(view.head)],
            error: ErrorCode::None,
        };
        let topic = TopicMetadata {
            error: ErrorCode::None,
            name: "t".into(),
            id: TOPIC,
            config_version: 1,
            batch_bytes_max: 4096,
            partitions: vec![partition],
        };
        let address = |(node, address): (u64, &String)| NodeAddress {
            node: NodeId::new(node),
            address: address.clone().into(),
        };
        let nodes = (1..).zip(self.addresses.iter()).map(address).collect();
        let (error, topics) = (ErrorCode::None, vec![topic]);
        MetadataResponse { error, version: 1, nodes, topics, message: "".into() }
    }
}

/// Has a client do something before and after `change`, which may not take it long.
fn with_threads(change: impl Fn(&Cluster), call: impl Fn(&mut Client) -> Result<(), Error>) {
    let cluster = Cluster::start();
    let mut client = Client::new(cluster.servers());
    client.topic("t").unwrap();
    call(&mut client).unwrap();
    change(&cluster);
    let began = Instant::now();
    call(&mut client).unwrap();
    assert!(began.elapsed() < LATE, "{:?}", began.elapsed());
}

/// The same with tasks.
#[cfg(feature = "tokio")]
fn with_tasks(
    change: impl Fn(&Cluster),
    call: impl AsyncFn(&mut tasks::Client) -> Result<(), Error>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start();
        let mut client = tasks::Client::new(cluster.servers());
        client.topic("t").await.unwrap();
        call(&mut client).await.unwrap();
        change(&cluster);
        let began = Instant::now();
        call(&mut client).await.unwrap();
        assert!(began.elapsed() < LATE, "{:?}", began.elapsed());
    });
}

/// A call with threads and with tasks.
macro_rules! with_both {
    ($change:expr, |$client:ident| $call:expr) => {
        with_threads($change, |$client| $call.map(drop));
        #[cfg(feature = "tokio")]
        with_tasks($change, async |$client| $call.await.map(drop));
    };
}

#[test]
fn a_call_that_came_to_the_wrong_node_goes_on_at_the_head_that_it_tells_of() {
    let asked = |cluster: &Cluster| cluster.asked.each_ref().map(|count| count.load(SeqCst));
    let cluster = Cluster::start_that_tells(true);
    let mut client = Client::new(cluster.servers());
    for (head, sum) in [(2, 2), (2, 3), (3, 5)] {
        // Of an epoch that the client has not heard of, unless nothing has changed.
        (1..4).for_each(|node| cluster.set(node, head, head as u32, false));
        client.offset(TOPIC, PARTITION, OffsetQuery::Latest).unwrap();
        assert_eq!(asked(&cluster), [sum, 0]);
    }
    #[cfg(feature = "tokio")]
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let mut client = tasks::Client::new(cluster.servers());
        client.offset(TOPIC, PARTITION, OffsetQuery::Latest).await.unwrap();
        assert_eq!(asked(&cluster), [7, 0]);
    });
}

#[test]
fn nodes_that_know_less_are_asked_once_each() {
    // One of them knows what one may not believe.
    for older in [2, 1] {
        let change = |cluster: &Cluster| {
            cluster.set(1, older, 1, false);
            cluster.set(2, 1, 1, false);
            cluster.set(3, 3, 2, false);
        };
        with_both!(change, |client| client.offset(TOPIC, PARTITION, OffsetQuery::Latest));
    }
}

#[test]
fn a_head_that_fell_silent_is_left_though_the_node_at_hand_knows_less() {
    let change = |cluster: &Cluster| {
        cluster.set(2, 2, 1, true);
        cluster.set(3, 3, 2, false);
    };
    with_both!(change, |client| client.offset(TOPIC, PARTITION, OffsetQuery::Latest));
}

#[test]
fn what_cannot_be_asked_twice_is_not_asked_of_a_silent_node() {
    let (id, epoch) = (ProducerId::new(1), ProducerEpoch::new(0));
    let change = |cluster: &Cluster| cluster.set(1, 2, 1, true);
    with_both!(change, |client| client.raise_producer(id, epoch));
}

#[test]
fn a_producer_begins_although_the_node_at_hand_fell_silent() {
    let change = |cluster: &Cluster| cluster.set(1, 2, 1, true);
    with_both!(change, |client| client.producer("t", Default::default()));
}
