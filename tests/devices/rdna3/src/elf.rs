//! Just enough ELF: a code object's segments, symbols, relocations and metadata note.

/// Machine number of AMD GPUs.
const EM_AMDGPU: u16 = 0xe0;
/// Low byte of `e_flags` for gfx1100.
const MACH_GFX1100: u32 = 0x41;

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a code object.
    Invalid(String),
    /// For another chip.
    OtherChip(u32),
}

/// A loadable segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Offset in the file.
    pub offset: usize,
    /// Address.
    pub address: u64,
    /// Bytes in the file.
    pub file_size: usize,
    /// Bytes in memory.
    pub size: usize,
}

/// A parsed code object.
pub struct Elf<'a> {
    bytes: &'a [u8],
    /// Segments to load.
    pub load: Vec<Segment>,
    /// Dynamic symbols: name and value.
    pub symbols: Vec<(String, u64)>,
    /// The metadata note's MessagePack.
    pub note: &'a [u8],
    /// Relocations: address, type, symbol's value, addend.
    pub relocations: Vec<(u64, u32, u64, i64)>,
}

fn take<const N: usize>(b: &[u8], at: usize) -> Result<[u8; N], Refusal> {
    b.get(at..).and_then(|b| b.first_chunk()).copied().ok_or_else(|| Refusal::Invalid("image is cut short".into()))
}

fn u16_at(b: &[u8], at: usize) -> Result<u16, Refusal> {
    take(b, at).map(u16::from_le_bytes)
}

fn u32_at(b: &[u8], at: usize) -> Result<u32, Refusal> {
    take(b, at).map(u32::from_le_bytes)
}

fn u64_at(b: &[u8], at: usize) -> Result<u64, Refusal> {
    take(b, at).map(u64::from_le_bytes)
}

/// Length of the image that starts at `p`: the section table is its end. HIP passes images without a length.
///
/// # Safety
/// `p` points to a whole ELF image.
pub unsafe fn length(p: *const u8) -> Option<usize> {
    let head = std::slice::from_raw_parts(p, 64);
    if &head[..4] != b"\x7fELF" {
        return None;
    }
    let table = u64_at(head, 40).ok()? as usize;
    Some(table + usize::from(u16_at(head, 58).ok()?) * usize::from(u16_at(head, 60).ok()?))
}

impl<'a> Elf<'a> {
    /// Parses and checks an image.
    pub fn parse(bytes: &'a [u8]) -> Result<Elf<'a>, Refusal> {
        let bad = |what: &str| Refusal::Invalid(what.to_string());
        if bytes.get(..5) != Some(b"\x7fELF\x02") || u16_at(bytes, 18)? != EM_AMDGPU {
            return Err(bad("not an AMD GPU code object"));
        }
        let mach = u32_at(bytes, 48)? & 0xff;
        if mach != MACH_GFX1100 {
            return Err(Refusal::OtherChip(mach));
        }
        let mut elf = Elf { bytes, load: vec![], symbols: vec![], note: &[], relocations: vec![] };
        let (table, size, n) = (u64_at(bytes, 32)? as usize, usize::from(u16_at(bytes, 54)?), u16_at(bytes, 56)?);
        let mut dynamic = None;
        for k in 0..usize::from(n) {
            let p = table + k * size;
            let s = Segment {
                offset: u64_at(bytes, p + 8)? as usize,
                address: u64_at(bytes, p + 16)?,
                file_size: u64_at(bytes, p + 32)? as usize,
                size: u64_at(bytes, p + 40)? as usize,
            };
            if s.offset.checked_add(s.file_size).is_none_or(|end| end > bytes.len()) {
                return Err(bad("a segment lies outside of the image"));
            }
            match u32_at(bytes, p)? {
                1 => elf.load.push(s),
                2 => dynamic = Some(s),
                4 => elf.note(s)?,
                _ => {}
            }
        }
        if let Some(d) = dynamic {
            elf.dynamic(d)?;
        }
        if elf.note.is_empty() {
            return Err(bad("no metadata note"));
        }
        Ok(elf)
    }

    fn note(&mut self, s: Segment) -> Result<(), Refusal> {
        let b = &self.bytes[s.offset..s.offset + s.file_size];
        let mut at = 0;
        while at + 12 <= b.len() {
            let (name, desc, ty) = (u32_at(b, at)? as usize, u32_at(b, at + 4)? as usize, u32_at(b, at + 8)?);
            let start = at + 12 + name.next_multiple_of(4);
            if ty == 32 && b.get(at + 12..at + 18) == Some(b"AMDGPU") {
                self.note = b.get(start..start + desc).ok_or_else(|| Refusal::Invalid("note is cut short".into()))?;
            }
            at = start + desc.next_multiple_of(4);
        }
        Ok(())
    }

    /// Offset in the file of an address.
    pub fn offset(&self, address: u64) -> Option<usize> {
        let s = self.load.iter().find(|s| address >= s.address && address - s.address < s.file_size as u64)?;
        Some(s.offset + (address - s.address) as usize)
    }

    /// Bytes from an address on.
    pub fn at(&self, address: u64) -> Option<&'a [u8]> {
        self.bytes.get(self.offset(address)?..)
    }

    fn dynamic(&mut self, s: Segment) -> Result<(), Refusal> {
        let b = &self.bytes[s.offset..s.offset + s.file_size];
        let entries: Result<Vec<(u64, u64)>, Refusal> =
            (0..b.len() / 16).map(|k| Ok((u64_at(b, 16 * k)?, u64_at(b, 16 * k + 8)?))).collect();
        let entries = entries?;
        let find = |tag: u64| entries.iter().find(|e| e.0 == tag).map(|e| e.1);
        let part = |tag: u64| find(tag).and_then(|a| self.at(a));
        let (Some(symbols), Some(strings)) = (part(6), part(5)) else { return Ok(()) };
        // The hash table knows how many symbols there are; without it (GNU hash only) the string table's start does.
        let count = match part(4) {
            Some(hash) => u32_at(hash, 4)? as usize,
            None => (find(5).unwrap_or(0).saturating_sub(find(6).unwrap_or(0)) / 24) as usize,
        };
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for k in 0..count {
            let (name, value) = (u32_at(symbols, 24 * k)? as usize, u64_at(symbols, 24 * k + 8)?);
            let text = strings.get(name..).and_then(|s| s.split(|c| *c == 0).next()).unwrap_or(&[]);
            names.push((String::from_utf8_lossy(text).into_owned(), value));
            values.push(value);
        }
        let mut relocations = Vec::new();
        if let (Some(rela), Some(size)) = (part(7), find(8)) {
            for k in 0..size as usize / 24 {
                let (at, info) = (u64_at(rela, 24 * k)?, u64_at(rela, 24 * k + 8)?);
                let addend = u64_at(rela, 24 * k + 16)? as i64;
                let value = values.get((info >> 32) as usize).copied().unwrap_or(0);
                relocations.push((at, info as u32, value, addend));
            }
        }
        (self.symbols, self.relocations) = (names, relocations);
        Ok(())
    }

    /// The image's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}
