//! What chains say to each other, as it goes over a link.

use catena_format::PartitionUid;
use catena_log::{Batches, Stamp};
use catena_replication::chain::{History, Message, Progress};
use catena_wire::peer::{
    BatchStamp, ChainAppend, ChainCommit, ChainHello, ChainWelcome, EpochStart, MemberProgress,
    PeerMessage, batch_lengths,
};

/// What batches are stored with, as it goes over a link.
pub(crate) fn stamps<S: AsRef<[u8]>>(batches: &Batches<S>) -> Option<Vec<BatchStamp>> {
    let lengths = batch_lengths(&batches.shares).ok()?;
    let stamps = batches.stamps.iter().zip(lengths).map(|(stamp, length)| BatchStamp {
        append_time: stamp.append_time,
        payload_crc: stamp.payload_crc,
        length,
    });
    Some(stamps.collect())
}

/// The same, back.
pub(crate) fn stamp(stamp: BatchStamp) -> Stamp {
    Stamp { append_time: stamp.append_time, payload_crc: stamp.payload_crc }
}

/// A chain's message as it goes over a link.
pub(crate) fn peer_message<S: AsRef<[u8]>>(
    message: Message,
    batches: &Batches<S>,
    fold: &[u8],
) -> Option<PeerMessage<'static>> {
    Some(match message {
        Message::Hello { epoch, session, history } => {
            let History { start, end, durable, epochs } = history;
            let epochs = epochs.into_iter().map(|(epoch, start)| EpochStart { epoch, start });
            let epochs = epochs.collect();
            PeerMessage::ChainHello(ChainHello { epoch, session, start, end, durable, epochs })
        }
        Message::Welcome { epoch, session, keep, first, high_watermark } => {
            let payload_crc = catena_format::checksum::crc32(fold);
            let payload_crc = if fold.is_empty() { 0 } else { payload_crc };
            let welcome = ChainWelcome { epoch, session, keep, first, high_watermark, payload_crc };
            PeerMessage::ChainWelcome(welcome)
        }
        Message::Append {
            epoch,
            session,
            from,
            to,
            durable_before,
            log_start,
            question,
            urgent,
        } => {
            let stamps = stamps(batches)?;
            PeerMessage::ChainAppend(ChainAppend {
                epoch,
                session,
                from,
                to,
                durable_before,
                log_start,
                question,
                urgent,
                stamps,
            })
        }
        Message::Commit { epoch, session, high_watermark, progress, answered } => {
            let progress = progress
                .into_iter()
                .map(|Progress { received, durable }| MemberProgress { received, durable });
            let progress = progress.collect();
            let commit = ChainCommit { epoch, session, high_watermark, answered, progress };
            PeerMessage::ChainCommit(commit)
        }
    })
}

/// The same, back.
pub(crate) fn chain_message(
    message: PeerMessage<'_>,
    partition: PartitionUid,
) -> Option<(PartitionUid, Message, Vec<Stamp>)> {
    let mut stamps = Vec::new();
    let message = match message {
        PeerMessage::ChainHello(ChainHello { epoch, session, start, end, durable, epochs }) => {
            let epochs = epochs.into_iter().map(|at| (at.epoch, at.start)).collect();
            Message::Hello { epoch, session, history: History { start, end, durable, epochs } }
        }
        PeerMessage::ChainWelcome(welcome) => {
            let ChainWelcome { epoch, session, keep, first, high_watermark, .. } = welcome;
            Message::Welcome { epoch, session, keep, first, high_watermark }
        }
        PeerMessage::ChainAppend(append) => {
            let ChainAppend { epoch, session, from, to, durable_before, .. } = append;
            let ChainAppend { log_start, question, urgent, .. } = append;
            stamps = append.stamps.into_iter().map(stamp).collect();
            Message::Append {
                epoch,
                session,
                from,
                to,
                durable_before,
                log_start,
                question,
                urgent,
            }
        }
        PeerMessage::ChainCommit(commit) => {
            let ChainCommit { epoch, session, high_watermark, answered, progress } = commit;
            let progress = progress
                .into_iter()
                .map(|at| Progress { received: at.received, durable: at.durable });
            let progress = progress.collect();
            Message::Commit { epoch, session, high_watermark, progress, answered }
        }
        _ => return None,
    };
    Some((partition, message, stamps))
}
