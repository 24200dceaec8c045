//! Code objects loaded onto a device, and their kernels.
//!
//! Guarantees to safe callers: a code object is only handed to the runtime after its metadata was
//! read to the end; a [`Function`] lives no longer than its module; modules are unloaded once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::CString;
use std::ptr;
use std::sync::Arc;

use hip_sys::hiprt;

use super::device::Device;
use super::metadata::{CodeObject, KernelInfo};
use super::objects;
use super::sys::check;
use crate::backend::BackendError;

/// A code object on a device.
struct Module {
    device: Device,
    raw: hiprt::hipModule_t,
}

// SAFETY: HIP's handles may be used by any thread, and this one is only held and destroyed.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.device.select();
        // SAFETY: unloaded here only; its functions keep it alive.
        let _ = unsafe { (self.device.hip().table.hipModuleUnload)(self.raw) };
    }
}

/// A kernel on a device.
pub struct Function {
    raw: hiprt::hipFunction_t,
    /// What its metadata says.
    pub info: KernelInfo,
    _module: Arc<Module>,
}

// SAFETY: the handle is read only, and launches with it are made through a stream.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// Its handle.
    pub(super) fn raw(&self) -> hiprt::hipFunction_t {
        self.raw
    }
}

/// The kernels of a device: the same for all models on it.
pub struct Kernels {
    functions: HashMap<String, Arc<Function>>,
    /// Kernels that the self-test found wrong: there, and not used.
    left_out: BTreeSet<String>,
}

impl Kernels {
    /// Loads code objects onto `device`, which must be this thread's; two kernels of one name are
    /// refused.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] for a damaged object, or one of another chip.
    pub fn load(device: &Device, objects: &[impl AsRef<[u8]>]) -> Result<Self, BackendError> {
        let mut functions = HashMap::new();
        for bytes in objects.iter().map(AsRef::as_ref) {
            let object = CodeObject::read(bytes).map_err(|e| BackendError::Unsupported(e.to_string()))?;
            if object.arch != device.arch {
                let what = format!("kernels of {} on {} ({})", object.arch, device.arch, device.name);
                return Err(BackendError::Unsupported(what));
            }
            let mut raw = ptr::null_mut();
            // SAFETY: an ELF file whose headers were read; the runtime copies it.
            let code = unsafe { (device.hip().table.hipModuleLoadData)(&mut raw, bytes.as_ptr().cast()) };
            check("hipModuleLoadData", code).map_err(|e| device.error(e, bytes.len() as u64, "loading kernels"))?;
            let module = Arc::new(Module { device: device.clone(), raw });
            for info in object.kernels {
                let twice = BackendError::Unsupported(format!("two kernels are called {}", info.name));
                let name = info.name.clone();
                let function = function(device, &module, info)?;
                if functions.insert(name, Arc::new(function)).is_some() {
                    return Err(twice);
                }
            }
        }
        Ok(Self { functions, left_out: BTreeSet::new() })
    }

    /// Loads the kernels that this build has for `device`, which must be this thread's.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] if it has none.
    pub fn embedded(device: &Device) -> Result<Self, BackendError> {
        let objects = objects::for_target(&device.arch).map_err(|e| BackendError::Unsupported(e.to_string()))?;
        if objects.is_empty() {
            let has =
                objects::ABSENT.map_or_else(|| format!("only for {}", objects::TARGETS.join(", ")), str::to_owned);
            let what = format!("no kernels for {} ({}) in this build: {has}", device.arch, device.name);
            return Err(BackendError::Unsupported(what));
        }
        Self::load(device, &objects)
    }

    /// The kernel of this name, if it is used.
    pub fn get(&self, name: &str) -> Option<&Arc<Function>> {
        self.functions.get(name).filter(|_| !self.is_left_out(name))
    }

    /// All kernels that are used, by name.
    pub fn all(&self) -> BTreeMap<&str, &Arc<Function>> {
        self.functions.iter().map(|(name, f)| (name.as_str(), f)).filter(|(name, _)| !self.is_left_out(name)).collect()
    }

    /// Uses the kernel of this name no more.
    pub fn leave_out(&mut self, name: &str) {
        self.left_out.insert(name.to_owned());
    }

    /// Whether there is a kernel of this name that is not used.
    pub fn is_left_out(&self, name: &str) -> bool {
        self.left_out.contains(name)
    }
}

fn function(device: &Device, module: &Arc<Module>, info: KernelInfo) -> Result<Function, BackendError> {
    let bad_name = |_| BackendError::Unsupported(format!("a kernel is called {:?}", info.name));
    let name = CString::new(info.name.as_str()).map_err(bad_name)?;
    let mut raw = ptr::null_mut();
    // SAFETY: a live module and a C string; writes one handle.
    let code = unsafe { (device.hip().table.hipModuleGetFunction)(&mut raw, module.raw, name.as_ptr()) };
    check("hipModuleGetFunction", code).map_err(|e| device.error(e, 0, &format!("kernel {}", info.name)))?;
    Ok(Function { raw, info, _module: Arc::clone(module) })
}
