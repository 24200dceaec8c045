//! The code objects that the build put into the binary (`build.rs`, `kernels/gate`).

use std::io::{self, Read};

use ruzstd::decoding::StreamingDecoder;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The code objects for chip `target`, one for each file of kernels; none if the build has none.
///
/// # Errors
/// If the archive is damaged.
pub fn for_target(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    if !TARGETS.contains(&target) {
        return Ok(found);
    }
    let mut archive = StreamingDecoder::new(ARCHIVE).map_err(io::Error::other)?;
    while let Some(head) = line(&mut archive)? {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("kernels: {head:?}"));
        let mut words = head.split(' ').skip(1);
        let (chip, bytes) =
            (words.next().ok_or_else(damaged)?, words.next().and_then(|n| n.parse().ok()).ok_or_else(damaged)?);
        let mut object = archive.by_ref().take(bytes);
        if chip == target {
            let mut kept = Vec::with_capacity(bytes as usize);
            object.read_to_end(&mut kept)?;
            found.push(kept);
        } else {
            io::copy(&mut object, &mut io::sink())?;
        }
    }
    Ok(found)
}

/// The next line without its end; none at the end of the archive.
fn line(archive: &mut impl Read) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    let mut byte = [0];
    while archive.read(&mut byte)? == 1 {
        if byte[0] == b'\n' {
            return String::from_utf8(text).map(Some).map_err(io::Error::other);
        }
        text.push(byte[0]);
    }
    if text.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_an_object_for_each_file_of_kernels() {
        let files: std::collections::BTreeSet<_> =
            MANIFEST.lines().skip(1).filter_map(|l| l.split('\t').nth(1)).collect();
        for target in TARGETS {
            let objects = for_target(target).expect("the archive");
            assert_eq!(objects.len(), files.len(), "{target}");
            assert!(objects.iter().all(|o| o.starts_with(b"\x7fELF")), "{target}");
        }
        assert!(for_target("gfx000").expect("no error").is_empty());
        assert_eq!(ABSENT.is_some(), TARGETS.is_empty());
    }

    #[test]
    fn no_kernel_spills_or_uses_scratch() {
        for line in MANIFEST.lines().skip(1) {
            let columns: Vec<&str> = line.split('\t').collect();
            assert_eq!(columns[5..7], ["0", "0"], "{} for {}", columns[2], columns[0]);
        }
    }
}
