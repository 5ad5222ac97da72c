//! What another node sends.

use catena_wire::peer::{
    PeerError, PeerFrame, PeerHeader, PeerMessage, PeerPreface, batch_lengths,
};

use super::{seal, wire};

/// A preface, or a frame: as it is, and with its lengths and checksums made right.
pub(super) fn frame(bytes: &[u8]) {
    if let Some(preface) = bytes.first_chunk().and_then(|b| PeerPreface::parse(b).ok()) {
        assert_eq!(PeerPreface::parse(&preface.encode()), Ok(preface));
    }
    taken(bytes);
    let mut sealed = bytes.to_vec();
    seal::peer(&mut sealed);
    taken(&sealed);
}

fn taken(bytes: &[u8]) {
    let Ok(Some(frame)) = PeerFrame::split(bytes) else { return };
    let limits = frame.header.kind.limits();
    assert!(frame.head.len() <= limits.head_bytes_max as usize);
    assert!(frame.payload.len() <= limits.payload_bytes_max as usize);
    assert_eq!(PeerHeader::parse(&frame.header.encode()), Ok(frame.header));
    let Ok(message) = frame.message() else { return };
    let stamps = match &message {
        PeerMessage::ChainAppend(append) => Some(&append.stamps),
        PeerMessage::RepairResponse(response) => Some(&response.stamps),
        _ => None,
    };
    if let Some(stamps) = stamps {
        let stamped = stamps.iter().map(|stamp| stamp.length).collect();
        assert_eq!(batch_lengths(&[frame.payload]), Ok(stamped));
    }
    // Wherever the payload is cut into slices, the same bytes are sent.
    let encoded = |slice_bytes| -> Result<Vec<u8>, PeerError> {
        let (slices, mut out) = (frame.payload.chunks(slice_bytes).collect::<Vec<_>>(), Vec::new());
        message.encode(frame.header.partition, &slices, &mut out)?;
        Ok(out)
    };
    let sent = encoded(usize::MAX).expect("what was read can be sent");
    for slice_bytes in [1, 13, 64] {
        assert_eq!(encoded(slice_bytes).as_ref(), Ok(&sent));
    }
    let sent = [&sent, frame.payload].concat();
    let again = PeerFrame::split(&sent).expect("its header is right").expect("it is whole");
    let read = again.message().expect("what was sent can be read");
    let mut out = Vec::new();
    read.encode(again.header.partition, &[again.payload], &mut out).expect("it was sent before");
    assert!(sent.starts_with(&out), "{message:?} is not sent as {read:?}");
}

/// The golden vectors of the peers' protocol.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    wire::vectors("../net/wire/golden/peer")
}
