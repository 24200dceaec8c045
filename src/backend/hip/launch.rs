//! Arguments of a launch, laid out as the kernel's metadata says and checked against it.

use thiserror::Error;

use super::metadata::{ArgKind, KernelInfo};

/// One argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// An address of device memory; 0 is none.
    Address(u64),
    /// A number of 4 bytes.
    U32(u32),
    /// A number of 4 bytes.
    F32(f32),
}

/// A launch that does not fit its kernel: a mistake of ours, or kernels of another version.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadLaunch {
    /// Too few arguments or too many.
    #[error("kernel {kernel} takes {takes} arguments, not {given}")]
    Count {
        /// The kernel.
        kernel: String,
        /// How many it has.
        takes: usize,
        /// How many it was to get.
        given: usize,
    },
    /// An argument is of another kind or size.
    #[error("argument {index} of kernel {kernel} is a {takes}, not a {given}")]
    Argument {
        /// The kernel.
        kernel: String,
        /// Which, from 0.
        index: usize,
        /// What it is.
        takes: String,
        /// What it was to be.
        given: &'static str,
    },
    /// The arguments' places make no sense.
    #[error("argument {index} of kernel {kernel} lies outside of its {bytes} bytes of arguments")]
    Place {
        /// The kernel.
        kernel: String,
        /// Which, from 0.
        index: usize,
        /// Bytes of all arguments.
        bytes: u32,
    },
    /// The block is larger than the kernel was compiled for.
    #[error("kernel {kernel} takes blocks of up to {most} threads, not {given}")]
    Block {
        /// The kernel.
        kernel: String,
        /// Most threads.
        most: u32,
        /// Threads that it was to get.
        given: u32,
    },
}

/// Most bytes of arguments that are believed (HIP's own limit is 4 KiB).
const KERNARG_MAX: u32 = 4096;

/// Appends `values` to `out` as the arguments of `kernel`; returns where each begins in them.
///
/// # Errors
/// [`BadLaunch`] if they do not fit.
pub fn pack(kernel: &KernelInfo, block: u32, values: &[Value], out: &mut Vec<u8>) -> Result<Vec<u32>, BadLaunch> {
    if block == 0 || block > kernel.max_block {
        return Err(BadLaunch::Block { kernel: kernel.name.clone(), most: kernel.max_block, given: block });
    }
    if values.len() != kernel.args.len() {
        let (takes, given) = (kernel.args.len(), values.len());
        return Err(BadLaunch::Count { kernel: kernel.name.clone(), takes, given });
    }
    let (start, bytes) = (out.len(), kernel.kernarg_bytes);
    if bytes > KERNARG_MAX {
        return Err(BadLaunch::Place { kernel: kernel.name.clone(), index: 0, bytes });
    }
    out.resize(start + bytes as usize, 0);
    let mut offsets = Vec::with_capacity(values.len());
    for (index, (arg, value)) in kernel.args.iter().zip(values).enumerate() {
        let (kind, size, given) = match value {
            Value::Address(_) => (ArgKind::Pointer, 8, "pointer of 8 bytes"),
            Value::U32(_) | Value::F32(_) => (ArgKind::Value, 4, "value of 4 bytes"),
        };
        if (arg.kind, arg.bytes) != (kind, size) {
            let kind = match arg.kind {
                ArgKind::Value => "value",
                ArgKind::Pointer => "pointer",
                ArgKind::Hidden => "hidden argument",
            };
            let takes = format!("{kind} of {} bytes", arg.bytes);
            let kernel = kernel.name.clone();
            return Err(BadLaunch::Argument { kernel, index, takes, given });
        }
        let to = arg.offset.checked_add(size).filter(|end| *end <= bytes && arg.offset % size == 0);
        if to.is_none() {
            return Err(BadLaunch::Place { kernel: kernel.name.clone(), index, bytes });
        }
        put(&mut out[start..], arg.offset, *value);
        offsets.push(arg.offset);
    }
    Ok(offsets)
}

/// Writes `value` at `offset` of a launch's arguments.
///
/// # Panics
/// If it is not inside of them: offsets come from [`pack`].
pub fn put(kernarg: &mut [u8], offset: u32, value: Value) {
    let at = offset as usize;
    match value {
        Value::Address(v) => kernarg[at..at + 8].copy_from_slice(&v.to_le_bytes()),
        Value::U32(v) => kernarg[at..at + 4].copy_from_slice(&v.to_le_bytes()),
        Value::F32(v) => kernarg[at..at + 4].copy_from_slice(&v.to_le_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::metadata::ArgInfo;
    use super::*;

    fn kernel() -> KernelInfo {
        let arg = |offset, bytes, kind| ArgInfo { offset, bytes, kind };
        KernelInfo {
            name: "scale_rows".to_owned(),
            args: vec![arg(0, 8, ArgKind::Pointer), arg(8, 4, ArgKind::Value), arg(12, 4, ArgKind::Value)],
            kernarg_bytes: 16,
            max_block: 256,
            lds_bytes: 0,
            scratch_bytes: 0,
            wave: 32,
            vgprs: 8,
            sgprs: 16,
            spills: 0,
        }
    }

    const GOOD: [Value; 3] = [Value::Address(0x1122_3344_5566), Value::F32(1.5), Value::U32(7)];

    #[test]
    fn arguments_lie_where_the_metadata_says() {
        let mut bytes = vec![9];
        assert_eq!(pack(&kernel(), 256, &GOOD, &mut bytes), Ok(vec![0, 8, 12]));
        assert_eq!(bytes.len(), 17);
        assert_eq!(bytes[1..9], 0x1122_3344_5566u64.to_le_bytes());
        assert_eq!(bytes[9..13], 1.5f32.to_le_bytes());
        put(&mut bytes[1..], 12, Value::U32(8));
        assert_eq!(bytes[13..17], 8u32.to_le_bytes());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let says = |change: &dyn Fn(&mut KernelInfo), block, values: &[Value]| {
            let mut kernel = kernel();
            change(&mut kernel);
            pack(&kernel, block, values, &mut Vec::new()).expect_err("does not fit").to_string()
        };
        assert!(says(&|_| {}, 256, &GOOD[..2]).contains("takes 3 arguments, not 2"));
        assert!(says(&|_| {}, 257, &GOOD).contains("up to 256 threads, not 257"));
        let swapped = [GOOD[0], GOOD[0], GOOD[2]];
        assert!(says(&|_| {}, 1, &swapped).contains("argument 1 of kernel scale_rows is a value of 4 bytes"));
        assert!(says(&|k| k.args[2].offset = 16, 1, &GOOD).contains("argument 2 of kernel scale_rows lies outside"));
        assert!(says(&|k| k.args[1].offset = 9, 1, &GOOD).contains("argument 1"));
        assert!(says(&|k| k.args[2].kind = ArgKind::Hidden, 1, &GOOD).contains("hidden argument of 4 bytes"));
        assert!(says(&|k| k.kernarg_bytes = u32::MAX, 1, &GOOD).contains("lies outside"));
    }
}
