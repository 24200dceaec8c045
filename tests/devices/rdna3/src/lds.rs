//! A block's local memory, with bounds and a detector of races between its waves.
//!
//! Each word remembers who touched it since the last barrier. Two waves at one word, one of them writing a different
//! value, with no barrier between them: a race, whichever order this run happened to take.

/// Who touched a word: the stretch between barriers in bits 40 and up, the wave that wrote in it (or [`NOBODY`]) in
/// bits 32 to 39, the set of waves that read in it below.
type Touch = u64;

const NOBODY: u64 = 0xff;
/// Stretches before the marks must be cleared.
const EPOCHS: u64 = 1 << 24;

/// A mark as of this stretch.
#[inline(always)]
fn current(t: Touch, epoch: u64) -> Touch {
    if t >> 40 == epoch { t } else { epoch << 40 | NOBODY << 32 }
}

/// Local memory of one block.
#[derive(Default)]
pub struct Lds {
    bytes: Vec<u8>,
    touched: Vec<Touch>,
    /// log2 of the bytes that one [`Touch`] stands for.
    grain: u32,
    epoch: u64,
    races: bool,
}

/// A race: the other wave, and whether it wrote.
pub struct Race {
    /// The wave that touched the word before.
    pub other: u32,
    /// It wrote; otherwise it read.
    pub wrote: bool,
}

impl Lds {
    /// Fresh poisoned memory of `size` bytes; `grain` is log2 of the narrowest access in the program.
    pub fn reset(&mut self, size: usize, grain: u32, races: bool) {
        self.bytes.clear();
        self.bytes.resize(size, 0xff);
        if self.grain != grain {
            self.touched.clear();
        }
        self.grain = grain;
        self.races = races;
        let words = (size >> grain) + 1;
        if self.touched.len() < words {
            self.touched.resize(words, 0);
        }
        self.barrier();
    }

    /// All waves have passed a barrier.
    pub fn barrier(&mut self) {
        self.epoch += 1;
        if self.epoch == EPOCHS {
            self.touched.fill(0);
            self.epoch = 1;
        }
    }

    /// Bytes of the segment.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether an access lies inside.
    #[inline(always)]
    pub fn holds(&self, at: u32, n: u32) -> bool {
        u64::from(at) + u64::from(n) <= self.bytes.len() as u64
    }

    /// Reads `N` bytes that [`holds`](Lds::holds) has allowed.
    #[inline(always)]
    pub fn load<const N: usize>(&mut self, at: u32, wave: u32) -> Result<[u8; N], Race> {
        if self.races {
            let (epoch, grain) = (self.epoch, self.grain);
            for t in &mut self.touched[(at >> grain) as usize..=((at + N as u32 - 1) >> grain) as usize] {
                let now = current(*t, epoch);
                let writer = now >> 32 & 0xff;
                if writer != NOBODY && writer != u64::from(wave) {
                    return Err(Race { other: writer as u32, wrote: true });
                }
                *t = now | 1 << wave;
            }
        }
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at as usize..at as usize + N]);
        Ok(out)
    }

    /// Writes `N` bytes that [`holds`](Lds::holds) has allowed.
    #[inline(always)]
    pub fn store<const N: usize>(&mut self, at: u32, wave: u32, data: [u8; N]) -> Result<(), Race> {
        let to = &mut self.bytes[at as usize..at as usize + N];
        if self.races {
            let (epoch, grain) = (self.epoch, self.grain);
            for t in &mut self.touched[(at >> grain) as usize..=((at + N as u32 - 1) >> grain) as usize] {
                let now = current(*t, epoch);
                let (writer, others) = (now >> 32 & 0xff, now as u32 & !(1 << wave));
                // Waves that store the same value all at once are a common and harmless idiom.
                if (writer != NOBODY && writer != u64::from(wave) || others != 0) && *to != data {
                    let wrote = writer != NOBODY && writer != u64::from(wave);
                    let other = if wrote { writer as u32 } else { others.trailing_zeros() };
                    return Err(Race { other, wrote });
                }
                *t = now & !(NOBODY << 32) | u64::from(wave) << 32;
            }
        }
        to.copy_from_slice(&data);
        Ok(())
    }

    /// Changes a word in place: LDS atomics, which order themselves.
    pub fn atomic<const N: usize>(&mut self, at: u32, f: impl FnOnce([u8; N]) -> [u8; N]) -> [u8; N] {
        let mut old = [0; N];
        let word = &mut self.bytes[at as usize..at as usize + N];
        old.copy_from_slice(word);
        word.copy_from_slice(&f(old));
        old
    }
}

/// Extra cycles of an access: the most distinct words that fall in one of the 32 banks, less one.
pub fn conflicts(words: impl Iterator<Item = u32>) -> u32 {
    let mut seen: Vec<u32> = words.collect();
    seen.sort_unstable();
    seen.dedup();
    let mut banks = [0u32; 32];
    for w in seen {
        banks[w as usize % 32] += 1;
    }
    banks.iter().max().map_or(0, |m| m.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_race_needs_two_waves_and_no_barrier() {
        let mut lds = Lds::default();
        lds.reset(64, 2, true);
        assert!(lds.store(8, 0, 7u32.to_le_bytes()).is_ok());
        assert!(lds.load::<4>(8, 0).is_ok());
        assert!(lds.load::<4>(8, 1).is_err_and(|r| r.other == 0 && r.wrote));
        lds.barrier();
        assert_eq!(lds.load::<4>(8, 1).ok(), Some(7u32.to_le_bytes()));
        assert!(lds.store(8, 0, 9u32.to_le_bytes()).is_err_and(|r| r.other == 1 && !r.wrote));
        lds.barrier();
        assert!(lds.store(8, 0, 9u32.to_le_bytes()).is_ok());
        assert!(lds.store(8, 1, 9u32.to_le_bytes()).is_ok(), "the same value");
        assert!(lds.store(8, 0, 5u32.to_le_bytes()).is_err());
    }

    #[test]
    fn bank_conflicts() {
        assert_eq!(conflicts(0..32), 0);
        assert_eq!(conflicts((0..32).map(|l| l * 2)), 1);
        assert_eq!(conflicts((0..32).map(|_| 3)), 0);
        assert_eq!(conflicts((0..32).map(|l| l * 32)), 31);
    }
}
