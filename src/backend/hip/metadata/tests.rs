//! Metadata of objects made by hand and by clang, whole and damaged.

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// MessagePack, written.
#[derive(Clone)]
enum Item {
    Number(u64),
    Text(&'static str),
    List(Vec<Item>),
    Pairs(Vec<(&'static str, Item)>),
}

impl Item {
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Item::Number(n) if *n < 128 => to.push(*n as u8),
            Item::Number(n) => {
                to.push(0xce);
                to.extend((*n as u32).to_be_bytes());
            }
            Item::Text(text) => {
                to.extend([0xd9, text.len() as u8]);
                to.extend(text.as_bytes());
            }
            Item::List(items) => {
                to.push(0xdc);
                to.extend((items.len() as u16).to_be_bytes());
                items.iter().for_each(|item| item.write(to));
            }
            Item::Pairs(pairs) => {
                to.push(0x80 | pairs.len() as u8);
                for (key, value) in pairs {
                    Item::Text(key).write(to);
                    value.write(to);
                }
            }
        }
    }
}

/// An object for gfx1100 with the kernel `add_rows`, as clang writes it.
fn object() -> Vec<u8> {
    let arg = |name, offset, size, kind| {
        Item::Pairs(vec![
            (".name", Item::Text(name)),
            (".offset", Item::Number(offset)),
            (".size", Item::Number(size)),
            (".value_kind", Item::Text(kind)),
        ])
    };
    let kernel = Item::Pairs(vec![
        (".name", Item::Text("add_rows")),
        (".args", Item::List(vec![arg("a", 0, 8, "global_buffer"), arg("n", 8, 4, "by_value")])),
        (".kernarg_segment_size", Item::Number(12)),
        (".max_flat_workgroup_size", Item::Number(256)),
        (".group_segment_fixed_size", Item::Number(0)),
        (".private_segment_fixed_size", Item::Number(0)),
        (".wavefront_size", Item::Number(32)),
        (".vgpr_count", Item::Number(9)),
        (".sgpr_count", Item::Number(18)),
        (".vgpr_spill_count", Item::Number(0)),
    ]);
    let root = Item::Pairs(vec![
        ("amdhsa.kernels", Item::List(vec![kernel])),
        ("amdhsa.target", Item::Text("amdgcn-amd-amdhsa--gfx1100:xnack-")),
        ("amdhsa.version", Item::List(vec![Item::Number(1), Item::Number(2)])),
    ]);
    let mut description = Vec::new();
    root.write(&mut description);
    let mut notes = Vec::new();
    for (name, kind, description) in [("GNU", 3u32, &b"12345"[..]), ("AMDGPU", 32, &description)] {
        notes.extend((name.len() as u32 + 1).to_le_bytes());
        notes.extend((description.len() as u32).to_le_bytes());
        notes.extend(kind.to_le_bytes());
        notes.extend(name.as_bytes());
        notes.push(0);
        notes.resize(notes.len().next_multiple_of(4), 0);
        notes.extend(description);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
    let mut elf = vec![0; 64 + 56];
    elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    elf[18..20].copy_from_slice(&224u16.to_le_bytes());
    elf[32..40].copy_from_slice(&64u64.to_le_bytes());
    elf[54..56].copy_from_slice(&56u16.to_le_bytes());
    elf[56..58].copy_from_slice(&1u16.to_le_bytes());
    elf[64..68].copy_from_slice(&4u32.to_le_bytes());
    elf[72..80].copy_from_slice(&120u64.to_le_bytes());
    elf[96..104].copy_from_slice(&(notes.len() as u64).to_le_bytes());
    elf.extend(notes);
    elf
}

#[test]
fn an_object_says_what_is_in_it() {
    let object = CodeObject::read(&object()).expect("sound");
    assert_eq!(object.arch, "gfx1100");
    let arg = |offset, bytes, kind| ArgInfo { offset, bytes, kind };
    let kernel = KernelInfo {
        name: "add_rows".to_owned(),
        args: vec![arg(0, 8, ArgKind::Pointer), arg(8, 4, ArgKind::Value)],
        kernarg_bytes: 12,
        max_block: 256,
        lds_bytes: 0,
        scratch_bytes: 0,
        wave: 32,
        vgprs: 9,
        sgprs: 18,
        spills: 0,
    };
    assert_eq!(object.kernels, [kernel]);
}

#[test]
fn what_is_no_object_is_refused() {
    let says = |bytes: &[u8]| CodeObject::read(bytes).expect_err("not sound").to_string();
    assert!(says(b"").contains("no 64-bit ELF file"));
    let mut other = object();
    other[18] = 62;
    assert!(says(&other).contains("no code for an AMD GPU"));
    let mut none = object();
    none[56] = 0;
    assert!(says(&none).contains("no metadata"));
    // Nested without end.
    let at = object().len();
    let mut deep = object();
    deep.extend([0x91; 600]);
    deep[96..104].copy_from_slice(&((at - 120 + 600) as u64).to_le_bytes());
    assert!(CodeObject::read(&deep).is_ok(), "bytes after the note do not matter");
    assert!(msgpack::read(&[0x91; 600]).expect_err("too deep").0.contains("deeply"));
    assert!(msgpack::read(&[0xdd, 0xff, 0xff, 0xff, 0xff, 1]).expect_err("cut").0.contains("cut short"));
}

#[test]
fn numbers_of_all_sizes() {
    use msgpack::Value::{Negative, Other, Unsigned};
    fn read(bytes: &[u8]) -> msgpack::Value<'_> {
        msgpack::read(bytes).expect("a value")
    }
    assert_eq!(read(&[0xcc, 200]), Unsigned(200));
    assert_eq!(read(&[0xcf, 0, 0, 0, 1, 0, 0, 0, 2]), Unsigned((1 << 32) + 2));
    assert_eq!(read(&[0xd1, 1, 0]), Unsigned(256));
    assert_eq!(read(&[0xd0, 0xff]), Negative);
    assert_eq!(read(&[0xe0]), Negative);
    assert_eq!(read(&[0xc0]), Other);
    for (bytes, rest) in [(&[0xc5, 0, 2, 9, 9][..], 1), (&[0xd6, 1, 2, 3, 4, 5], 1), (&[0xc7, 1, 5, 9], 1)] {
        let mut list = vec![0x92];
        list.extend(bytes);
        list.push(rest);
        assert_eq!(read(&list), msgpack::Value::Array(vec![Other, Unsigned(1)]));
    }
}

proptest! {
    /// Damaged bytes are refused or read as something, without a panic and without much memory.
    #[test]
    fn damage_is_survived(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>()) {
        let mut bytes = object();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = CodeObject::read(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(CodeObject::read(&bytes).is_err() || bytes.len() > 200);
    }

    #[test]
    fn anything_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = msgpack::read(&bytes);
    }
}

/// Compiles `source` for gfx1100; `None`, said aloud, where there is no clang that can.
fn compile(dir: &Path, source: &str) -> Option<Vec<u8>> {
    let (from, to) = (dir.join("k.hip"), dir.join("k.hsaco"));
    std::fs::write(&from, source).expect("written");
    let done = ["clang++-19", "clang++-20", "clang++-21", "clang++"].into_iter().any(|clang| {
        let flags = "-x hip --offload-arch=gfx1100 --cuda-device-only --no-gpu-bundle-output -nogpulib -nogpuinc -fuse-cuid=none \
                     -mcode-object-version=5 -O3 -std=c++17";
        let made = Command::new(clang).args(flags.split_whitespace()).arg(&from).arg("-o").arg(&to).output();
        made.is_ok_and(|m| m.status.success())
    });
    if !done {
        eprintln!("SKIPPED: no clang that compiles for gfx1100");
        return None;
    }
    Some(std::fs::read(&to).expect("an object"))
}

#[test]
fn clang_s_objects_are_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = r#"
        #define KERNEL extern "C" __attribute__((global)) __attribute__((amdgpu_flat_work_group_size(1, 96)))
        KERNEL void one(float *x, const unsigned *n, float factor, unsigned at) { x[at] = factor * n[0]; }
        KERNEL void two(float *x) {
            static __attribute__((shared)) float lds[77];
            unsigned lane = __builtin_amdgcn_workitem_id_x();
            lds[lane] = x[lane];
            __builtin_amdgcn_s_barrier();
            x[lane] = lds[76 - lane];
        }"#;
    let Some(bytes) = compile(dir.path(), source) else { return };
    let object = CodeObject::read(&bytes).expect("sound");
    assert_eq!(object.arch, "gfx1100");
    let kernel = |name: &str| object.kernels.iter().find(|k| k.name == name).expect("both are there");
    let one = kernel("one");
    let args: Vec<_> = one.args.iter().map(|a| (a.offset, a.bytes, a.kind)).collect();
    use ArgKind::{Pointer, Value};
    assert_eq!(args, [(0, 8, Pointer), (8, 8, Pointer), (16, 4, Value), (20, 4, Value)]);
    assert_eq!((one.kernarg_bytes, one.max_block, one.lds_bytes, one.scratch_bytes, one.wave), (24, 96, 0, 0, 32));
    assert_eq!((kernel("two").lds_bytes, kernel("two").spills), (308, 0));
    assert!(one.vgprs > 0 && one.sgprs > 0);
}
