//! Makes the checksums of arbitrary bytes right, by the tables of `docs/disk-format.md` and
//! `docs/peer-protocol.md`.

use catena_format::{
    FRAME_HEADER_BYTES, FrameSeed, PartitionUid,
    checksum::{crc32, crc32_of, crc32c},
};

/// Of every frame that seems to begin at a multiple of 16 in `bytes`, which stand at `position`.
pub(super) fn frames(bytes: &mut [u8], seed: FrameSeed, position: u64) {
    let mut at = 0;
    while at + FRAME_HEADER_BYTES <= bytes.len() {
        let taken = if bytes[at..].starts_with(b"CTNF") {
            frame(&mut bytes[at..], seed, position + at as u64)
        } else {
            0
        };
        at += taken.max(16).next_multiple_of(16);
    }
}

/// Of the frame that begins `bytes`; how long it is, 0 when it does not fit.
fn frame(bytes: &mut [u8], seed: FrameSeed, position: u64) -> usize {
    let payload = word(bytes, 8) as usize;
    if payload > bytes.len() - FRAME_HEADER_BYTES {
        return 0;
    }
    let end = FRAME_HEADER_BYTES + payload;
    let crc = crc32(bytes.get(FRAME_HEADER_BYTES + 16..end).unwrap_or(&[]));
    bytes[56..60].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32_of(&[
        &seed.uid.get().to_le_bytes(),
        &seed.file.get().to_le_bytes(),
        &position.to_le_bytes(),
        &bytes[..60],
        &bytes[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload.min(16)],
    ]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    end
}

/// Of a segment's header or footer.
pub(super) fn block(bytes: &mut [u8]) {
    if let Some((checked, crc)) = bytes.split_at_mut_checked(124)
        && let Some(crc) = crc.first_chunk_mut()
    {
        *crc = crc32(checked).to_le_bytes();
    }
}

/// Of a record batch as long as `bytes`.
pub(super) fn batch(bytes: &mut [u8]) {
    if let Some((head, checked)) = bytes.split_at_mut_checked(21) {
        head[17..].copy_from_slice(&crc32c(checked).to_be_bytes());
    }
}

/// Of a frame between nodes, which is made as long as `bytes`, and its batches as their stamps say.
pub(super) fn peer(bytes: &mut [u8]) {
    let Some((header, body)) = bytes.split_first_chunk_mut::<24>() else { return };
    let head_bytes = (word(header, 4) as usize).min(body.len());
    let (head, payload) = body.split_at_mut(head_bytes);
    header[4..8].copy_from_slice(&(head.len() as u32).to_le_bytes());
    header[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[20..].fill(0);
    if header[2] == 7 && head.len() >= 40 {
        head[36..40].copy_from_slice(&crc32(payload).to_le_bytes());
    }
    let mut covered = [&header[..], head].concat();
    if header[2] == 8 && head.len() >= 48 {
        let stamps = head[48..].chunks_exact(16).take(word(head, 44) as usize);
        let mut rest = payload;
        for length in stamps.map(|stamp| word(stamp, 12) as usize) {
            let Some((batch, behind)) = rest.split_at_mut_checked(length) else { break };
            let Some(prefix) = batch.first_chunk_mut::<16>() else { break };
            prefix[8..12].copy_from_slice(&(length as u32 - 12).to_be_bytes());
            covered.extend_from_slice(prefix);
            rest = behind;
        }
    }
    header[20..].copy_from_slice(&crc32(&covered).to_le_bytes());
}

/// An archive in the envelope that manifests and indexes have.
pub(super) fn envelope(magic: &[u8; 8], uid: PartitionUid, archive: &[u8]) -> Vec<u8> {
    let mut image = magic.to_vec();
    image.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    image.extend_from_slice(&(archive.len() as u64).to_le_bytes());
    image.extend_from_slice(&uid.get().to_le_bytes());
    image.extend_from_slice(archive);
    let crc = crc32_of(&[&image[..12], &image[16..]]);
    image[12..16].copy_from_slice(&crc.to_le_bytes());
    image.resize(image.len().next_multiple_of(4096), 0);
    image
}

/// The archive in an envelope.
pub(super) fn opened(image: &[u8]) -> &[u8] {
    &image[32..32 + word(image, 16) as usize]
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
