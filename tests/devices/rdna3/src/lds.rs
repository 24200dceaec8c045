//! A block's local memory, with bounds and a detector of races between its waves.
//!
//! Each word remembers who touched it since the last barrier. Two waves at one word, one of them writing a different
//! value, with no barrier between them: a race, whichever order this run happened to take.

use std::ops::Range;

/// Who touched a word last, for reads and for writes: the stretch between barriers in the upper 24 bits, the wave in
/// the lower 8, or [`SEVERAL`].
type Touch = u32;

const SEVERAL: u32 = 0xff;
/// Stretches before the marks must be cleared.
const EPOCHS: u32 = 1 << 24;

/// Notes a read by `mine` (stretch and wave); whether another wave has written.
#[inline(always)]
fn mark_read(read: &mut [Touch], written: &[Touch], mine: Touch) -> bool {
    let mut foreign = false;
    for k in 0..read.len().min(written.len()) {
        foreign |= (written[k] >> 8 == mine >> 8) & (written[k] != mine);
        read[k] = if (read[k] >> 8 == mine >> 8) & (read[k] != mine) { mine | SEVERAL } else { mine };
    }
    foreign
}

/// Whether another wave than `mine` has read or written.
#[inline(always)]
fn touched(read: &[Touch], written: &[Touch], mine: Touch) -> bool {
    let mut foreign = false;
    for k in 0..read.len().min(written.len()) {
        foreign |= (written[k] >> 8 == mine >> 8) & (written[k] != mine);
        foreign |= (read[k] >> 8 == mine >> 8) & (read[k] != mine);
    }
    foreign
}

/// Local memory of one block.
#[derive(Default)]
pub struct Lds {
    bytes: Vec<u8>,
    read: Vec<Touch>,
    written: Vec<Touch>,
    /// log2 of the bytes that one mark stands for.
    grain: u32,
    epoch: u32,
    races: bool,
}

/// A race: the other wave, and whether it wrote.
pub struct Race {
    /// The wave that touched the word before; `None` when several did.
    pub other: Option<u32>,
    /// It wrote; otherwise it read.
    pub wrote: bool,
}

impl Lds {
    /// Fresh poisoned memory of `size` bytes; `grain` is log2 of the narrowest access in the program.
    pub fn reset(&mut self, size: usize, grain: u32, races: bool) {
        self.bytes.clear();
        self.bytes.resize(size, 0xff);
        if self.grain != grain {
            self.read.clear();
            self.written.clear();
        }
        self.grain = grain;
        self.races = races;
        let words = (size >> grain) + 1;
        if self.read.len() < words {
            self.read.resize(words, 0);
            self.written.resize(words, 0);
        }
        self.barrier();
    }

    /// All waves have passed a barrier.
    pub fn barrier(&mut self) {
        self.epoch += 1;
        if self.epoch == EPOCHS {
            self.read.fill(0);
            self.written.fill(0);
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

    /// The words of an access. For aligned words their number is known to the compiler, which unrolls what follows.
    #[inline(always)]
    fn words<const N: usize>(&self, at: u32) -> Range<usize> {
        let first = (at >> self.grain) as usize;
        first..((at + N as u32 - 1) >> self.grain) as usize + 1
    }

    #[inline(always)]
    fn aligned<const N: usize>(&self, at: u32) -> bool {
        self.grain == 2 && at.is_multiple_of(4) && N.is_multiple_of(4)
    }

    /// Reads `N` bytes that [`holds`](Lds::holds) has allowed.
    #[inline(always)]
    pub fn load<const N: usize>(&mut self, at: u32, wave: u32) -> Result<[u8; N], Race> {
        if self.races {
            let (epoch, mine, words) = (self.epoch, self.epoch << 8 | wave, self.words::<N>(at));
            let foreign = if self.aligned::<N>(at) {
                let words = words.start..words.start + N / 4;
                mark_read(&mut self.read[words.clone()], &self.written[words], mine)
            } else {
                mark_read(&mut self.read[words.clone()], &self.written[words.clone()], mine)
            };
            if foreign {
                let written = &self.written[words];
                let other = written.iter().find(|w| **w >> 8 == epoch && **w != mine).map(|w| w & 0xff);
                return Err(Race { other, wrote: true });
            }
        }
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at as usize..at as usize + N]);
        Ok(out)
    }

    /// Writes `N` bytes that [`holds`](Lds::holds) has allowed.
    #[inline(always)]
    pub fn store<const N: usize>(&mut self, at: u32, wave: u32, data: [u8; N]) -> Result<(), Race> {
        if self.races {
            let (epoch, mine, words) = (self.epoch, self.epoch << 8 | wave, self.words::<N>(at));
            let foreign = if self.aligned::<N>(at) {
                let words = words.start..words.start + N / 4;
                touched(&self.read[words.clone()], &self.written[words], mine)
            } else {
                touched(&self.read[words.clone()], &self.written[words.clone()], mine)
            };
            let mut race = None;
            let (read, written) = (&self.read[words.clone()], &mut self.written[words]);
            if foreign {
                let other = |m: &Touch| (m >> 8 == epoch && *m != mine).then_some(m & 0xff);
                let wrote = written.iter().find_map(other);
                let other = wrote.or(read.iter().find_map(other)).filter(|o| *o != SEVERAL);
                race = Some(Race { other, wrote: wrote.is_some() });
            }
            written.fill(mine);
            // Waves that store the same value all at once are a common and harmless idiom.
            if let Some(race) = race
                && self.bytes[at as usize..at as usize + N] != data
            {
                return Err(race);
            }
        }
        self.bytes[at as usize..at as usize + N].copy_from_slice(&data);
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

/// Extra passes of an access of `bytes` a lane at `at` by the lanes of `exec`. A pass moves one word of each of the 32
/// banks: lanes take turns in groups that have 128 bytes together, and a group takes as many passes as one bank has
/// different words. A model: the card's own order of lanes is not published.
pub fn conflicts(at: &[u32; 32], exec: u32, bytes: u32) -> u32 {
    let words = bytes.div_ceil(4);
    let group = (32 / words).max(1) as usize;
    let mut extra = 0;
    for first in (0..32).step_by(group) {
        // By bank: how many words, and the first of them; all others.
        let (mut banks, mut others, mut n, mut most) = ([(0u32, 0u32); 32], [0u32; 32], 0, 1);
        for l in (first..(first + group).min(32)).filter(|l| exec >> l & 1 != 0) {
            for word in at[l] / 4..at[l] / 4 + words {
                let (count, held) = &mut banks[word as usize % 32];
                if *count == 0 {
                    *held = word;
                } else if *held == word || others[..n].contains(&word) {
                    continue;
                } else {
                    others[n] = word;
                    n += 1;
                }
                *count += 1;
                most = most.max(*count);
            }
        }
        extra += most - 1;
    }
    extra
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
        assert!(lds.load::<4>(8, 1).is_err_and(|r| r.other == Some(0) && r.wrote));
        lds.barrier();
        assert_eq!(lds.load::<4>(8, 1).ok(), Some(7u32.to_le_bytes()));
        assert!(lds.store(8, 0, 9u32.to_le_bytes()).is_err_and(|r| r.other == Some(1) && !r.wrote));
        lds.barrier();
        assert!(lds.store(8, 0, 9u32.to_le_bytes()).is_ok());
        assert!(lds.store(8, 1, 9u32.to_le_bytes()).is_ok(), "the same value");
        assert!(lds.store(8, 0, 5u32.to_le_bytes()).is_err());
    }

    #[test]
    fn bank_conflicts() {
        let of = |bytes, f: fn(u32) -> u32| conflicts(&std::array::from_fn(|l| f(l as u32)), !0, bytes);
        assert_eq!(of(4, |l| l * 4), 0);
        assert_eq!(of(4, |l| l * 8), 1);
        assert_eq!(of(4, |_| 12), 0);
        assert_eq!(of(4, |l| l * 128), 31);
        // Neighbours, and rows that are some banks apart, in 16 bytes: four passes, none of them extra.
        assert_eq!(of(16, |l| l * 16), 0);
        assert_eq!(of(16, |l| l * 144), 0);
        assert_eq!(of(16, |l| l * 128), 4 * 7);
        assert_eq!(of(8, |l| l * 16), 2);
    }
}
