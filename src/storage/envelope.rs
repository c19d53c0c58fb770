//! Bytes with a checksum in front: what is stored is told from what is damaged.

/// `crc32 (little-endian) ++ payload`
pub(super) fn seal(payload: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(payload.len() + 4);
    sealed.extend(crc32fast::hash(payload).to_le_bytes());
    sealed.extend(payload);
    sealed
}

/// The payload, if the checksum holds.
pub(super) fn open(sealed: &[u8]) -> Option<&[u8]> {
    let (sum, payload) = sealed.split_first_chunk::<4>()?;
    (crc32fast::hash(payload) == u32::from_le_bytes(*sum)).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_is_found() {
        let sealed = seal(b"some payload");
        assert_eq!(open(&sealed), Some(&b"some payload"[..]));
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&bad), None, "bit {bit}");
        }
        assert_eq!(open(b"abc"), None);
    }
}
