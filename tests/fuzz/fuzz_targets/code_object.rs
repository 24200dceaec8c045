//! Any bytes as a code object: its metadata must be read or refused.
//!
//! Run from the project's root: `cargo fuzz run --fuzz-dir tests/fuzz -s none code_object`
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(object) = rocmforge::backend::hip::metadata::CodeObject::read(bytes) {
        // Each kernel takes several bytes of the file: nothing is made up from a count alone.
        assert!(object.kernels.len() <= bytes.len());
    }
});
