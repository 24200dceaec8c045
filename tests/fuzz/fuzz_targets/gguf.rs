//! Any bytes as a GGUF file: the parser must return, and tensors must lie inside the file.
//!
//! Run from the project's root: `cargo fuzz run --fuzz-dir tests/fuzz -s none gguf`
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = rocmforge::gguf::parse(bytes) {
        for t in &header.tensors {
            assert!(t.start >= header.data_start && t.start + t.bytes <= bytes.len() as u64);
        }
        for (key, _) in header.meta.iter() {
            assert!(header.meta.get(key).is_some());
        }
    }
});
