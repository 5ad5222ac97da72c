//! Clusters in one process, over real connections and real files.

mod common;

use std::{collections::BTreeSet, time::Duration};

use catena_consensus::{
    Begin, Consensus, Machine, Options, Refusal, Role, Settings, StartError, StoreError, Told,
};
use catena_format::NodeId;

use crate::common::{Cluster, End, settings, wait_for};

fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId::new).collect()
}

#[test]
fn a_founder_orders_alone_and_goes_on_after_a_restart() {
    let mut cluster = Cluster::new(settings());
    cluster.start(1, Begin::Found { snapshot: b"before;".to_vec() });
    let first = cluster.told(1, 0);
    assert_eq!(first, Told::Restored { index: 0, snapshot: b"before;".to_vec() });
    for _ in 0..10 {
        cluster.propose_until_applied(1);
    }
    let state = cluster.state(1);
    assert!(state.starts_with(b"before;"));
    let term = cluster.status(1).term;
    cluster.stop(1);
    cluster.start(1, Begin::Found { snapshot: b"something else".to_vec() });
    wait_for("the state from the disk", || cluster.state(1) == state);
    cluster.propose_until_applied(1);
    let status = cluster.status(1);
    assert_eq!((status.role, status.leader), (Role::Leader, Some(NodeId::new(1))));
    assert!(status.term > term, "it was elected anew");
    assert_eq!(status.voters, nodes(&[1]));
    assert!(status.learners.is_empty());
    assert_eq!(status.applied, status.last);
    cluster.check_ends();
}

#[test]
fn three_nodes_order_the_same() {
    let cluster = Cluster::of_three(settings());
    for round in 0..30 {
        cluster.propose_until_applied(1 + round % 3);
    }
    cluster.wait_until_equal();
    let status = cluster.status(2);
    assert_eq!((&status.voters, &status.learners), (&nodes(&[1, 2, 3]), &nodes(&[])));
    assert_eq!(status.addresses.len(), 3);
    for node in [1, 2, 3] {
        let index = cluster.read_index(node).unwrap();
        assert!(cluster.status(node).applied >= Some(index));
    }
    cluster.check_ends();
}

#[test]
fn another_node_takes_over_and_the_old_leader_comes_back() {
    let mut cluster = Cluster::of_three(settings());
    for _ in 0..3 {
        cluster.propose_until_applied(1);
        let old = cluster.leader();
        cluster.stop(old);
        let left: Vec<u64> = [1, 2, 3].into_iter().filter(|node| *node != old).collect();
        wait_for("a new leader", || {
            left.iter().any(|node| cluster.status(*node).role == Role::Leader)
        });
        for node in left {
            cluster.propose_until_applied(node);
        }
        cluster.start(old, Begin::Member);
        cluster.propose_until_applied(old);
    }
    cluster.wait_until_equal();
    cluster.check_ends();
}

#[test]
fn all_three_come_back_from_their_disks() {
    let mut cluster = Cluster::of_three(settings());
    for round in 0..10 {
        cluster.propose_until_applied(1 + round % 3);
    }
    cluster.wait_until_equal();
    let state = cluster.state(1);
    for _ in 0..2 {
        (1..4).for_each(|node| cluster.stop(node));
        (1..4).for_each(|node| cluster.start(node, Begin::Member));
        for node in 1..4 {
            wait_for("the state from the disk", || cluster.state(node) == state);
        }
    }
    for node in 1..4 {
        cluster.propose_until_applied(node);
    }
    cluster.wait_until_equal();
    cluster.check_ends();
}

#[test]
fn a_node_that_was_away_for_long_gets_a_snapshot() {
    let few = Settings {
        snapshot_every: 20,
        entries_kept: 2,
        snapshot_chunk_bytes: 100,
        segment_bytes: 64 << 10,
        ..settings()
    };
    let mut cluster = Cluster::of_three(few);
    cluster.stop(3);
    let missed = cluster.state(1).len();
    for _ in 0..100 {
        cluster.propose_until_applied(1);
    }
    let away = cluster.last_of(3);
    wait_for("a log without what the node lacks", || {
        cluster.status(cluster.leader()).purged > Some(away)
    });
    cluster.start(3, Begin::Member);
    wait_for("the leader's snapshot", || {
        let is_newer = |told: &Told| matches!(told, Told::Restored { index, .. } if *index > away);
        cluster.all_told(3).iter().any(is_newer)
    });
    cluster.propose_until_applied(3);
    cluster.wait_until_equal();
    assert!(cluster.state(3).len() > missed);
    // It has it on its disk too.
    let state = cluster.state(3);
    cluster.stop(3);
    cluster.start(3, Begin::Member);
    wait_for("the state from the disk", || cluster.state(3).starts_with(&state));
    cluster.check_ends();
}

#[test]
fn a_state_that_has_grown_too_large_for_others_is_there_after_a_restart() {
    let small = Settings { snapshot_bytes_max: 10, snapshot_every: 3, ..settings() };
    let mut cluster = Cluster::new(small);
    cluster.start(1, Begin::Found { snapshot: b"longer than ten".to_vec() });
    (0..10).for_each(|_| cluster.propose_until_applied(1));
    wait_for("a snapshot", || cluster.status(1).snapshot > Some(3));
    let state = cluster.state(1);
    cluster.stop(1);
    cluster.start(1, Begin::Member);
    wait_for("the state from the disk", || cluster.state(1) == state);
}

#[test]
fn entries_in_memory_are_bounded_by_bytes() {
    let small = Settings { log_bytes_max: 64 << 10, ..settings() };
    let mut cluster = Cluster::new(small);
    cluster.start(1, Begin::Found { snapshot: Vec::new() });
    let purged = cluster.status(1).purged;
    for _ in 0..40 {
        cluster.propose_bytes(1, &[b'b'; 8 << 10]);
    }
    wait_for("an early snapshot", || cluster.status(1).purged > purged.max(Some(10)));
    cluster.check_ends();
}

#[test]
fn a_proposal_that_nobody_orders_is_refused_or_in_doubt() {
    let mut cluster = Cluster::of_three(settings());
    cluster.start(4, Begin::Member);
    let first = cluster.told(4, 0);
    assert_eq!(first, Told::Restored { index: 0, snapshot: Vec::new() });
    // It knows of nobody.
    let lonely = cluster.propose(4, b"lonely");
    assert_eq!(cluster.wait_for_end(4, lonely), End::Refused(Refusal::NoLeader));
    assert_eq!(cluster.read_index(4), Err(Refusal::NoLeader));
    let leader = cluster.leader();
    let others: Vec<u64> = (1..4).filter(|node| *node != leader).collect();
    others.iter().for_each(|node| cluster.stop(*node));
    let alone = cluster.propose(leader, b"alone");
    assert_eq!(cluster.wait_for_end(leader, alone), End::InDoubt);
    others.iter().for_each(|node| cluster.start(*node, Begin::Member));
    for node in 1..4 {
        cluster.propose_until_applied(node);
    }
    let too_large = cluster.refused(1, vec![0; settings().entry_bytes_max + 1]);
    assert_eq!(too_large, Refusal::TooLarge(settings().entry_bytes_max + 1));
    cluster.check_ends();
}

#[test]
fn the_bytes_under_way_have_a_limit() {
    let entry_bytes_max = settings().entry_bytes_max;
    let few = Settings { proposals_bytes_max: 2 * entry_bytes_max, ..settings() };
    let mut cluster = Cluster::new(few);
    cluster.start(4, Begin::Member);
    let large = cluster.propose(4, &vec![0; entry_bytes_max]);
    assert_eq!(cluster.refused(4, vec![0; entry_bytes_max]), Refusal::Busy);
    let small = cluster.propose(4, b"small");
    for proposal in [large, small] {
        assert_eq!(cluster.wait_for_end(4, proposal), End::Refused(Refusal::NoLeader));
    }
}

#[test]
fn what_is_under_way_has_a_limit() {
    let few = Settings { proposals_max: 2, ..settings() };
    let mut cluster = Cluster::new(few);
    cluster.start(4, Begin::Member);
    let under_way = [cluster.propose(4, b"one"), cluster.propose(4, b"two")];
    assert_eq!(cluster.refused(4, b"three".to_vec()), Refusal::Busy);
    for proposal in under_way {
        assert_eq!(cluster.wait_for_end(4, proposal), End::Refused(Refusal::NoLeader));
    }
    wait_for("room", || {
        let proposal = cluster.try_propose(4, b"four".to_vec());
        proposal.is_ok_and(|p| cluster.wait_for_end(4, p) == End::Refused(Refusal::NoLeader))
    });
    // Stopped within, it is in doubt.
    let last = cluster.propose(4, b"five");
    cluster.stop(4);
    assert!(matches!(cluster.wait_for_end(4, last), End::InDoubt | End::Refused(_)));
    cluster.check_ends();
}

#[test]
fn requests_end_when_a_node_is_stopped() {
    let mut cluster = Cluster::of_three(settings());
    let leader = cluster.leader();
    let others: Vec<u64> = (1..4).filter(|node| *node != leader).collect();
    others.iter().for_each(|node| cluster.stop(*node));
    let requests = cluster.request_all(leader);
    cluster.stop(leader);
    let told = cluster.all_told(leader);
    for request in requests {
        let is_end = |told: &&Told| match told {
            Told::Changed(of, result) => *of == request && *result == Err(Refusal::Unknown),
            Told::Read(of, result) => *of == request && result.is_err(),
            _ => false,
        };
        assert_eq!(told.iter().filter(is_end).count(), 1, "request {request}");
    }
}

#[test]
fn only_possible_changes_are_made_and_only_at_the_leader() {
    let cluster = Cluster::of_three(settings());
    let leader = cluster.leader();
    let other = 1 + leader % 3;
    let refusal = Refusal::NotLeader { leader: Some(NodeId::new(leader)) };
    assert_eq!(cluster.set_voters(other, &[1, 2]), Err(refusal));
    let impossible = |changed| matches!(changed, Err(Refusal::Impossible(_)));
    assert!(impossible(cluster.set_voters(leader, &[1, 2, 9])));
    assert!(impossible(cluster.set_voters(leader, &[])));
    assert!(impossible(cluster.remove_node(leader, other)));
    let left: Vec<u64> = (1..4).filter(|node| *node != other).collect();
    assert_eq!(cluster.set_voters(leader, &left), Ok(()));
    wait_for("a learner", || cluster.status(other).role == Role::Learner);
    assert_eq!(cluster.status(leader).learners, nodes(&[other]));
    cluster.propose_until_applied(other);
    assert_eq!(cluster.remove_node(leader, other), Ok(()));
    assert!(cluster.status(leader).learners.is_empty());
    assert_eq!(cluster.add_learner(leader, other), Ok(()));
    assert_eq!(cluster.set_voters(leader, &[1, 2, 3]), Ok(()));
    cluster.propose_until_applied(other);
    cluster.wait_until_equal();
    cluster.check_ends();
}

#[test]
fn a_node_is_reached_under_its_new_address() {
    let mut cluster = Cluster::of_three(settings());
    let leader = cluster.leader();
    let other = 1 + leader % 3;
    cluster.stop(other);
    cluster.move_to_another_address(other);
    cluster.start(other, Begin::Member);
    assert_eq!(cluster.add_learner(leader, other), Ok(()));
    let status = cluster.status(leader);
    assert_eq!(status.voters, nodes(&[1, 2, 3]));
    assert_eq!(status.addresses[&NodeId::new(other)], cluster.address(other));
    cluster.propose_until_applied(other);
    cluster.wait_until_equal();
    cluster.check_ends();
}

#[test]
fn a_disk_that_fails_ends_consensus_here_and_nowhere_else() {
    let mut cluster = Cluster::of_three(settings());
    let leader = cluster.leader();
    cluster.lose_directory(leader);
    let proposal = cluster.propose(leader, b"nowhere to put it");
    assert_eq!(cluster.wait_for_end(leader, proposal), End::InDoubt);
    wait_for("word of the failure", || {
        cluster.all_told(leader).iter().any(|told| matches!(told, Told::Failed(_)))
    });
    let late = cluster.propose(leader, b"late");
    assert_eq!(cluster.wait_for_end(leader, late), End::Refused(Refusal::Stopped));
    assert_eq!(cluster.status(leader).role, Role::Stopped);
    let others: Vec<u64> = (1..4).filter(|node| *node != leader).collect();
    for node in others {
        cluster.propose_until_applied(node);
    }
    cluster.stop(leader);
    cluster.check_ends();
}

#[test]
fn what_an_isolated_leader_took_is_in_doubt_and_given_up() {
    let mut cluster = Cluster::of_three(settings());
    for _ in 0..3 {
        let old = cluster.leader();
        let left: Vec<u64> = (1..4).filter(|node| *node != old).collect();
        cluster.propose_until_applied(old);
        cluster.isolate(old);
        let lost = cluster.propose(old, format!("lost in {old};").as_bytes());
        wait_for("a new leader", || {
            left.iter().any(|node| cluster.status(*node).role == Role::Leader)
        });
        for node in left {
            cluster.propose_until_applied(node);
        }
        assert_eq!(cluster.wait_for_end(old, lost), End::InDoubt);
        assert_eq!(cluster.read_index(old), Err(Refusal::NoLeader));
        cluster.heal();
        cluster.propose_until_applied(old);
        cluster.wait_until_equal();
        // Its own log was cut, on the disk too.
        cluster.stop(old);
        cluster.start(old, Begin::Member);
        cluster.wait_until_equal();
    }
    cluster.check_ends();
}

#[test]
fn what_a_cut_off_leader_took_is_told_once_though_openraft_gives_it_up() {
    // The answer is waited for longer than the others need to go on, so that openraft tells of the
    // end, in words that it has for proposals that it never took.
    let patient = Settings { answer_within: Duration::from_secs(20), ..settings() };
    let cluster = Cluster::of_three(patient);
    let old = cluster.leader();
    let left: Vec<u64> = (1..4).filter(|node| *node != old).collect();
    cluster.propose_until_applied(old);
    cluster.isolate(old);
    let lost = cluster.propose(old, b"lost;");
    wait_for("a new leader", || left.iter().any(|node| cluster.status(*node).role == Role::Leader));
    for node in left {
        cluster.propose_until_applied(node);
    }
    cluster.heal();
    assert_eq!(cluster.wait_for_end(old, lost), End::InDoubt);
    cluster.propose_until_applied(old);
    cluster.wait_until_equal();
    assert!(!cluster.state(old).windows(5).any(|at| at == b"lost;"));
    cluster.check_ends();
}

#[test]
fn a_snapshot_of_another_machine_is_refused() {
    let mut cluster = Cluster::new(settings());
    let options = cluster.options(1, 1);
    let foreign = Begin::Found { snapshot: b"foreign".to_vec() };
    let refused = Consensus::start(options, foreign, Choosy, |_| {}).err();
    assert!(matches!(refused, Some(StartError::Store(StoreError::Machine { .. }))), "{refused:?}");
    // Its directory is as it was.
    cluster.start(1, Begin::Member);
    cluster.propose_until_applied(1);
    assert!(cluster.state(1).starts_with(b"foreign"));
}

struct Choosy;

impl Machine for Choosy {
    fn apply(&mut self, _: u64, _: i64, _: &[u8]) {}
    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }
    fn restore(&mut self, _: &[u8]) -> bool {
        false
    }
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let cluster = Cluster::new(settings());
    let refused = [
        Settings { heartbeat: Duration::ZERO, ..settings() },
        Settings { election: (Duration::from_secs(1), Duration::from_secs(1)), ..settings() },
        Settings { heartbeat: Duration::from_secs(1), ..settings() },
        Settings { entry_bytes_max: 16 << 20, ..settings() },
        Settings { proposals_bytes_max: 1, ..settings() },
        Settings { snapshot_every: 0, ..settings() },
    ];
    for settings in refused {
        let options = Options { settings, ..cluster.options(1, 1) };
        let refused = Consensus::start(options, Begin::Member, Choosy, |_| {}).err();
        assert!(matches!(refused, Some(StartError::Settings(_))), "{refused:?}");
    }
}

#[test]
fn every_proposal_ends_once_while_leaders_come_and_go() {
    let hurried = Settings {
        place_within: Duration::from_millis(300),
        snapshot_every: 40,
        entries_kept: 5,
        segment_bytes: 64 << 10,
        ..settings()
    };
    let mut cluster = Cluster::of_three(hurried);
    for round in 0..4 {
        let old = cluster.leader();
        for number in 0..60 {
            let node = 1 + number % 3;
            // A stopped node takes nothing.
            let _ = cluster.try_propose(node, format!("{round}/{number};").into_bytes());
            match (number, round % 2) {
                (20, 0) => cluster.stop(old),
                (20, _) => cluster.isolate(old),
                _ => {}
            }
        }
        let left: Vec<u64> = (1..4).filter(|node| *node != old).collect();
        wait_for("a new leader", || {
            left.iter().any(|node| cluster.status(*node).role == Role::Leader)
        });
        match round % 2 {
            0 => cluster.start(old, Begin::Member),
            _ => cluster.heal(),
        }
        for node in 1..4 {
            cluster.propose_until_applied(node);
        }
    }
    cluster.wait_for_all_ends();
    cluster.wait_until_equal();
    cluster.check_ends();
}
