//! Code objects made on the spot with clang, and launches of their kernels.

#![allow(dead_code, reason = "each test program uses its share")]
#![allow(clippy::unwrap_used, reason = "clippy knows test functions, not what they call")]

use amdhip64::fault::Fault;
use amdhip64::launch::Launch;
use amdhip64::memory::{Memory, Use};
use amdhip64::module::Module;
use amdhip64::options::{Options, Order};
use amdhip64::stats::Stats;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file name of this process's own.
fn fresh(suffix: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("rdna3-{}-{n}.{suffix}", std::process::id()))
}

/// Runs clang on `source` and gives the code object.
fn clang(source: &str, flags: &[&str]) -> Vec<u8> {
    let out = fresh("hsaco");
    let tool = std::env::var("ROCMFORGE_CLANG").unwrap_or_else(|_| "clang++-19".into());
    let mut child = Command::new(&tool)
        .args(flags)
        .args(["-", "-o"])
        .arg(&out)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{tool}: {e}"));
    child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{tool} fails on:\n{source}");
    let bytes = std::fs::read(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    bytes
}

/// Assembles kernels: name, size of the argument block, local memory, body.
pub fn assemble(kernels: &[(&str, u32, u32, String)]) -> Vec<u8> {
    let mut text = String::from(".amdgcn_target \"amdgcn-amd-amdhsa--gfx1100\"\n.text\n");
    let mut notes = String::new();
    for (name, args, lds, body) in kernels {
        text += &format!(
            ".globl {name}\n.p2align 8\n.type {name},@function\n{name}:\n{body}\ns_endpgm\n.size {name}, .-{name}\n\
             .rodata\n.p2align 6\n.amdhsa_kernel {name}\n.amdhsa_group_segment_fixed_size {lds}\n\
             .amdhsa_user_sgpr_kernarg_segment_ptr 1\n.amdhsa_next_free_vgpr 128\n.amdhsa_next_free_sgpr 96\n\
             .amdhsa_wavefront_size32 1\n.end_amdhsa_kernel\n.text\n"
        );
        let list: String = (0..args / 8)
            .map(|k| format!("      - .offset: {}\n        .size: 8\n        .value_kind: by_value\n", 8 * k))
            .collect();
        notes += &format!(
            "  - .name: {name}\n    .symbol: {name}.kd\n    .kernarg_segment_size: {args}\n    .kernarg_segment_align: 8\n\
             \x20   .group_segment_fixed_size: {lds}\n    .private_segment_fixed_size: 0\n    .wavefront_size: 32\n\
             \x20   .sgpr_count: 96\n    .vgpr_count: 128\n    .max_flat_workgroup_size: 1024\n    .args:\n{list}"
        );
    }
    text += &format!(
        ".amdgpu_metadata\n---\namdhsa.version: [1, 2]\namdhsa.target: amdgcn-amd-amdhsa--gfx1100\namdhsa.kernels:\n\
         {notes}...\n.end_amdgpu_metadata\n"
    );
    clang(&text, &["-x", "assembler", "-target", "amdgcn-amd-amdhsa", "-mcpu=gfx1100", "-mcode-object-version=5"])
}

/// Compiles HIP source with the flags of the shipped kernels.
pub fn compile(source: &str) -> Vec<u8> {
    let prelude = "typedef unsigned int u32; typedef int i32; typedef unsigned long u64; typedef _Float16 f16;\n\
                   #define KERNEL extern \"C\" __attribute__((global)) __attribute__((amdgpu_flat_work_group_size(1, 1024)))\n\
                   #define SHARED __attribute__((shared))\n\
                   #define DEVICE static inline __attribute__((device, always_inline))\n\
                   DEVICE u32 tid() { return __builtin_amdgcn_workitem_id_x(); }\n\
                   DEVICE u32 bid() { return __builtin_amdgcn_workgroup_id_x(); }\n\
                   DEVICE void barrier() { asm volatile(\"s_waitcnt lgkmcnt(0)\\n\\ts_barrier\" ::: \"memory\"); }\n";
    let flags = [
        "-x",
        "hip",
        "--offload-arch=gfx1100",
        "--cuda-device-only",
        "--no-gpu-bundle-output",
        "-nogpulib",
        "-nogpuinc",
        "-fuse-cuid=none",
        "-mcode-object-version=5",
        "-munsafe-fp-atomics",
        "-O3",
        "-std=c++17",
        "-ffast-math",
        "-fhonor-infinities",
        "-fhonor-nans",
    ];
    clang(&format!("{prelude}{source}"), &flags)
}

/// A module with memory for its kernels.
pub struct Bench {
    /// The module.
    pub module: Module,
    /// Memory.
    pub memory: Memory,
}

impl Bench {
    /// Loads an image.
    pub fn new(image: &[u8]) -> Bench {
        let module = Module::load(image).unwrap_or_else(|e| panic!("{e:?}"));
        let mut memory = Memory::new(1 << 30);
        let (start, end) = module.range();
        memory.add(amdhip64::memory::Range { start, end, of: Use::Image });
        Bench { module, memory }
    }

    /// A buffer with the bytes of `data`.
    pub fn buffer<T: Copy>(&mut self, data: &[T]) -> u64 {
        let at = self.memory.allocate(size_of_val(data) as u64, Use::Device).unwrap();
        // SAFETY: just allocated, as large.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), at as *mut T, data.len()) };
        at
    }

    /// `n` elements of a buffer.
    pub fn read<T: Copy>(&self, at: u64, n: usize) -> Vec<T> {
        assert!(self.memory.find(at, (n * size_of::<T>()) as u64).is_some());
        // SAFETY: a live allocation, checked above.
        unsafe { std::slice::from_raw_parts(at as *const T, n) }.to_vec()
    }

    /// Launches with the given arguments, 8 bytes each.
    pub fn launch(&mut self, kernel: &str, grid: u32, block: u32, args: &[u64], o: &Options) -> Result<Stats, Fault> {
        let bytes: Vec<u8> = args.iter().flat_map(|a| a.to_le_bytes()).collect();
        self.launch_bytes(kernel, grid, block, &bytes, o)
    }

    /// Launches with an argument block.
    pub fn launch_bytes(
        &mut self,
        kernel: &str,
        grid: u32,
        block: u32,
        args: &[u8],
        o: &Options,
    ) -> Result<Stats, Fault> {
        let map = self.memory.map();
        let kernel = self.module.kernels[kernel].clone();
        let launch = Launch {
            module: &self.module,
            kernel: &kernel,
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            arguments: args,
            lds: 0,
        };
        launch.run(&map, o)
    }
}

/// Options for one thread.
pub fn options(order: Order) -> Options {
    Options { threads: 1, order, ..Options::default() }
}

/// Numbers that are the same in every run.
pub struct Random(pub u64);

impl Random {
    /// The next 32 bits.
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// A number of moderate size with either sign.
    pub fn float(&mut self) -> f32 {
        let magnitude = f32::exp2((self.bits() % 1600) as f32 / 100.0 - 8.0);
        if self.bits() & 1 == 0 { magnitude } else { -magnitude }
    }
}
