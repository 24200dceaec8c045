//! Modules and launches.

use super::error::{
    INVALID_CONFIGURATION, INVALID_HANDLE, INVALID_IMAGE, INVALID_VALUE, NO_BINARY, NOT_FOUND, OUT_OF_RESOURCES,
};
use super::queue::{Op, Pending};
use super::state::{Function, Outcome, always, api};
use crate::elf::{self, Refusal};
use crate::memory::{Range, Use};
use crate::module::{Kernel, Module};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

/// Most local memory of a block.
const LDS_MAX: usize = 64 << 10;

/// Loads an image; its length is in its section table.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleLoadData(to: *mut *mut c_void, image: *const c_void) -> c_int {
    api(|s| {
        if image.is_null() {
            return Err(INVALID_VALUE);
        }
        let n = elf::length(image.cast()).ok_or(INVALID_IMAGE)?;
        let module = match Module::load(std::slice::from_raw_parts(image.cast(), n)) {
            Ok(m) => Arc::new(m),
            Err(Refusal::OtherChip(mach)) => {
                eprintln!("rdna3: the image is for machine {mach:#x}, not for gfx1100");
                return Err(NO_BINARY);
            }
            Err(Refusal::Invalid(why)) => {
                eprintln!("rdna3: image refused: {why}");
                return Err(INVALID_IMAGE);
            }
        };
        let (start, end) = module.range();
        s.memory.add(Range { start, end, of: Use::Image });
        let h = s.handle();
        s.modules.insert(h, module);
        *to = h as *mut c_void;
        Ok(())
    })
}

/// The same; the options are a just-in-time compiler's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleLoadDataEx(
    to: *mut *mut c_void,
    image: *const c_void,
    _n: c_uint,
    _options: *mut c_int,
    _values: *mut *mut c_void,
) -> c_int {
    hipModuleLoadData(to, image)
}

/// Unloads a module, after all work is done; its functions are no more.
#[unsafe(no_mangle)]
pub extern "C" fn hipModuleUnload(module: *mut c_void) -> c_int {
    always(|s| {
        if s.lost.is_none() {
            s.drain_all()?;
        }
        let m = s.modules.remove(&(module as u64)).ok_or(INVALID_HANDLE)?;
        s.functions.retain(|_, f| !Arc::ptr_eq(&f.module, &m));
        s.memory.remove(m.range().0, Use::Image);
        Ok(())
    })
}

/// A kernel by name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipModuleGetFunction(to: *mut *mut c_void, module: *mut c_void, name: *const c_char) -> c_int {
    api(|s| {
        let m = s.modules.get(&(module as u64)).ok_or(INVALID_HANDLE)?.clone();
        let name = CStr::from_ptr(name).to_str().map_err(|_| NOT_FOUND)?;
        let kernel = m.kernels.get(name).ok_or(NOT_FOUND)?.clone();
        let h = s.handle();
        s.functions.insert(h, Function { module: m, kernel });
        *to = h as *mut c_void;
        Ok(())
    })
}

/// A property of a kernel, by its number in `hipFunction_attribute`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipFuncGetAttribute(to: *mut c_int, attribute: c_int, function: *mut c_void) -> c_int {
    api(|s| {
        let k = &s.functions.get(&(function as u64)).ok_or(INVALID_HANDLE)?.kernel;
        *to = match attribute {
            0 => k.max_threads as c_int,
            1 => k.lds as c_int,
            3 => k.private as c_int,
            4 => k.vgprs as c_int,
            _ => return Err(INVALID_VALUE),
        };
        Ok(())
    })
}

/// Copies the arguments that `params` points to.
unsafe fn from_params(k: &Kernel, params: *mut *mut c_void) -> Vec<u8> {
    let mut out = vec![0; k.argument_bytes];
    for (n, a) in k.arguments.iter().filter(|a| !a.kind.starts_with("hidden_")).enumerate() {
        let from = std::slice::from_raw_parts((*params.add(n)).cast::<u8>(), a.size);
        out[a.offset..a.offset + a.size].copy_from_slice(from);
    }
    out
}

/// Copies the argument block that `extra` describes: pairs of key and value until 3.
unsafe fn from_extra(k: &Kernel, extra: *mut *mut c_void) -> Outcome<Vec<u8>> {
    let (mut buffer, mut size, mut at) = (std::ptr::null::<u8>(), 0usize, 0);
    loop {
        match *extra.add(at) as usize {
            1 => buffer = (*extra.add(at + 1)).cast(),
            2 => size = *(*extra.add(at + 1)).cast::<usize>(),
            3 => break,
            _ => return Err(INVALID_VALUE),
        }
        at += 2;
    }
    let explicit = k.arguments.iter().filter(|a| !a.kind.starts_with("hidden_"));
    let need = explicit.map(|a| a.offset + a.size).max().unwrap_or(0);
    if buffer.is_null() || size < need || size > k.argument_bytes.next_multiple_of(16) {
        eprintln!("rdna3: {}: an argument block of {size} bytes; the kernel takes {need}", k.name);
        return Err(INVALID_VALUE);
    }
    Ok(std::slice::from_raw_parts(buffer, size.min(k.argument_bytes)).to_vec())
}

/// Launches a kernel.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn hipModuleLaunchKernel(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    lds: c_uint,
    stream: *mut c_void,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> c_int {
    api(|s| {
        let stream = s.stream(stream)?;
        let function = s.functions.get(&(function as u64)).ok_or(INVALID_HANDLE)?.clone();
        let k = function.kernel.clone();
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let threads = block.iter().map(|n| u64::from(*n)).product::<u64>();
        let items = (0..3).map(|d| u64::from(grid[d]) * u64::from(block[d])).max().unwrap_or(0);
        if threads == 0 || grid.contains(&0) || threads > u64::from(k.max_threads) || items > u64::from(u32::MAX) {
            eprintln!("rdna3: {}: grid {grid:?} of blocks {block:?}; at most {} threads", k.name, k.max_threads);
            return Err(INVALID_CONFIGURATION);
        }
        if k.lds + lds as usize > LDS_MAX {
            return Err(OUT_OF_RESOURCES);
        }
        let arguments = if !params.is_null() {
            from_params(&k, params)
        } else if !extra.is_null() {
            from_extra(&k, extra)?
        } else if k.arguments.iter().any(|a| !a.kind.starts_with("hidden_")) {
            return Err(INVALID_VALUE);
        } else {
            Vec::new()
        };
        s.enqueue(stream, Op::Launch(Arc::new(Pending { function, grid, block, arguments, lds })))
    })
}
