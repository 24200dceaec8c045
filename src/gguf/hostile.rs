//! Files that attack the parser, one test for each published family of vulnerabilities, and
//! files of many parts.

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::build::{Build, string};
use super::meta::{Array, Value};
use super::*;
use crate::base::limits;

fn fault(b: &Build) -> Fault {
    parse(&b.bytes()).expect_err("refused")
}

/// Fails unless the message has all of `words`.
#[track_caller]
fn says(e: impl std::fmt::Display, words: &[&str]) {
    let text = e.to_string();
    for w in words {
        assert!(text.contains(w), "`{w}` is not in: {text}");
    }
}

#[test]
fn a_good_file_is_read_as_it_was_written() {
    for version in [2, 3] {
        let h = parse(&Build { version: Some(version), ..Build::small() }.bytes()).expect("good");
        assert_eq!((h.version, h.alignment, h.meta.len()), (version, 32, 6));
        assert_eq!(h.meta.str("general.architecture"), Ok(Some("llama")));
        assert_eq!(h.meta.u32("llama.block_count"), Ok(Some(2)));
        assert_eq!(h.meta.bool("tokenizer.ggml.add_bos_token"), Ok(Some(true)));
        let tokens = h.meta.strings("tokenizer.ggml.tokens").expect("typed").expect("there");
        assert_eq!((tokens.len(), tokens.get(2)), (4, Some(&b"b c"[..])));
        assert_eq!(h.meta.get("tokenizer.ggml.token_type"), Some(&Value::Array(Array::I32(vec![1, -2, 3]))));
        let [a, b] = &h.tensors[..] else { panic!("two tensors") };
        assert_eq!((a.ty, a.dims, a.n_dims, a.start, a.bytes), (GgmlType::F32, [4, 3, 1, 1], 2, h.data_start, 48));
        assert_eq!((b.ty, b.start, b.bytes), (GgmlType::Q8_0, h.data_start + 64, 68));
    }
}

#[test]
fn tensor_data_is_where_the_file_has_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, Build::small().bytes()).expect("written");
    let g = Gguf::open(&path).expect("opened");
    assert_eq!(g.tensor("token_embd.weight").expect("there").data.bytes(), [1; 48]);
    assert_eq!(g.tensor("blk.0.attn_q.weight").expect("there").data.bytes(), [2; 68]);
    assert!(g.tensor("absent").is_none() && !g.poisoned());
    assert_eq!(g.file_bytes, std::fs::metadata(&path).expect("stat").len());
}

#[test]
fn a_file_cut_at_any_byte_is_refused_and_says_how_much_is_there() {
    let whole = Build::small().bytes();
    for n in 0..whole.len() {
        let e = parse(&whole[..n]).expect_err("cut");
        match &e {
            Fault::Empty => assert_eq!(n, 0),
            Fault::CutHeader { found, left, needed, .. } => {
                assert_eq!(*found, n as u64);
                assert!(needed > left);
            }
            Fault::CutData { found, expected, .. } => {
                assert_eq!((*found, *expected), (n as u64, whole.len() as u64));
                says(&e, &["incomplete", &n.to_string(), &whole.len().to_string()]);
            }
            e => panic!("byte {n}: {e}"),
        }
    }
    // Bytes behind the last tensor do no harm.
    parse(&[&whole[..], &[0; 100]].concat()).expect("longer");
}

#[test]
fn other_formats_and_versions_are_refused_by_name() {
    let start = |b: &[u8]| parse(&[b, &[0; 64]].concat()).expect_err("refused");
    says(start(b"tjgg"), &["GGML"]);
    says(start(b"PK\x03\x04"), &["PyTorch"]);
    says(start(b"<!DOCTYPE html>"), &["web page"]);
    says(start(b"version https://git-lfs.github.com/spec/v1"), &["git-lfs"]);
    says(start(b"\x10\0\0\0\0\0\0\0{\"a\""), &["safetensors"]);
    says(start(b"hello"), &["not a GGUF file"]);
    says(fault(&Build { version: Some(1), ..Build::small() }), &["version 1"]);
    says(fault(&Build { version: Some(4), ..Build::small() }), &["version 4", "newer"]);
    says(fault(&Build { version: Some(3u32.swap_bytes()), ..Build::small() }), &["big-endian", "version 3"]);
}

// CVE-2024-21836 (tensor count), CVE-2024-23605 (key count), CVE-2025-0315 (unbounded allocation).
#[test]
fn counts_are_bounded_before_memory_is_reserved() {
    for n in [u64::MAX, 1 << 63, u64::MAX / 32, limits::GGUF_TENSORS_MAX + 1] {
        says(fault(&Build { n_tensors: Some(n), ..Build::small() }), &["tensors", &n.to_string()]);
        says(fault(&Build { n_keys: Some(n), ..Build::small() }), &["keys", &n.to_string()]);
    }
    let e = fault(&Build { n_keys: Some(limits::GGUF_KEYS_MAX), ..Build::small() });
    assert!(matches!(e, Fault::CutHeader { .. }), "{e}");
}

// CVE-2024-21825 (array n * size), CVE-2025-66959 (lengths).
#[test]
fn array_lengths_are_bounded() {
    for ty in [0, 5, 8, 12] {
        for n in [u64::MAX, 1 << 61, (1 << 61) + 1, limits::GGUF_ARRAY_MAX, 5] {
            let e = fault(&Build::default().array("a.b", ty, n, &[0; 4]));
            assert!(matches!(e, Fault::CutHeader { .. } | Fault::TooMany { .. }), "{e}");
            says(e, &["a.b"]);
        }
    }
    says(fault(&Build::default().array("a.b", 9, 1, &[0; 64])), &["a.b", "arrays of arrays"]);
    says(fault(&Build::default().array("a.b", 13, 1, &[0; 64])), &["a.b", "array type 13"]);
    says(fault(&Build::default().value("a.b", 13, &[0; 64])), &["a.b", "value type 13"]);
}

// CVE-2024-23496 (string length + 1 wraps to 0), CVE-2025-49847.
#[test]
fn string_lengths_are_bounded() {
    for n in [u64::MAX, u64::MAX - 7, 1 << 63, limits::GGUF_STRING_MAX + 1, 100] {
        let len = n.to_le_bytes();
        says(fault(&Build::default().value("a.b", 8, &len)), &["a.b", &n.to_string()]);
        says(fault(&Build::default().array("a.b", 8, 1, &len)), &["a.b", &n.to_string()]);
    }
    let mut key = Build::default().str("x", "y").bytes();
    key[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    says(parse(&key).expect_err("refused"), &["metadata key 0"]);
}

#[test]
fn keys_are_unique_named_and_strict() {
    says(fault(&Build::small().str("general.architecture", "x")), &["general.architecture", "twice"]);
    says(fault(&Build::default().str("", "x")), &["no name"]);
    says(fault(&Build::default().value("b", 7, &[2])), &["`b`", "2"]);
    says(fault(&Build::default().array("b", 7, 2, &[1, 255])), &["`b`", "255"]);
    // What an error prints of a name cannot steer a terminal.
    let e = fault(&Build::default().value("\x1b[2J", 99, &[])).to_string();
    assert!(!e.contains('\x1b'), "{e}");
}

// CVE-2024-21802 (n_dims > 4 writes past ne[]), issue 27203 (negative), CVE-2026-33298,
// PR 27200 (ne * 18 wraps before / 32), CVE-2025-0317 (division by zero).
#[test]
fn dimensions_are_checked() {
    let one = |n_dims, dims: &[u64], ty| fault(&Build::default().info(b"t", n_dims, dims, ty, 0));
    for n in [0, 5, u32::MAX] {
        says(one(n, &[1; 8], 0), &["`t`", &n.to_string(), "dimensions"]);
    }
    says(one(2, &[4, 0], 0), &["`t`", "0 elements"]);
    for dims in
        [[u64::MAX, 1, 1, 1], [1 << 63, 1, 1, 1], [1 << 32, 1 << 32, 1, 1], [1 << 16, 1 << 16, 1 << 16, 1 << 16]]
    {
        says(one(4, &dims, 0), &["`t`", "more elements"]);
    }
    // i64::MAX elements of f64 do not fit in a u64 of bytes.
    says(one(1, &[i64::MAX as u64], 28), &["`t`", "more bytes"]);
    // These bytes can be counted, but not behind the header.
    says(one(1, &[1 << 62], 1), &["`t`"]);
    says(one(1, &[33], 2), &["`t`", "33", "Q4_0", "32"]);
    says(one(1, &[32], 4), &["`t`", "type 4", "removed"]);
    says(one(1, &[32], 43), &["`t`", "type 43"]);
}

// CVE-2026-7482 (offset + size past the end leaks the heap), CVE-2025-53630 and
// CVE-2026-27940 (sums of padded sizes wrap).
#[test]
fn tensors_lie_inside_the_file_and_apart() {
    let at = |offset| fault(&Build::small().info(b"t", 1, &[8], 0, offset));
    says(at(u64::MAX - 31), &["`t`", "wrap"]);
    says(at(1 << 62), &["its tensors need", "`t`"]);
    // 2^64 - 32 bytes can be counted; behind any offset they wrap to a few bytes.
    says(fault(&Build::small().info(b"t", 1, &[(1 << 62) - 8], 0, 160)), &["`t`", "wrap"]);
    says(at(160), &["incomplete", "`t`"]);
    says(at(1), &["`t`", "multiple of the alignment 32"]);
    says(at(0), &["inside `"]);
    says(at(32), &["inside `token_embd.weight`"]);
    let name = [b'x'; 64];
    says(fault(&Build::default().info(&name, 1, &[8], 0, 0)), &["name of tensor 0", "64"]);
    says(fault(&Build::default().info(b"", 1, &[8], 0, 0)), &["no name"]);
    says(fault(&Build::default().info(b"\xff", 1, &[8], 0, 0)), &["UTF-8"]);
    let twice = Build::small().tensor("token_embd.weight", GgmlType::F32, &[4], &[0; 16]);
    says(fault(&twice), &["token_embd.weight", "twice"]);
}

// PR 24759 (padding wraps to 0), PR 24997 and 26318 (alignment huge, or of another type).
#[test]
fn alignment_is_checked() {
    for a in [0u32, 3, 48, u32::MAX, 1 << 31] {
        let b = Build::default().value("general.alignment", 4, &a.to_le_bytes());
        says(fault(&b), &["general.alignment", &a.to_string()]);
    }
    says(fault(&Build::default().value("general.alignment", 10, &32u64.to_le_bytes())), &["alignment", "u64"]);
    let b = Build { alignment: Some(4096), ..Build::default() }
        .value("general.alignment", 4, &4096u32.to_le_bytes())
        .tensor("a", GgmlType::F32, &[1], &[0; 4])
        .tensor("b", GgmlType::F32, &[1], &[0; 4]);
    let h = parse(&b.bytes()).expect("good");
    assert_eq!((h.data_start, h.tensors[1].start), (4096, 8192));
}

#[test]
fn large_vocabularies_and_many_keys_are_read_fast() {
    let n = 1 << 18;
    let tokens: Vec<u8> = (0..n).flat_map(|i| string(format!("token{i}").as_bytes())).collect();
    let mut b = Build::default().array("tokenizer.ggml.tokens", 8, n, &tokens);
    for i in 0..limits::GGUF_KEYS_MAX - 1 {
        b = b.value(&format!("k{i}"), 0, &[1]);
    }
    let bytes = b.bytes();
    let start = Instant::now();
    let h = parse(&bytes).expect("good");
    let took = start.elapsed();
    assert_eq!(
        h.meta.strings("tokenizer.ggml.tokens").expect("typed").expect("there").get(n as usize - 1),
        Some(format!("token{}", n - 1).as_bytes())
    );
    // Some 30 ms here; quadratic insertion would take many seconds.
    assert!(took < Duration::from_secs(2), "{took:?}");
}

// A sparse file may claim any size for free: the header is bounded all the same.
#[test]
fn the_header_is_bounded_whatever_the_files_size() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sparse.gguf");
    // 20 arrays of 16 Mi bytes of zeros between their heads: 320 MiB of header.
    let f = File::create(&path).expect("created");
    use std::os::unix::fs::FileExt;
    let head = Build { n_keys: Some(20), ..Build::default() }.bytes();
    f.write_all_at(&head, 0).expect("written");
    let mut at = head.len() as u64;
    for i in 0..20 {
        let part = [
            &string(format!("key{i}").as_bytes())[..],
            &9u32.to_le_bytes(),
            &0u32.to_le_bytes(),
            &limits::GGUF_ARRAY_MAX.to_le_bytes(),
        ]
        .concat();
        f.write_all_at(&part, at).expect("written");
        at += part.len() as u64 + limits::GGUF_ARRAY_MAX;
    }
    f.set_len(1 << 40).expect("sparse");
    says(Gguf::open(&path).expect_err("refused"), &["sparse.gguf", "size of the header"]);
}

/// Writes a model of `n` parts, each with one tensor; `edit` may spoil a part.
fn split(dir: &Path, n: u16, edit: impl Fn(u16, Build) -> Build) -> Vec<std::path::PathBuf> {
    (0..n)
        .map(|i| {
            let b = Build::default()
                .value("split.no", 2, &i.to_le_bytes())
                .value("split.count", 2, &n.to_le_bytes())
                .value("split.tensors.count", 5, &i32::from(n).to_le_bytes())
                .tensor(&format!("t{i}"), GgmlType::F32, &[8], &[i as u8 + 1; 32]);
            let path = dir.join(format!("m-{:05}-of-{n:05}.gguf", i + 1));
            std::fs::write(&path, edit(i, b).bytes()).expect("written");
            path
        })
        .collect()
}

#[test]
fn parts_are_found_beside_the_first_or_passed_in_any_order() {
    let dir = tempfile::tempdir().expect("a folder");
    let paths = split(dir.path(), 3, |_, b| b);
    let g = Gguf::open(&paths[0]).expect("opened");
    assert_eq!(g.tensors.iter().map(|t| t.data.bytes()[0]).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(g.maps.len(), 3);
    let files = |order: &[usize]| -> Vec<(File, String)> {
        order.iter().map(|&i| (File::open(&paths[i]).expect("opened"), paths[i].display().to_string())).collect()
    };
    let g = Gguf::from_files(files(&[2, 0, 1])).expect("opened");
    assert_eq!(g.tensor("t2").expect("there").data.bytes(), [3; 32]);
    says(Gguf::from_files(files(&[0, 2])).expect_err("one is missing"), &["part 2 of 3", "m-00002-of-00003.gguf"]);
    says(Gguf::from_files(files(&[0, 1])).expect_err("one is missing"), &["part 3 of 3"]);
    says(Gguf::from_files(files(&[1, 2])).expect_err("one is missing"), &["part 1 of 3", "m-00001-of-00003.gguf"]);
    says(Gguf::from_files(files(&[0, 1, 1, 2])).expect_err("one twice"), &["part 2"]);
    says(Gguf::from_files(Vec::new()).expect_err("none"), &["no part"]);
    says(
        Gguf::open(&paths[1]).expect_err("not the first"),
        &["part 2 of 3", "load its first part, m-00001-of-00003.gguf"],
    );
    std::fs::remove_file(&paths[2]).expect("removed");
    says(Gguf::open(&paths[0]).expect_err("one is missing"), &["part 3 of 3", "m-00003-of-00003.gguf"]);
    let renamed = dir.path().join("other.gguf");
    std::fs::rename(&paths[0], &renamed).expect("renamed");
    says(Gguf::open(&renamed).expect_err("renamed"), &["other.gguf", "names back"]);
}

#[test]
fn parts_of_different_models_are_not_joined() {
    let dir = tempfile::tempdir().expect("a folder");
    let spoil = |edit: &dyn Fn(u16, Build) -> Build| {
        let paths = split(dir.path(), 2, edit);
        Gguf::open(&paths[0]).expect_err("spoiled")
    };
    let t = |b: Build, name: &str| b.tensor(name, GgmlType::F32, &[8], &[0; 32]);
    says(spoil(&|i, b| if i == 1 { t(b, "extra") } else { b }), &["3 tensors", "says 2"]);
    let keys = |no: u16, n: u16| {
        Build::default().value("split.no", 2, &no.to_le_bytes()).value("split.count", 2, &n.to_le_bytes())
    };
    says(spoil(&|i, b| if i == 1 { t(keys(1, 3), "x") } else { b }), &["-00002-of-00002", "3 parts"]);
    says(spoil(&|i, b| if i == 1 { t(Build::default(), "x") } else { b }), &["-00002-of-00002"]);
    says(spoil(&|i, b| if i == 1 { t(keys(1, 2), "t0") } else { b }), &["`t0`", "another part"]);
    says(spoil(&|i, b| if i == 0 { t(keys(0, 60_000), "x") } else { b }), &["60000"]);
    says(spoil(&|i, b| if i == 0 { t(keys(7, 2), "x") } else { b }), &["part 8 of 2"]);
    let paths = split(dir.path(), 2, |_, b| b);
    std::fs::write(&paths[1], b"GGUF").expect("written");
    says(Gguf::open(&paths[0]).expect_err("cut"), &["-00002-of-00002", "too early"]);
    says(Gguf::open(&dir.path().join("none.gguf")).expect_err("absent"), &["none.gguf", "cannot open"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn flipped_bytes_never_panic_and_never_point_outside(
        flips in proptest::collection::vec((0usize..400, any::<u8>()), 1..8),
        cut in 0usize..500,
    ) {
        let mut bytes = Build::small().bytes();
        let len = bytes.len();
        for (at, v) in flips {
            bytes[at % len] = v;
        }
        bytes.truncate(cut.max(24));
        if let Ok(h) = parse(&bytes) {
            for t in &h.tensors {
                prop_assert!(t.start >= h.data_start && t.start + t.bytes <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn large_numbers_anywhere_never_panic(at in 4usize..400, v in prop::sample::select(vec![
        u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 32, u64::from(u32::MAX), 1 << 61, 0, 1])) {
        let mut bytes = Build::small().bytes();
        let at = at.min(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&v.to_le_bytes());
        if let Ok(h) = parse(&bytes) {
            for t in &h.tensors {
                prop_assert!(t.start + t.bytes <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn noise_behind_the_magic_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&[&b"GGUF\x03\0\0\0"[..], &noise].concat());
    }
}
