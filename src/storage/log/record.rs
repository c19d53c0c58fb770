//! A record: a 64-byte header with its own CRC, a body, and at least eight bytes of 0xFF up to the next multiple of 64.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0–1 | magic |
//! | 2 | kind: 1 entry, 2 truncate, 3 reset |
//! | 3 | zero |
//! | 4–7 | how many pieces of the body are (nearly) all zeros, see [`count_pieces`] |
//! | 8–11 | length of the payload |
//! | 12–15 | CRC32 of payload and padding |
//! | 16–23 | sequence number, one more than the record's before |
//! | 24–31 | the highest sequence number known durable when this record was written |
//! | 32–55 | log id: index, term, node |
//! | 56–59 | how far behind `index` the committed index was; all ones: unknown |
//! | 60–63 | CRC32 of the log's salt and bytes 0–59 |
//!
//! Integers are little-endian. The alignment keeps a header within one 512-byte sector, the unit a disk writes whole.
//! The salt is random to each log: a payload cannot be made to look like a header, nor a segment of another log pass.

use openraft::{CommittedLeaderId, LogId};

/// Records start at multiples of this.
pub(super) const ALIGN: usize = 64;
/// Bytes of a header.
pub(super) const HEADER: usize = 64;
/// What a disk is trusted to write whole.
pub(super) const SECTOR: u64 = 512;
const MIN_PADDING: usize = 8;
const PADDING: u8 = 0xFF;
const MAGIC: u16 = 0x52C7;
/// No log gets this far; so that a number read from a file can be counted on from.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The log entry of this id; the payload is its postcard form.
    Entry = 1,
    /// The entries from this index on are void.
    Truncate = 2,
    /// Everything is void, and the next entry follows this id (a snapshot went past the end of the log).
    Reset = 3,
}

/// A record's header. The magic and the CRC are added by [`Header::encode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    pub near_zero: u32,
    pub len: u32,
    pub body_crc: u32,
    pub seq: u64,
    pub durable: u64,
    pub id: LogId<u64>,
    pub committed: Option<u64>,
}

/// Bytes that a record with this payload takes in a segment.
pub(super) fn framed_len(payload: usize) -> usize {
    (HEADER + payload + MIN_PADDING).next_multiple_of(ALIGN)
}

impl Header {
    /// Length of the record, header and padding included.
    pub(super) fn framed_len(&self) -> usize {
        framed_len(self.len as usize)
    }

    pub(super) fn encode(&self, salt: u64) -> [u8; HEADER] {
        let behind = self.committed.map_or(u32::MAX, |c| u32::try_from(self.id.index - c).unwrap_or(u32::MAX));
        let mut b = [0; HEADER];
        b[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        b[2] = self.kind as u8;
        b[4..8].copy_from_slice(&self.near_zero.to_le_bytes());
        b[8..12].copy_from_slice(&self.len.to_le_bytes());
        b[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        b[16..24].copy_from_slice(&self.seq.to_le_bytes());
        b[24..32].copy_from_slice(&self.durable.to_le_bytes());
        b[32..40].copy_from_slice(&self.id.index.to_le_bytes());
        b[40..48].copy_from_slice(&self.id.leader_id.term.to_le_bytes());
        b[48..56].copy_from_slice(&self.id.leader_id.node_id.to_le_bytes());
        b[56..60].copy_from_slice(&behind.to_le_bytes());
        let crc = crc(salt, &b[..60]);
        b[60..64].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// `None` if these bytes are not a header of this log.
    pub(super) fn decode(b: &[u8], salt: u64) -> Option<Header> {
        if b.len() < HEADER || b[..2] != MAGIC.to_le_bytes() || u32_at(b, 60) != crc(salt, &b[..60]) {
            return None;
        }
        let kind = match b[2] {
            1 => Kind::Entry,
            2 => Kind::Truncate,
            3 => Kind::Reset,
            _ => return None,
        };
        let index = u64_at(b, 32);
        let behind = u32_at(b, 56);
        if index > NUMBER_MAX || u64_at(b, 16) > NUMBER_MAX {
            return None;
        }
        Some(Header {
            kind,
            near_zero: u32_at(b, 4),
            len: u32_at(b, 8),
            body_crc: u32_at(b, 12),
            seq: u64_at(b, 16),
            durable: u64_at(b, 24),
            id: LogId::new(CommittedLeaderId::new(u64_at(b, 40), u64_at(b, 48)), index),
            committed: if behind == u32::MAX { None } else { index.checked_sub(u64::from(behind)) },
        })
    }
}

/// Appends a record to `buf`, which will be written so that the record lies at `offset` of its file.
pub(super) fn frame(buf: &mut Vec<u8>, offset: u64, salt: u64, mut header: Header, payload: &[u8]) {
    let start = buf.len();
    header.len = payload.len() as u32;
    buf.extend_from_slice(&[0; HEADER]);
    buf.extend_from_slice(payload);
    buf.resize(start + header.framed_len(), PADDING);
    header.body_crc = crc32fast::hash(&buf[start + HEADER..]);
    header.near_zero = count_pieces(&buf[start..], offset, 1);
    buf[start..start + HEADER].copy_from_slice(&header.encode(salt));
}

/// What the bytes of a record say about themselves.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// As it was written.
    Whole,
    /// A part was never written: a write that was cut off.
    Torn,
    /// Changed after it was written.
    Damaged,
}

/// Judges a record by all its bytes; `offset` is where it lies in its file.
///
/// Torn shows in two ways: the last byte, always 0xFF, is zero (a write that stopped half-way), or a whole sector is (sectors
/// came in any order). Neither can come of a flipped bit.
pub(super) fn judge(header: &Header, record: &[u8], offset: u64) -> Body {
    if crc32fast::hash(&record[HEADER..]) == header.body_crc {
        Body::Whole
    } else if record.last() == Some(&0) || count_pieces(record, offset, 0) > header.near_zero {
        Body::Torn
    } else {
        Body::Damaged
    }
}

/// Counts the sectors' worth of `record`, after the sector its header is in, that have at most `bits` bits set.
///
/// The file is zeros before it is written, sector by sector, so a sector that was never written is all zeros. A payload
/// may have such sectors of its own: the header says how many, counting those with a single bit set too, so that no flip
/// of one bit can make a damaged record look like one that was cut off. (The last piece is never near zero: padding.)
fn count_pieces(record: &[u8], offset: u64, bits: u32) -> u32 {
    let mut at = (SECTOR - offset % SECTOR) as usize;
    let mut count = 0;
    while at < record.len() {
        let end = (at + SECTOR as usize).min(record.len());
        let mut set = 0;
        for byte in &record[at..end] {
            set += byte.count_ones();
            if set > bits {
                break;
            }
        }
        count += u32::from(set <= bits);
        at = end;
    }
    count
}

/// CRC32 that only this log's files have.
pub(super) fn crc(salt: u64, bytes: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(&salt.to_le_bytes());
    h.update(bytes);
    h.finalize()
}

pub(super) fn u32_at(b: &[u8], at: usize) -> u32 {
    let mut x = [0; 4];
    x.copy_from_slice(&b[at..at + 4]);
    u32::from_le_bytes(x)
}

pub(super) fn u64_at(b: &[u8], at: usize) -> u64 {
    let mut x = [0; 8];
    x.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Entry,
            near_zero: 0,
            len: 0,
            body_crc: 0,
            seq: 9,
            durable: 7,
            id: LogId::new(CommittedLeaderId::new(3, 2), 40),
            committed: Some(38),
        }
    }

    fn framed(offset: u64, payload: &[u8]) -> (Header, Vec<u8>) {
        let mut buf = Vec::new();
        frame(&mut buf, offset, 5, header(), payload);
        (Header::decode(&buf, 5).unwrap(), buf)
    }

    #[test]
    fn a_header_reads_back_and_belongs_to_its_log() {
        let (h, buf) = framed(512, b"payload");
        assert_eq!((h.seq, h.durable, h.id.index, h.committed, h.len), (9, 7, 40, Some(38), 7));
        assert_eq!(judge(&h, &buf, 512), Body::Whole);
        assert_eq!(Header::decode(&buf, 6), None);
    }

    #[test]
    fn every_single_flipped_bit_is_damage_even_in_zeros() {
        let mut payload = vec![0u8; 2000];
        payload[700] = 16;
        let (h, mut buf) = framed(640, &payload);
        for bit in 0..buf.len() * 8 {
            buf[bit / 8] ^= 1 << (bit % 8);
            if bit < HEADER * 8 {
                assert_eq!(Header::decode(&buf, 5), None, "bit {bit}");
            } else {
                assert_eq!(judge(&h, &buf, 640), Body::Damaged, "bit {bit}");
            }
            buf[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn an_unwritten_sector_is_a_torn_write_also_beside_zeros() {
        let mut payload = vec![7u8; 3000];
        payload[1000..2200].fill(0);
        let (h, buf) = framed(576, &payload);
        for sector in [1024, 2560, 3072, 3584] {
            let mut torn = buf.clone();
            let from = sector - 576;
            let to = (from + 512).min(torn.len());
            torn[from..to].fill(0);
            assert_eq!(judge(&h, &torn, 576), Body::Torn, "sector at {sector}");
        }
    }
}
