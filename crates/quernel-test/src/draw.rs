//! Where generators take their decisions from: a seed, or bytes that a fuzzer chose.

/// Numbers for a generator. As long as there are chosen bytes, decisions come from them; then from SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
    /// Chosen bytes, last one first.
    chosen: Vec<u8>,
}

impl Rng {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, chosen: Vec::new() }
    }
    /// The first eight bytes are the seed, the others are decisions: one byte for one of up to 256, four for others.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let (seed, rest) = bytes.split_at(bytes.len().min(8));
        let seed = seed.iter().fold(0, |s, b| s << 8 | u64::from(*b));
        Self { state: seed, chosen: rest.iter().rev().copied().collect() }
    }
    /// 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        if !self.chosen.is_empty() {
            return (0..4).fold(0, |n, _| n << 8 | u64::from(self.chosen.pop().unwrap_or(0)));
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// In `lo..=hi`.
    pub fn range(&mut self, lo: i64, hi: i64) -> i64 {
        let count = (hi - lo + 1) as u64;
        match self.chosen.pop() {
            Some(byte) if count <= 256 => lo + (u64::from(byte) % count) as i64,
            Some(byte) => {
                self.chosen.push(byte);
                lo + (self.next() % count) as i64
            }
            None => lo + (self.next() % count) as i64,
        }
    }
    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.range(0, n as i64 - 1) as usize
    }
    /// True once in so many times.
    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
    /// In `lo..hi`, in 2^24 steps.
    pub fn real(&mut self, lo: f32, hi: f32) -> f32 {
        let bits = if self.chosen.is_empty() { self.next() >> 40 } else { self.next() >> 8 };
        lo + bits as f32 / (1u64 << 24) as f32 * (hi - lo)
    }
    /// One of them; there is one.
    pub fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
    /// Bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}
