//! A loaded code object: memory image, decoded code, kernels.

use crate::decode::Code;
use crate::elf::{Elf, Refusal};
use crate::note::{self, Value};
use std::collections::HashMap;
use std::io::Write;
use std::ops::Deref;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// Code at its place in memory.
pub struct Program {
    code: Arc<Code>,
    /// Host address of the image's address 0.
    pub base: u64,
}

impl Deref for Program {
    type Target = Code;

    fn deref(&self) -> &Code {
        &self.code
    }
}

/// An argument.
#[derive(Clone, Debug)]
pub struct Argument {
    /// Offset in the argument block.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// `by_value`, `global_buffer`, `hidden_...`.
    pub kind: String,
}

/// A kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Name.
    pub name: String,
    /// Index of the first instruction.
    pub entry: u32,
    /// Arguments, hidden ones included.
    pub arguments: Vec<Argument>,
    /// Bytes of the argument block.
    pub argument_bytes: usize,
    /// Static local memory.
    pub lds: usize,
    /// Private memory a lane.
    pub private: usize,
    /// Most threads of a block.
    pub max_threads: u32,
    /// Vector registers.
    pub vgprs: usize,
    /// Scalar registers.
    pub sgprs: usize,
    /// Second program resource word of the descriptor.
    pub rsrc2: u32,
    /// Which user registers the kernel expects.
    pub properties: u16,
}

/// A loaded module. The image lives as long as it does.
pub struct Module {
    /// Code.
    pub program: Program,
    /// Kernels by name.
    pub kernels: HashMap<String, Arc<Kernel>>,
    /// Dynamic symbols: name and host address.
    pub symbols: Vec<(String, u64)>,
    image: Vec<u64>,
}

/// Whether this CPU has what the interpreter is compiled for.
pub fn supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("lzcnt")
    }
    #[cfg(not(target_arch = "x86_64"))]
    true
}

fn disassemble(bytes: &[u8]) -> Result<String, String> {
    let tool = std::env::var("ROCMFORGE_LLVM_OBJDUMP").unwrap_or_else(|_| "llvm-objdump-19".into());
    let mut child = Command::new(&tool)
        .args(["-d", "--mcpu=gfx1100", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{tool} does not start: {e}; ROCMFORGE_LLVM_OBJDUMP names another"))?;
    let stdin = child.stdin.take();
    let image = bytes.to_vec();
    // A tool that does not read its input to the end says so on its own; the write error adds nothing.
    let feed = std::thread::spawn(move || stdin.map(|mut s| s.write_all(&image)));
    let out = child.wait_with_output().map_err(|e| format!("{tool}: {e}"))?;
    drop(feed.join());
    if !out.status.success() {
        return Err(format!("{tool} fails: {}", String::from_utf8_lossy(&out.stderr).trim()));
    }
    String::from_utf8(out.stdout).map_err(|e| format!("{tool}: {e}"))
}

/// Decoded code of every image seen: tests load the same objects again and again.
static SEEN: Mutex<Vec<(Vec<u8>, Arc<Code>)>> = Mutex::new(Vec::new());

fn decode(bytes: &[u8]) -> Result<Arc<Code>, String> {
    let mut seen = SEEN.lock().unwrap_or_else(|e| e.into_inner());
    if let Some((_, code)) = seen.iter().find(|(b, _)| b == bytes) {
        return Ok(code.clone());
    }
    let code = Arc::new(Code::new(&disassemble(bytes)?)?);
    seen.push((bytes.to_vec(), code.clone()));
    Ok(code)
}

fn kernel(elf: &Elf, code: &Code, k: &Value) -> Result<Kernel, String> {
    let name = k.text(".name").to_string();
    let symbol = k.text(".symbol");
    let find = elf.symbols.iter().find(|(n, _)| n == symbol);
    let at = find.map(|s| s.1).ok_or_else(|| format!("{name}: no symbol {symbol}"))?;
    let d = elf.at(at).and_then(|d| d.get(..64)).ok_or_else(|| format!("{name}: no descriptor"))?;
    let word = |o: usize| u32::from_le_bytes([d[o], d[o + 1], d[o + 2], d[o + 3]]);
    let relative = u64::from(word(16)) | u64::from(word(20)) << 32;
    let entry = at.wrapping_add(relative);
    let entry = *code.index.get(&entry).ok_or_else(|| format!("{name}: no code at its entry {entry:#x}"))?;
    if k.int(".wavefront_size") != 32 {
        return Err(format!("{name}: waves of {} lanes; only 32 are executed", k.int(".wavefront_size")));
    }
    let arguments = k.list(".args").iter().map(|a| Argument {
        offset: a.int(".offset") as usize,
        size: a.int(".size") as usize,
        kind: a.text(".value_kind").to_string(),
    });
    Ok(Kernel {
        arguments: arguments.collect(),
        entry,
        argument_bytes: k.int(".kernarg_segment_size") as usize,
        lds: k.int(".group_segment_fixed_size") as usize,
        private: k.int(".private_segment_fixed_size") as usize,
        max_threads: k.int(".max_flat_workgroup_size") as u32,
        vgprs: k.int(".vgpr_count") as usize,
        sgprs: k.int(".sgpr_count") as usize,
        rsrc2: word(52),
        properties: word(56) as u16,
        name,
    })
}

impl Module {
    /// Loads an image.
    pub fn load(bytes: &[u8]) -> Result<Module, Refusal> {
        let elf = Elf::parse(bytes)?;
        if !supported() {
            return Err(Refusal::Invalid("this CPU lacks AVX2, FMA or F16C, which the interpreter needs".into()));
        }
        let code = decode(bytes).map_err(Refusal::Invalid)?;
        let end = elf.load.iter().map(|s| s.address as usize + s.size).max().unwrap_or(0);
        // Rounded up to pages, so that constants keep their alignment.
        let mut image = vec![0u64; end / 8 + 1024];
        let base = (image.as_ptr() as u64).next_multiple_of(4096);
        let start = (base - image.as_ptr() as u64) as usize;
        // SAFETY: the vector's whole memory, as bytes.
        let space = unsafe { std::slice::from_raw_parts_mut(image.as_mut_ptr().cast::<u8>(), image.len() * 8) };
        for s in &elf.load {
            let to = start + s.address as usize;
            space[to..to + s.file_size].copy_from_slice(&bytes[s.offset..s.offset + s.file_size]);
        }
        for &(at, ty, symbol, addend) in &elf.relocations {
            let value = match ty {
                // R_AMDGPU_ABS64, R_AMDGPU_RELATIVE64
                3 => base.wrapping_add(symbol).wrapping_add(addend as u64),
                13 => base.wrapping_add(addend as u64),
                _ => return Err(Refusal::Invalid(format!("relocation of type {ty}"))),
            };
            let to = start + at as usize;
            match space.get_mut(to..to + 8) {
                Some(place) => place.copy_from_slice(&value.to_le_bytes()),
                None => return Err(Refusal::Invalid(format!("relocation at {at:#x}, outside of the image"))),
            }
        }
        let note = note::parse(elf.note).ok_or_else(|| Refusal::Invalid("the metadata note is broken".into()))?;
        let mut kernels = HashMap::new();
        for k in note.list("amdhsa.kernels") {
            let k = kernel(&elf, &code, k).map_err(Refusal::Invalid)?;
            kernels.insert(k.name.clone(), Arc::new(k));
        }
        let symbols = elf.symbols.iter().map(|(n, v)| (n.clone(), base + v)).collect();
        Ok(Module { program: Program { code, base }, kernels, symbols, image })
    }

    /// First and last-but-one address of the image.
    pub fn range(&self) -> (u64, u64) {
        (self.program.base, self.image.as_ptr() as u64 + 8 * self.image.len() as u64)
    }
}
