//! What a code object says about itself: its chip, and each kernel's arguments and resources.
//!
//! clang writes it as a note of the ELF file (MessagePack, "AMDGPU metadata" in LLVM's
//! AMDGPUUsage). Nothing of it is repeated in tables of ours: launches are checked against it.

mod elf;
mod msgpack;

use thiserror::Error;

use self::msgpack::{Map, Value};

/// A code object that cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("damaged code object: {0}")]
pub struct BadObject(pub String);

/// The metadata of a code object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeObject {
    /// `gfx1100`.
    pub arch: String,
    /// Its kernels.
    pub kernels: Vec<KernelInfo>,
}

/// The metadata of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Its name.
    pub name: String,
    /// Its arguments in order.
    pub args: Vec<ArgInfo>,
    /// Bytes of all arguments.
    pub kernarg_bytes: u32,
    /// Most threads of a block.
    pub max_block: u32,
    /// Bytes of LDS of a block.
    pub lds_bytes: u32,
    /// Bytes of scratch memory of a thread.
    pub scratch_bytes: u32,
    /// Lanes of a wave.
    pub wave: u32,
    /// Vector registers.
    pub vgprs: u32,
    /// Scalar registers.
    pub sgprs: u32,
    /// Registers kept in memory for want of others, vector and scalar.
    pub spills: u32,
}

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// A value.
    Value,
    /// An address of device memory.
    Pointer,
    /// One that the runtime would have to fill in: our kernels have none.
    Hidden,
}

/// An argument of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgInfo {
    /// Bytes from the start of the arguments.
    pub offset: u32,
    /// Its size in bytes.
    pub bytes: u32,
    /// What it is.
    pub kind: ArgKind,
}

impl CodeObject {
    /// Reads the metadata of a code object.
    ///
    /// # Errors
    /// [`BadObject`] for anything that is not one.
    pub fn read(bytes: &[u8]) -> Result<Self, BadObject> {
        let note = elf::metadata_note(bytes)?;
        let Value::Map(root) = msgpack::read(note)? else { return Err(BadObject("metadata is no map".to_owned())) };
        // `amdgcn-amd-amdhsa--gfx1100`, with features after colons.
        let target = text(&root, "amdhsa.target")?;
        let arch = target.rsplit("--").next().unwrap_or_default().split(':').next().unwrap_or_default();
        let Some(Value::Array(kernels)) = root.get("amdhsa.kernels") else {
            return Err(BadObject("no list of kernels".to_owned()));
        };
        let kernels = kernels.iter().map(|k| match k {
            Value::Map(k) => kernel(k),
            _ => Err(BadObject("a kernel is no map".to_owned())),
        });
        Ok(Self { arch: arch.to_owned(), kernels: kernels.collect::<Result<_, _>>()? })
    }
}

fn kernel(map: &Map<'_>) -> Result<KernelInfo, BadObject> {
    let name = text(map, ".name")?.to_owned();
    let args = match map.get(".args") {
        None => Vec::new(),
        Some(Value::Array(args)) => {
            let arg = |a: &Value<'_>| match a {
                Value::Map(a) => arg(a),
                _ => Err(BadObject(format!("an argument of {name} is no map"))),
            };
            args.iter().map(arg).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(BadObject(format!("arguments of {name} are no list"))),
    };
    let spills = optional(map, ".vgpr_spill_count")?.saturating_add(optional(map, ".sgpr_spill_count")?);
    Ok(KernelInfo {
        args,
        kernarg_bytes: number(map, ".kernarg_segment_size")?,
        max_block: number(map, ".max_flat_workgroup_size")?,
        lds_bytes: number(map, ".group_segment_fixed_size")?,
        scratch_bytes: number(map, ".private_segment_fixed_size")?,
        wave: number(map, ".wavefront_size")?,
        vgprs: number(map, ".vgpr_count")?,
        sgprs: number(map, ".sgpr_count")?,
        spills,
        name,
    })
}

fn arg(map: &Map<'_>) -> Result<ArgInfo, BadObject> {
    let kind = match text(map, ".value_kind")? {
        "by_value" => ArgKind::Value,
        "global_buffer" => ArgKind::Pointer,
        _ => ArgKind::Hidden,
    };
    Ok(ArgInfo { offset: number(map, ".offset")?, bytes: number(map, ".size")?, kind })
}

fn text<'a>(map: &Map<'a>, key: &str) -> Result<&'a str, BadObject> {
    match map.get(key) {
        Some(Value::Text(text)) => Ok(text),
        _ => Err(BadObject(format!("no text `{key}`"))),
    }
}

fn number(map: &Map<'_>, key: &str) -> Result<u32, BadObject> {
    match map.get(key) {
        Some(Value::Unsigned(n)) => u32::try_from(*n).map_err(|_| BadObject(format!("`{key}` is {n}"))),
        _ => Err(BadObject(format!("no number `{key}`"))),
    }
}

fn optional(map: &Map<'_>, key: &str) -> Result<u32, BadObject> {
    if map.get(key).is_some() { number(map, key) } else { Ok(0) }
}

#[cfg(test)]
mod tests;
