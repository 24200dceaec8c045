//! The few fields of an ELF file that lead to the metadata note.

use super::BadObject;

/// `e_machine` of AMD GPUs.
const EM_AMDGPU: u16 = 224;
/// `p_type` of a segment of notes.
const PT_NOTE: u32 = 4;
/// Type of the note, whose name is `AMDGPU`.
const NT_AMDGPU_METADATA: u32 = 32;

/// The contents of the metadata note of a code object.
pub(super) fn metadata_note(elf: &[u8]) -> Result<&[u8], BadObject> {
    let bad = |what: &str| BadObject(what.to_owned());
    // Magic, 64 bits, little endian.
    if elf.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        return Err(bad("no 64-bit ELF file"));
    }
    if half(elf, 18) != Some(EM_AMDGPU) {
        return Err(bad("no code for an AMD GPU"));
    }
    let header = || Some((long(elf, 32)?, u64::from(half(elf, 54)?), u64::from(half(elf, 56)?)));
    let (table, size, count) = header().ok_or_else(|| bad("its header is cut short"))?;
    for i in 0..count {
        let at = table.checked_add(i * size).and_then(|at| usize::try_from(at).ok());
        let segment = || Some((word(elf, at?)?, long(elf, at? + 8)?, long(elf, at? + 32)?));
        let (kind, offset, bytes) = segment().ok_or_else(|| bad("its segments are cut short"))?;
        if kind != PT_NOTE {
            continue;
        }
        let notes = part(elf, offset, bytes).ok_or_else(|| bad("its notes lie outside of it"))?;
        if let Some(note) = find(notes)? {
            return Ok(note);
        }
    }
    Err(bad("no metadata"))
}

/// The metadata note among others.
fn find(mut notes: &[u8]) -> Result<Option<&[u8]>, BadObject> {
    while !notes.is_empty() {
        let note = || {
            let (name, description, kind) = (word(notes, 0)?, word(notes, 4)?, word(notes, 8)?);
            let name_end = 12 + u64::from(name);
            let start = name_end.next_multiple_of(4);
            let text = part(notes, 12, u64::from(name))?;
            let bytes = part(notes, start, u64::from(description))?;
            // The last one's padding may be missing.
            let next = (start + u64::from(description)).next_multiple_of(4).min(notes.len() as u64);
            Some((text, bytes, kind, part(notes, next, notes.len() as u64 - next)?))
        };
        let (name, description, kind, rest) = note().ok_or_else(|| BadObject("a note is cut short".to_owned()))?;
        if kind == NT_AMDGPU_METADATA && name.strip_suffix(b"\0").unwrap_or(name) == b"AMDGPU" {
            return Ok(Some(description));
        }
        notes = rest;
    }
    Ok(None)
}

fn part(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(len)?).ok()?)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
