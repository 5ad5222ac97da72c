//! TLS between the nodes of a cluster, with real processes: who is a node and who is not, what both
//! sides hear of that, and what goes over the wire.

#[path = "common/certificates.rs"]
mod certificates;
mod cluster_common;
mod common;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use catena_client::{NewRecord, ProducerOptions};
use catena_format::{JoinToken, NodeId, PartitionUid};
use catena_wire::peer::{Join, PeerMessage, PeerPreface, PeerThread};
use certificates::{Authority, Signed};
use cluster_common::{
    Node, client, cluster_with, create_everywhere, metadata, produce, root, shown, token,
};
use common::{PATIENCE, free_address, wait_until};

/// An error that comes only when all patience is at its end would be one that hangs.
const SECONDS: Duration = Duration::from_secs(15);

/// Files of a node, and the arguments that name them.
fn secured(directory: &Path, signed: &Signed, trusted: &[&Authority]) -> Vec<String> {
    std::fs::create_dir_all(directory).unwrap();
    let trusted: String = trusted.iter().map(|authority| authority.0.pem()).collect();
    let files = [("cert", &signed.cert), ("key", &signed.key), ("ca", &trusted)];
    let set = |(part, text): (&str, &String)| {
        let file = directory.join(format!("{part}.pem"));
        std::fs::write(&file, text).unwrap();
        ["--set".to_owned(), format!("cluster.tls.{part}={}", file.display())]
    };
    files.into_iter().flat_map(set).collect()
}

fn texts(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// A node that founds a cluster, and a token of that.
fn founder(root: &Path, more: &[&str]) -> (Node, String) {
    let mut node = Node::new(root, "a");
    node.start(more);
    node.wait("ready on", 1);
    let token = token(&node, root, &[]);
    (node, token)
}

/// What a node says that tries to join and ends.
fn cannot_join(root: &Path, name: &str, to: &Node, token: &str, more: &[&str]) -> String {
    let mut node = Node::new(root, name);
    let began = Instant::now();
    node.start(&[&["--join", &to.peer, "--token-file", token], more].concat());
    let child = &mut node.server.as_mut().unwrap().child;
    let mut status = None;
    wait_until("it ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert!(began.elapsed() < SECONDS, "it took {:?}", began.elapsed());
    assert_eq!(status.unwrap().code(), Some(1));
    node.server_log()
}

fn contains(text: &str, part: &str) {
    assert!(text.contains(part), "`{part}` is not in:\n{text}");
}

fn chain_has(nodes: &[Node], count: usize) -> bool {
    metadata(nodes)
        .is_some_and(|(topic, _)| topic.partitions.iter().all(|p| p.chain.len() == count))
}

#[test]
fn three_nodes_replicate_and_go_on_without_the_head() {
    let (root, authority) = (root(), Authority::new());
    let tls = secured(root.path(), &authority.node("127.0.0.1"), &[&authority]);
    let mut nodes = cluster_with(root.path(), &texts(&tls));
    create_everywhere(&mut client(&nodes[0].client), 2);
    for partition in [0, 1] {
        produce(&nodes, partition, 0);
    }
    let (topic, _) = metadata(&nodes).unwrap();
    let head = topic.partitions[0].chain[0];
    let dies = usize::try_from(head.get() - 1).unwrap();
    nodes[dies].server = None;
    for partition in [0, 1] {
        produce(&nodes, partition, 1);
    }
    nodes[dies].start(&texts(&tls));
    wait_until("all are in every chain", || chain_has(&nodes, 3));
    for partition in [0, 1] {
        produce(&nodes, partition, 2);
        let expected = [0, 1, 2].map(|sequence| format!("{partition}/{sequence}"));
        for node in &nodes {
            assert_eq!(shown(node, topic.id, partition), expected);
        }
    }
    // One that votes only joins and is heard like any other.
    let token = token(&nodes[0], root.path(), &[]);
    let mut witness = Node::new(root.path(), "witness");
    let join = ["--witness", "--join", &nodes[1].peer, "--token-file", &token];
    witness.start(&[&join[..], &texts(&tls)].concat());
    witness.wait("ready on", 1);
    assert!(nodes.iter().all(|node| !node.server_log().contains("certificate")));
}

#[test]
fn who_shows_the_wrong_certificate_is_no_node() {
    let (root, ours, others) = (root(), Authority::new(), Authority::new());
    let tls = |name: &str, signed: &Signed, trusted: &Authority| {
        secured(&root.path().join(name), signed, &[trusted])
    };
    let good = ours.node("127.0.0.1");
    let (node, token) = founder(root.path(), &texts(&tls("a", &good, &ours)));
    let join = |name: &str, signed: &Signed, trusted: &Authority| {
        cannot_join(root.path(), name, &node, &token, &texts(&tls(name, signed, trusted)))
    };
    let said = join("of others", &others.node("127.0.0.1"), &ours);
    contains(&said, "refuses this node's certificate (`cluster.tls.cert`)");
    contains(&said, "its authority is not in `cluster.tls.ca` there");
    // It is told before anybody has refused it.
    contains(&said, "other nodes will refuse the certificate in");
    node.wait("no TLS with 127.0.0.1, which dials as a node: its certificate is signed by no", 1);

    let said = join("trusts others", &good, &others);
    contains(&said, "no TLS with the node at 127.0.0.1");
    contains(&said, "its certificate is signed by no authority in `cluster.tls.ca`");

    let expired = ours.expired_node("127.0.0.1");
    contains(&join("expired", &expired, &ours), "(`cluster.tls.cert`): it has expired");
    node.wait("which dials as a node: its certificate has expired", 1);

    let counted = || node.server.as_ref().unwrap().metric("catena_peer_tls_failures_total");
    wait_until("they are counted", || counted().iter().sum::<u64>() >= 3);
    // Who is let in under another name is not what was dialled.
    let (elsewhere, token) = {
        let tls = tls("elsewhere", &ours.node("localhost"), &ours);
        founder(&root.path().join("elsewhere"), &texts(&tls))
    };
    let tls = tls("joins elsewhere", &good, &ours);
    let said = cannot_join(root.path(), "joins elsewhere", &elsewhere, &token, &texts(&tls));
    contains(&said, "certificate not valid for name \"127.0.0.1\"");
}

#[test]
fn a_plain_node_and_one_with_tls_tell_each_other_apart() {
    let (root, authority) = (root(), Authority::new());
    let tls = secured(root.path(), &authority.node("127.0.0.1"), &[&authority]);
    let secure = root.path().join("secure");
    let (node, token) = founder(&secure, &texts(&tls));
    let said = cannot_join(&secure, "plain", &node, &token, &[]);
    contains(&said, "it wants TLS, and this node speaks plaintext (`cluster.tls.cert`)");
    node.wait("it speaks no TLS, and this node does (`cluster.tls.cert`)", 1);

    let plain = root.path().join("plain");
    let (node, token) = founder(&plain, &[]);
    let said = cannot_join(&plain, "secure", &node, &token, &texts(&tls));
    contains(&said, "it speaks plaintext, and this node TLS (`cluster.tls.cert`)");
    node.wait("it speaks TLS, and this node plaintext (`cluster.tls.cert`)", 1);
}

/// Of a cluster that runs: the others go on, and say what is wrong; so does the node, which comes
/// back when it is put right.
#[test]
fn a_node_that_comes_back_with_wrong_settings_disturbs_nobody() {
    let (root, ours) = (root(), Authority::new());
    let signed = ours.node("127.0.0.1");
    let tls = secured(root.path(), &signed, &[&ours]);
    let mut nodes = cluster_with(root.path(), &texts(&tls));
    create_everywhere(&mut client(&nodes[0].client), 1);
    produce(&nodes, 0, 0);

    nodes[2].server = None;
    nodes[2].start(&[]);
    nodes[2].wait("it wants TLS, and this node speaks plaintext", 1);
    produce(&nodes[..2], 0, 1);
    let told = |node: &Node| node.server_log().contains("it speaks no TLS, and this node does");
    wait_until("somebody says so", || nodes[..2].iter().any(told));
    // Who leads says so of consensus, too.
    let told = |node: &Node| node.server_log().contains("no TLS: it speaks plaintext, and this");
    wait_until("somebody says so", || nodes[..2].iter().any(told));

    nodes[2].server = None;
    let strange = Authority::new().node("127.0.0.1");
    let wrong = root.path().join("wrong");
    nodes[2].start(&texts(&secured(&wrong, &strange, &[&ours])));
    nodes[2].wait("refuses this node's certificate (`cluster.tls.cert`)", 1);
    produce(&nodes[..2], 0, 2);
    let told = |node: &Node| node.server_log().contains("is signed by no authority");
    wait_until("somebody says so", || nodes[..2].iter().any(told));

    secured(&wrong, &signed, &[&ours]);
    nodes[2].server.as_ref().unwrap().signal("HUP");
    wait_until("all are in the chain", || chain_has(&nodes, 3));
    produce(&nodes, 0, 3);
}

/// Authorities change in three steps, none of which interrupts anything.
#[test]
fn authorities_are_replaced_while_all_nodes_run() {
    let (root, before, after) = (root(), Authority::new(), Authority::new());
    let directories = ["a", "b", "c"].map(|name| root.path().join(name));
    let write = |signed: &dyn Fn() -> Signed, trusted: &[&Authority]| {
        directories.each_ref().map(|directory| secured(directory, &signed(), trusted))
    };
    let old = || before.node("127.0.0.1");
    let new = || after.node("127.0.0.1");
    let arguments = write(&old, &[&before]);
    let mut nodes: Vec<Node> = ["a", "b", "c"].map(|name| Node::new(root.path(), name)).into();
    nodes[0].start(&texts(&arguments[0]));
    nodes[0].wait("ready on", 1);
    let token = token(&nodes[0], root.path(), &[]);
    let peer = nodes[0].peer.clone();
    for (node, arguments) in nodes.iter_mut().zip(&arguments).skip(1) {
        let join = ["--join", &peer, "--token-file", &token];
        node.start(&[&join[..], &texts(arguments)].concat());
        node.wait("ready on", 1);
    }
    nodes[0].wait("nodes 1, 2, 3 vote", 1);
    create_everywhere(&mut client(&nodes[0].client), 1);
    produce(&nodes, 0, 0);
    let steps: [(&dyn Fn() -> Signed, &[&Authority]); 3] =
        [(&old, &[&before, &after]), (&new, &[&before, &after]), (&new, &[&after])];
    for (step, (signed, trusted)) in (1..).zip(steps) {
        write(signed, trusted);
        for node in &nodes {
            node.server.as_ref().unwrap().signal("HUP");
            node.wait("the configuration was read again", step);
        }
        // Connections that stand go on: new ones are made by a node that starts.
        let dies = step % nodes.len();
        let ready = nodes[dies].server_log().matches("ready on").count();
        nodes[dies].server = None;
        nodes[dies].start(&texts(&arguments[dies]));
        nodes[dies].wait("ready on", ready + 1);
        wait_until("all are in the chain", || chain_has(&nodes, 3));
        produce(&nodes, 0, i32::try_from(step).unwrap());
    }
    assert!(nodes.iter().all(|node| !node.server_log().contains("certificate")));
}

/// What somebody hears who speaks plaintext to a node, from behind the preface on.
fn answer(node: &Node, to: PeerThread) -> Vec<u8> {
    let join = Join {
        token: JoinToken::new(1),
        life: 1,
        client: "127.0.0.1:1".into(),
        peer: "127.0.0.1:2".into(),
        rack: "".into(),
        cores: 1,
        witness: false,
    };
    let mut bytes = PeerPreface { to }.encode().to_vec();
    PeerMessage::Join(join).encode::<&[u8]>(PartitionUid::default(), &[], &mut bytes).unwrap();
    let mut stream = TcpStream::connect(&node.peer).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut heard = Vec::new();
    // Whether the connection ends well does not matter.
    let _ = stream.read_to_end(&mut heard);
    heard
}

#[test]
fn plaintext_hears_nothing_but_an_alert() {
    let (root, authority) = (root(), Authority::new());
    let tls = secured(root.path(), &authority.node("127.0.0.1"), &[&authority]);
    let (node, _) = founder(root.path(), &texts(&tls));
    for to in [PeerThread::Core(0), PeerThread::Core(1), PeerThread::Consensus] {
        let heard = answer(&node, to);
        assert!(matches!(heard[..], [0x15, 3, _, 0, 2, 2, _]), "{to:?}: {heard:?}");
    }
    // Nor is anybody waited for for long.
    let mut silent = TcpStream::connect(&node.peer).unwrap();
    silent.write_all(&PeerPreface { to: PeerThread::Core(0) }.encode()).unwrap();
    silent.set_read_timeout(Some(SECONDS)).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    node.wait("no TLS in time with 127.0.0.1", 1);
}

/// Passes connections on to an address, and keeps what goes over them.
fn relay(to: String) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind(free_address()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let all = seen.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(other) = TcpStream::connect(&to) else { continue };
            let ways = [(stream.try_clone().unwrap(), other.try_clone().unwrap()), (other, stream)];
            for (from, to) in ways {
                let all = all.clone();
                thread::spawn(move || pass(from, to, &all));
            }
        }
    });
    (address, seen)
}

fn pass(mut from: TcpStream, mut to: TcpStream, seen: &Mutex<Vec<u8>>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        seen.lock().unwrap().extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Whether a record, and the name of its topic, can be read by whoever sees what two nodes say.
fn is_seen(root: &Path, more: &[&str]) -> [bool; 2] {
    const VALUE: &[u8] = b"a value that is nobody else's business";
    let (first, token) = founder(root, more);
    let mut second = Node::new(root, "b");
    let (relayed, seen) = relay(second.peer.clone());
    let join = ["--join", &first.peer, "--token-file", &token, "--advertise-peer", &relayed];
    second.start(&[&join[..], more].concat());
    second.wait("ready on", 1);
    let mut admin = client(&first.client);
    wait_until("each node can have a copy", || {
        admin.create_replicated_topic("confidential", 1, 2, Vec::new()).is_ok()
    });
    let producer = admin.producer("confidential", ProducerOptions::default()).unwrap();
    producer.append(&NewRecord::value(VALUE)).unwrap().wait().unwrap();
    producer.close().unwrap();
    wait_until("both have it", || {
        let chain = &admin.topic("confidential").unwrap().partitions[0].chain;
        chain.len() == 2 && chain.contains(&NodeId::new(2))
    });
    let seen = seen.lock().unwrap();
    assert!(seen.len() > VALUE.len(), "{} bytes went through", seen.len());
    [VALUE, b"confidential"].map(|text| seen.windows(text.len()).any(|bytes| bytes == text))
}

#[test]
fn what_nodes_say_is_read_by_nobody_else() {
    let (root, authority) = (root(), Authority::new());
    let tls = secured(root.path(), &authority.node("127.0.0.1"), &[&authority]);
    // That they would be seen is shown by a cluster in plaintext.
    assert_eq!(is_seen(&root.path().join("plain"), &[]), [true, true]);
    assert_eq!(is_seen(&root.path().join("secure"), &texts(&tls)), [false, false]);
}
