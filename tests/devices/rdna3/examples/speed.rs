//! How fast a kernel is executed, on one thread.

use amdhip64::launch::Launch;
use amdhip64::memory::{Map, Range, Use};
use amdhip64::module::Module;
use amdhip64::options::Options;

/// Seconds of CPU that this process has had: the machine may be shared.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) * 1e-9
}

fn main() {
    // speed OBJECT KERNEL GRID BLOCK BYTES...: a buffer of BYTES for each argument, or =N for a number.
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [object, name, grid, block, rest @ ..] = args.as_slice() else {
        eprintln!("speed OBJECT KERNEL GRID BLOCK [BYTES | =NUMBER]...");
        return;
    };
    let bytes = std::fs::read(object).expect("readable object");
    let module = Module::load(&bytes).unwrap_or_else(|e| panic!("{e:?}"));
    let kernel = module.kernels.get(name).expect("a kernel of the object");
    let explicit = kernel.arguments.iter().filter(|a| !a.kind.starts_with("hidden_"));
    let (mut buffers, mut block_bytes) = (Vec::new(), vec![0u8; kernel.argument_bytes]);
    let mut map = Map::default();
    let (start, end) = module.range();
    map.live.push(Range { start, end, of: Use::Image });
    for (a, text) in explicit.zip(rest) {
        let value = match text.strip_prefix('=') {
            Some(n) => n.parse::<u64>().expect("a number"),
            None => {
                let n = text.parse::<usize>().expect("a size");
                buffers.push(vec![1u64; n.div_ceil(8)]);
                let start = buffers.last().map_or(0, |b: &Vec<u64>| b.as_ptr() as u64);
                map.live.push(Range { start, end: start + n as u64, of: Use::Device });
                start
            }
        };
        block_bytes[a.offset..a.offset + a.size].copy_from_slice(&value.to_le_bytes()[..a.size]);
    }
    map.live.sort_by_key(|r| r.start);
    let number = |t: &String| t.parse::<u32>().expect("a number");
    let launch = Launch {
        module: &module,
        kernel,
        grid: [number(grid), 1, 1],
        block: [number(block), 1, 1],
        arguments: &block_bytes,
        lds: 0,
    };
    let options = Options { threads: 1, ..Options::default() };
    for _ in 0..5 {
        let start = cpu();
        match launch.run(&map, &options) {
            Ok(s) => {
                let t = cpu() - start;
                println!("{name}: {} wave instructions, {:.1} M/s", s.instructions, s.instructions as f64 / t / 1e6);
            }
            Err(f) => return println!("{f}"),
        }
    }
}
