//! A fault shows when somebody waits, and the device stays lost. A process of its own, since nothing works after.

mod common;

use amdhip64::hip::error::*;
use amdhip64::hip::{device::*, memory::*, module::*, stream::*};
use common::compile;
use std::ffi::c_void;
use std::process::Command;
use std::ptr::null_mut;

const SOURCE: &str = "KERNEL void far(u32* x) { x[tid() + 1] = 1; }";

/// Set in the process that is to be killed.
const CHILD: &str = "RDNA3_TEST_CHILD";

unsafe fn fault() -> i32 {
    let image = compile(SOURCE);
    let (mut m, mut f, mut s, mut d) = (null_mut(), null_mut(), null_mut(), null_mut());
    assert_eq!(hipModuleLoadData(&mut m, image.as_ptr().cast()), SUCCESS);
    assert_eq!(hipModuleGetFunction(&mut f, m, c"far".as_ptr()), SUCCESS);
    assert_eq!(hipStreamCreateWithFlags(&mut s, 1), SUCCESS);
    assert_eq!(hipMalloc(&mut d, 128), SUCCESS);
    let mut params: [*mut c_void; 1] = [(&raw mut d).cast()];
    assert_eq!(hipModuleLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, params.as_mut_ptr(), null_mut()), SUCCESS);
    let code = hipStreamSynchronize(s);
    // Giving back still works, asking for more does not.
    let mut more = null_mut();
    assert_eq!((hipMalloc(&mut more, 4), hipDeviceSynchronize()), (code, code));
    assert_eq!((hipFree(d), hipStreamDestroy(s), hipModuleUnload(m)), (SUCCESS, SUCCESS, SUCCESS));
    code
}

#[test]
fn a_fault_loses_the_device_or_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        // SAFETY: pointers are to memory of the right size.
        unsafe { fault() };
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_fault_loses_the_device_or_ends_the_process", "--nocapture"])
        .env(CHILD, "1")
        .env("RDNA3_ABORT", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stderr);
    assert!(!child.status.success() && child.status.code().is_none(), "killed by a signal: {text}");
    assert!(text.contains("rdna3: far: pc 0x") && text.contains("lane 31: global_store_b32 writes 4 bytes"), "{text}");
    // SAFETY: as above.
    assert_eq!(unsafe { fault() }, ILLEGAL_ADDRESS);
}
