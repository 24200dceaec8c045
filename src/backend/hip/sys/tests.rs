//! Where the runtime is looked for, and what is said when it is not there.

use std::path::PathBuf;
use std::process::Command;

use super::*;

#[test]
fn no_library_says_what_was_tried_and_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let broken = dir.path().join("broken.so");
    std::fs::write(&broken, "no library").expect("written");
    let names = [dir.path().join("absent.so").into_os_string(), broken.into_os_string()];
    let Err(WhyNot::NoLibrary { tried, .. }) = Hip::first_of(&names) else { panic!("opened") };
    assert_eq!(tried.len(), 2);
    assert!(tried[0].ends_with("absent.so"), "{}", tried[0]);
    assert!(tried[1].contains("broken.so ("), "{}", tried[1]);
}

/// A library of `source`; `None`, said aloud, where there is no C compiler.
fn library(dir: &Path, name: &str, source: &str) -> Option<PathBuf> {
    let (c, so) = (dir.join("fake.c"), dir.join(name));
    std::fs::write(&c, source).expect("written");
    let compiler = ["cc", "clang-19", "clang", "gcc"].into_iter().find_map(|compiler| {
        let made = Command::new(compiler).args(["-shared", "-fPIC", "-w", "-o"]).arg(&so).arg(&c).status();
        made.is_ok_and(|s| s.success()).then_some(())
    });
    if compiler.is_none() {
        eprintln!("SKIPPED: no C compiler for a library of HIP's functions");
    }
    compiler.map(|()| so)
}

/// All required functions: they succeed and do nothing, but for those that `special` defines.
fn fake(special: &str) -> String {
    let required = [
        "hipInit",
        "hipRuntimeGetVersion",
        "hipGetDeviceCount",
        "hipSetDevice",
        "hipDeviceGetName",
        "hipMemGetInfo",
        "hipMalloc",
        "hipFree",
        "hipHostMalloc",
        "hipHostFree",
        "hipMemcpyAsync",
        "hipMemsetAsync",
        "hipStreamCreateWithFlags",
        "hipStreamDestroy",
        "hipStreamSynchronize",
        "hipEventCreateWithFlags",
        "hipEventDestroy",
        "hipEventRecord",
        "hipEventQuery",
        "hipModuleLoadData",
        "hipModuleUnload",
        "hipModuleGetFunction",
        "hipModuleLaunchKernel",
        "hipGetDevicePropertiesR0600",
    ];
    let plain = required.iter().filter(|name| !special.contains(&format!("{name}(")));
    let plain: String = plain.map(|name| format!("int {name}() {{ return 0; }}\n")).collect();
    format!("#include <string.h>\n{plain}{special}")
}

#[test]
fn a_library_that_is_no_hip_runtime_is_named_with_what_it_lacks() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(path) = library(dir.path(), "a.so", "int hipInit() { return 0; }") else { return };
    let why = Hip::open(&path).expect_err("not complete");
    let symbol = "hipRuntimeGetVersion".to_owned();
    assert_eq!(why, WhyNot::MissingSymbol { path: path.display().to_string(), symbol });
    // It does not hide one that is complete.
    let special = "int hipGetDeviceCount(int *n) { *n = 1; return 0; }";
    let Some(complete) = library(dir.path(), "b.so", &fake(special)) else { return };
    let hip = Hip::first_of(&[path.into_os_string(), complete.clone().into_os_string()]).expect("the second");
    assert_eq!(hip.path(), complete.display().to_string());
}

#[test]
fn a_runtime_without_devices_and_one_that_does_not_start() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, special, says) in [
        ("none.so", "int hipInit(unsigned f) { return 100; }", "sees no GPU"),
        ("zero.so", "int hipGetDeviceCount(int *n) { *n = 0; return 0; }", "sees no GPU"),
        ("old.so", "int hipInit(unsigned f) { return 35; }", "did not start: hipInit: HIP error 35 (driver too old"),
    ] {
        let Some(path) = library(dir.path(), name, &fake(special)) else { return };
        let why = Hip::open(&path).expect_err("no device").to_string();
        assert!(why.contains(says) && why.contains(name), "{why}");
    }
}

#[test]
fn a_device_is_read_where_the_struct_has_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let special = r#"
        int hipGetDeviceCount(int *n) { *n = 2; return 0; }
        int hipRuntimeGetVersion(int *v) { *v = 60342134; return 0; }
        int hipDeviceGetName(char *s, int n, int d) { strncpy(s, d ? "second" : "first", n); return 0; }
        int hipDeviceGetPCIBusId(char *s, int n, int d) { strncpy(s, "0000:0A:00.0", n); return 0; }
        int hipGetDevicePropertiesR0600(char *p, int d) {
            memset(p, 0, 1472);
            *(unsigned long *)(p + 288) = 25753026560ul;
            *(int *)(p + 308) = 32;
            *(int *)(p + 388) = 48;
            *(int *)(p + 608) = 1249000;
            *(int *)(p + 612) = 384;
            *(int *)(p + 616) = 6291456;
            strcpy(p + 1160, "gfx90a:sramecc+:xnack-");
            return d < 2 ? 0 : 101;
        }"#;
    let Some(path) = library(dir.path(), "two.so", &fake(special)) else { return };
    let hip = Hip::open(&path).expect("complete");
    assert_eq!(hip.device_count(), Ok(2));
    assert_eq!(hip.versions(), Ok((60_342_134, None)));
    assert_eq!(hip.device_name(1).as_deref(), Ok("second"));
    assert_eq!(hip.pci_id(0).as_deref(), Some("0000:0a:00.0"));
    let properties = Properties {
        memory: 25_753_026_560,
        warp_size: 32,
        compute_units: 48,
        integrated: false,
        memory_clock: 1_249_000,
        memory_bus: 384,
        l2_bytes: 6_291_456,
        arch: "gfx90a:sramecc+:xnack-".to_owned(),
    };
    assert_eq!(hip.properties(0), Ok(properties));
    assert_eq!(hip.properties(2), Err(HipError { code: 101, call: "hipGetDevicePropertiesR0600" }));
}
