//! Where a deadline belongs: pure arithmetic on the six-bit digits of a time in milliseconds.

/// Levels of the wheel. Six of them reach 2^36 ms.
pub(super) const LEVELS: usize = 6;

/// Slots to a level, so that the occupancy of a level is one `u64`.
pub(super) const SLOTS: usize = 64;

/// Bits of a deadline that an entry stores. A slot spans at most 2^30 ms and a far chain 2^32 ms, so the place where
/// an entry stands always supplies the bits that are missing.
pub(super) const LOW_BITS: u32 = 32;

const DIGIT_BITS: u32 = 6;

/// The level of `deadline_ms` as seen from `now_ms`: the highest digit in which the two differ. `LEVELS` or more means
/// beyond the wheel.
#[inline]
pub(super) fn level_of(now_ms: u64, deadline_ms: u64) -> usize {
    let differing = (now_ms ^ deadline_ms) | (SLOTS as u64 - 1);
    (differing.ilog2() / DIGIT_BITS) as usize
}

/// The slot of `deadline_ms` within `level`: its digit there.
#[inline]
pub(super) fn slot_of(deadline_ms: u64, level: usize) -> usize {
    (deadline_ms >> shift(level)) as usize & (SLOTS - 1)
}

/// The first millisecond of `slot` in `level`, given that the wheel stands at `now_ms`.
#[inline]
pub(super) fn slot_start(now_ms: u64, level: usize, slot: usize) -> u64 {
    let digit = 1u64 << shift(level);
    let turn = digit * SLOTS as u64;
    (now_ms & !(turn - 1)) | (slot as u64 * digit)
}

/// The last millisecond of the slot of `level` that starts at `start_ms`.
#[inline]
pub(super) fn slot_last(start_ms: u64, level: usize) -> u64 {
    start_ms | ((1 << shift(level)) - 1)
}

/// The key of the far chain that holds `deadline_ms`.
#[inline]
pub(super) fn far_key(deadline_ms: u64) -> u32 {
    (deadline_ms >> LOW_BITS) as u32
}

/// The first millisecond of a far chain.
#[inline]
pub(super) fn far_start(key: u32) -> u64 {
    u64::from(key) << LOW_BITS
}

/// A whole deadline from its stored low half and any time of the place where it was found.
#[inline]
pub(super) fn join(place_ms: u64, low: u32) -> u64 {
    (place_ms & !u64::from(u32::MAX)) | u64::from(low)
}

#[inline]
fn shift(level: usize) -> u32 {
    debug_assert!(level < LEVELS, "level {level} of {LEVELS}");
    DIGIT_BITS * level as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_the_highest_digit_that_differs() {
        let table: &[(u64, u64, usize)] = &[
            (0, 0, 0),
            (0, 1, 0),
            (0, 63, 0),
            (0, 64, 1),
            (0, 4_095, 1),
            (0, 4_096, 2),
            (0, (1 << 18) - 1, 2),
            (0, 1 << 18, 3),
            (0, 1 << 24, 4),
            (0, 1 << 30, 5),
            (0, (1 << 36) - 1, 5),
            (0, 1 << 36, 6),
            (0, u64::MAX, 10),
            // One millisecond away and still a level up: the digits decide, not the distance.
            (63, 64, 1),
            (4_095, 4_096, 2),
            ((1 << 36) - 1, 1 << 36, 6),
            (u64::MAX - 1, u64::MAX, 0),
            (u64::MAX, u64::MAX, 0),
        ];
        for &(now, deadline, level) in table {
            assert_eq!(level_of(now, deadline), level, "from {now} to {deadline}");
        }
    }

    #[test]
    fn slot_is_the_digit_of_the_level() {
        let table: &[(u64, usize, usize)] = &[
            (0, 0, 0),
            (63, 0, 63),
            (64, 0, 0),
            (64, 1, 1),
            (4_095, 1, 63),
            (4_096, 2, 1),
            (5 << 30, 5, 5),
            ((1 << 36) - 1, 5, 63),
            (u64::MAX, 5, 63),
        ];
        for &(deadline, level, slot) in table {
            assert_eq!(slot_of(deadline, level), slot, "digit {level} of {deadline}");
        }
    }

    #[test]
    fn slots_of_a_level_tile_one_turn_of_it() {
        let mut span = 1u64;
        for level in 0..LEVELS {
            for now in [0, 1_790_000_000_000, u64::MAX] {
                let turn_start = now - now % (span * 64);
                for slot in 0..SLOTS {
                    let start = slot_start(now, level, slot);
                    assert_eq!(start, turn_start + span * slot as u64, "level {level}, slot {slot}, now {now}");
                    assert_eq!(slot_last(start, level), start + (span - 1), "level {level}, slot {slot}, now {now}");
                }
            }
            span *= 64;
        }
    }

    #[test]
    fn deadline_lies_in_the_slot_that_it_maps_to_and_is_rebuilt_from_it() {
        let nows = [0, 1, 63, 64, (1 << 32) - 5, (1 << 36) - 1, 1_790_000_000_123, u64::MAX - (1 << 35)];
        for now in nows {
            for bit in 0..64 {
                for nudge in [0, 1, 2] {
                    let deadline = now.saturating_add((1u64 << bit) - 1).saturating_add(nudge);
                    let level = level_of(now, deadline);
                    let (start, last) = if level < LEVELS {
                        let start = slot_start(now, level, slot_of(deadline, level));
                        (start, slot_last(start, level))
                    } else {
                        (far_start(far_key(deadline)), far_start(far_key(deadline)) | u64::from(u32::MAX))
                    };
                    assert!(start <= deadline && deadline <= last, "{start} <= {deadline} <= {last} from {now}");
                    assert_eq!(join(start, deadline as u32), deadline, "from {now}, level {level}");
                    assert_eq!(join(last, deadline as u32), deadline, "from {now}, level {level}");
                }
            }
        }
    }
}
