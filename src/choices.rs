//! Bytes as a list of choices.

use arbitrary::Unstructured;

/// Choices that the input makes. When it has ended each of them is the first one, so that every input is a whole one.
pub struct Choices<'a>(Unstructured<'a>);

impl<'a> Choices<'a> {
    /// Those of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Choices(Unstructured::new(data))
    }

    /// Whether there are more.
    pub fn more(&self) -> bool {
        !self.0.is_empty()
    }

    /// What has not been read.
    pub fn rest(self) -> &'a [u8] {
        self.0.take_rest()
    }

    /// A number from 0 to, not including, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0.int_in_range(0..=end.max(1) - 1).unwrap_or(0)
    }

    /// One in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 1
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    /// A number of any magnitude, each as likely as the others, often at an edge.
    pub fn magnitude(&mut self) -> u64 {
        let bits = self.below(65);
        let below = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        match self.below(4) {
            0 => below,
            1 => below.saturating_add(1),
            _ => self.number() & below,
        }
    }

    /// Up to `most` bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = (self.below(most as u64 + 1) as usize).min(self.0.len());
        self.0.bytes(len).unwrap_or_default()
    }
}
