//! What a member answers for, said message by message.

use catena_format::Incarnation;

use super::*;

const EMPTY: Extent<'_> = Extent {
    start: Offset::ZERO,
    log_start: Offset::ZERO,
    end: Offset::ZERO,
    durable: Offset::ZERO,
    epochs: &[],
};

fn id(node: u64) -> MemberId {
    MemberId { node: NodeId::new(node), incarnation: Incarnation::new(1) }
}

/// Carries messages to and fro until there are none.
fn converse(members: &mut [Member]) {
    loop {
        let mut said = Vec::new();
        for member in members.iter_mut() {
            while let Some(Output::Send { to, message }) = member.poll(&EMPTY) {
                said.push((member.id(), to, message));
            }
            for side in [Side::Successor, Side::Joiner] {
                if member.has_news(side, &EMPTY)
                    && let Some((to, message)) = member.send(side, EMPTY.end, &EMPTY)
                {
                    said.push((member.id(), to, message));
                }
            }
        }
        if said.is_empty() {
            return;
        }
        for (from, to, message) in said {
            let Some(member) = members.iter_mut().find(|member| member.id() == to) else {
                continue;
            };
            if let Ok(Some(Effect::Cut { .. })) = member.on_message(from, &message, &EMPTY) {
                member.on_cut(&EMPTY);
            }
        }
    }
}

#[test]
fn in_joint_mode_a_question_is_answered_by_the_joiner_too() {
    for chain in [vec![id(1)], vec![id(1), id(2)]] {
        let alone = Configuration { chain, ..Configuration::alone(Epoch::new(1), id(1)) };
        let joins = alone.with_joining(id(3)).unwrap();
        let members = joins.chain.iter().chain(&joins.joining);
        let mut members: Vec<_> = members.map(|member| Member::new(*member)).collect();
        for member in &mut members {
            assert!(member.enter(joins.clone(), &EMPTY));
        }
        converse(&mut members);
        let question = members[0].ask();
        converse(&mut members);
        assert_eq!(members[0].answered(), question, "the joiner is nobody to be asked yet");
        let tail = members.len() - 2;
        members[tail].on_joiner_close();
        assert!(members[tail].is_joint());
        let question = members[0].ask();
        assert!(members[0].answered() < question);
        converse(&mut members);
        assert_eq!(members[0].answered(), question);
        // The joiner is a member by now, in an epoch that the others have not heard of.
        let joined = joins.joined(joins.epoch, id(3)).unwrap();
        members.last_mut().unwrap().enter(joined, &EMPTY);
        let question = members[0].ask();
        converse(&mut members);
        assert!(members[0].answered() < question, "nobody knows who is the head");
    }
}
