//! Machines as people have them, and what is said about each.

use super::*;
use crate::probe::fixture::{NAVI31, RAPHAEL, Spec, Tree};

const BUILD: Build = Build { targets: &["gfx942", "gfx1036", "gfx1100", "gfx1151"], absent: None };

const STRIX_HALO: Spec = Spec {
    node: 1,
    name: "gfx1151",
    version: 110_501,
    simds: 80,
    bus: 0xc1,
    minor: 128,
    vram: 0.5,
    visible: 0.5,
    gtt: 62.5,
};

const PASSWD: &str =
    "root:x:0:0::/root:/bin/bash\nana:x:1000:1000::/home/ana:/bin/bash\nrocmforge:x:990:990::/:/bin/false\n";
const STATUS: &str = "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t44 109 1000\n";
const UNIT: &str = "[Service]\nUser=rocmforge\nDevicePolicy=closed\nDeviceAllow=char-drm rw\nDeviceAllow=char-kfd rw\n";

/// A machine with kernel, driver, runtime, unit and users as they should be, but without a GPU.
fn base() -> Tree {
    Tree::new(&[
        ("dev/kfd", "0660 0 109"),
        ("proc/sys/kernel/osrelease", "6.14.0-27-generic\n"),
        ("proc/cmdline", "root=/dev/sda quiet\n"),
        ("proc/meminfo", "MemTotal: 65011712 kB\nMemAvailable: 60000000 kB\n"),
        ("proc/self/status", STATUS),
        ("etc/passwd", PASSWD),
        ("etc/group", "video:x:44:ana\nrender:x:109:ana,rocmforge\nrocmforge:x:990:\n"),
        ("etc/os-release", "ID=ubuntu\nID_LIKE=debian\n"),
        ("sys/module/amdgpu/version", "6.12.12\n"),
        ("sys/module/ttm/parameters/pages_limit", "8126464\n"),
        ("sys/class/kfd/kfd/topology/nodes/0/properties", "cpu_cores_count 16\nsimd_count 0\n"),
        ("opt/rocm-6.4.1/lib/libamdhip64.so.6", "x"),
        ("opt/rocm-6.4.1/.info/version", "6.4.1-83\n"),
        ("usr/lib/systemd/system/rocmforged.service", UNIT),
    ])
}

fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|f| f.severity).max().unwrap_or(Severity::Ok)
}

/// The one finding of a check that has the severity.
#[track_caller]
fn found(findings: &[Finding], check: &str, severity: Severity) -> String {
    let of: Vec<&Finding> = findings.iter().filter(|f| f.check == check && f.severity == severity).collect();
    assert_eq!(of.len(), 1, "{check} {severity:?} in {findings:#?}");
    of[0].line()
}

#[track_caller]
fn says(line: &str, words: &[&str]) {
    words.iter().for_each(|w| assert!(line.contains(w), "`{w}` is not in: {line}"));
}

fn problems(tree: &Tree) -> Vec<Finding> {
    let all = examine(&tree.machine(), BUILD);
    all.into_iter().filter(|f| f.severity == Severity::Problem).collect()
}

#[test]
fn a_desktop_with_a_card_and_a_ryzen_is_well_and_leaves_the_small_one_alone() {
    let m = base().gpu(NAVI31).gpu(RAPHAEL).machine();
    let all = examine(&m, BUILD);
    assert_eq!(worst(&all), Severity::Note, "{all:#?}");
    says(&found(&all, "gpu", Severity::Ok), &["gfx1100 (navi31) at 0000:03:00.0", "24.0 GiB", "1.5 GiB used"]);
    let aside = found(&all, "gpu", Severity::Note);
    says(&aside, &["gfx1036 (raphael) at 0000:13:00.0", "left alone", "beside gfx1100", "allow_igpu = true"]);
    says(&found(&all, "driver", Severity::Ok), &["6.14.0-27-generic", "amdgpu 6.12.12"]);
    says(&found(&all, "library", Severity::Ok), &["/opt/rocm-6.4.1/lib/libamdhip64.so.6"]);
    says(&found(&all, "rocm", Severity::Ok), &["6.4.1-83"]);
    says(&found(&all, "permission", Severity::Ok), &["rocmforge may open"]);
    assert_eq!(obstacle(&m, BUILD), None);
}

#[test]
fn a_ryzen_alone_is_too_small_and_one_without_kernels_is_named() {
    let m = base().gpu(RAPHAEL).machine();
    says(&m.gpu.set_aside(&m.gpu.nodes[0], BUILD.targets).expect("aside"), &["2 compute units", "processor is faster"]);
    let no_igpu = Build { targets: &["gfx1100"], absent: None };
    says(
        &obstacle(&m, no_igpu).expect("no kernels"),
        &["gfx1036 has no kernels in this build", "this one has gfx1100"],
    );
    let both = base().gpu(NAVI31).gpu(RAPHAEL).machine();
    assert_eq!(obstacle(&both, no_igpu), None);
    assert_eq!(worst(&examine(&both, no_igpu)), Severity::Note);
    // With kernels for the small one only, the large one is the problem.
    let wrong = Build { targets: &["gfx1036"], absent: None };
    says(&obstacle(&both, wrong).expect("no kernels"), &["gfx1100 has no kernels"]);
    let none = Build { targets: &[], absent: Some("built without kernels: no clang") };
    says(&obstacle(&both, none).expect("no kernels"), &["no GPU kernels in this binary", "no clang"]);
    says(&found(&examine(&both, none), "kernels", Severity::Problem), &["no clang"]);
}

#[test]
fn strix_halo_may_take_more_memory_and_is_told_how() {
    let halo = base().gpu(STRIX_HALO).with(&[("proc/meminfo", "MemTotal: 131072000 kB\nMemAvailable: 120000000 kB\n")]);
    let all = examine(&halo.machine(), BUILD);
    assert_eq!(worst(&all), Severity::Note, "{all:#?}");
    says(&found(&all, "gpu", Severity::Ok), &["integrated, 512 MiB set aside and up to 62.5 GiB"]);
    // 125 GiB less an eighth, in whole GiB: 109 GiB of 4 KiB pages.
    let raise = found(&all, "gtt", Severity::Note);
    says(&raise, &["may take 62.5 GiB of the machine's 125.0 GiB", "ttm.pages_limit=28573696", "boot loader"]);
    assert!(!raise.contains("gttsize"), "{raise}");
    let grubby = halo.clone().with(&[("usr/sbin/grubby", "")]);
    says(
        &found(&examine(&grubby.machine(), BUILD), "gtt", Severity::Note),
        &["grubby --update-kernel=ALL --args=\"ttm."],
    );
    let packaged = halo.clone().with(&[("sys/module/amdttm/parameters/pages_limit", "1\n")]);
    says(&found(&examine(&packaged.machine(), BUILD), "gtt", Severity::Note), &["amdttm.pages_limit=28573696"]);

    let old = halo.clone().with(&[("proc/sys/kernel/osrelease", "6.1.0-37-amd64\n")]);
    let all = examine(&old.machine(), BUILD);
    says(&found(&all, "gtt", Severity::Warning), &["Linux 6.1.0-37-amd64", "only the 512 MiB", "Linux 6.10 or later"]);
    says(&found(&all, "gtt", Severity::Note), &["amdgpu.gttsize=111616 ttm.pages_limit=28573696"]);

    let twice = halo.with(&[
        ("proc/sys/kernel/osrelease", "6.17.0-5-generic\n"),
        ("proc/cmdline", "quiet amdgpu.gttsize=112640\n"),
        ("sys/bus/pci/devices/0000:c1:00.0/mem_info_gtt_total", "118111600640\n"),
    ]);
    let all = examine(&twice.machine(), BUILD);
    says(
        &found(&all, "gtt", Severity::Warning),
        &["amdgpu.gttsize=112640 is deprecated", "take `amdgpu.gttsize=112640`"],
    );
    assert!(!all.iter().any(|f| f.check == "gtt" && f.severity == Severity::Note), "it has enough: {all:#?}");
}

#[test]
fn a_server_with_eight_cards_lists_them_all() {
    let mut tree = base().with(&[("proc/meminfo", "MemTotal: 2113929216 kB\n")]);
    for n in 0..8 {
        let gpu =
            Spec { node: 2 + n, name: "", version: 90_402, simds: 1216, bus: 5 + 16 * n, minor: 128 + n, ..NAVI31 };
        tree = tree.gpu(Spec { vram: 192.0, visible: 192.0, gtt: 1008.0, ..gpu });
    }
    let m = tree.machine();
    let all = examine(&m, BUILD);
    assert_eq!(worst(&all), Severity::Ok, "{all:#?}");
    let gpus: Vec<&Finding> = all.iter().filter(|f| f.check == "gpu").collect();
    assert_eq!(gpus.len(), 8);
    says(&gpus[7].what, &["gfx942 at 0000:75:00.0: 192.0 GiB"]);
}

#[test]
fn a_machine_without_a_gpu_has_no_problem() {
    let m = base().without("dev/kfd").without("amdgpu").without("libamdhip64").machine();
    let all = examine(&m, BUILD);
    assert_eq!(worst(&all), Severity::Note, "{all:#?}");
    says(&obstacle(&m, BUILD).expect("none"), &["no /dev/kfd: no AMD GPU driver loaded"]);
    // The processor's node is there, the card is not.
    says(&obstacle(&base().machine(), BUILD).expect("none"), &["sees no GPU", "dmesg"]);
}

/// A card whose driver is not loaded.
fn driverless() -> Tree {
    base()
        .gpu(NAVI31)
        .without("kfd")
        .without("/driver")
        .without("/drm/")
        .without("mem_info")
        .without("sys/module/amdgpu")
}

#[test]
fn a_driver_that_is_not_loaded_is_named_with_what_keeps_it() {
    let line = |tree: Tree| {
        let all = problems(&tree);
        assert_eq!(obstacle(&tree.machine(), BUILD).as_ref(), Some(&all[0].line()));
        all[0].line()
    };
    says(&line(driverless()), &["no /dev/kfd", "0000:03:00.0", "not loaded", "sudo modprobe amdgpu"]);
    let file = driverless().with(&[("etc/modprobe.d/blacklist-gpu.conf", "blacklist amdgpu\n")]);
    says(&line(file), &["blacklisted in /etc/modprobe.d/blacklist-gpu.conf", "sed -i"]);
    let argument = driverless().with(&[("proc/cmdline", "quiet nomodeset\n"), ("usr/sbin/grubby", "")]);
    says(&line(argument), &["nomodeset keeps the amdgpu driver away", "--remove-args=\"nomodeset\""]);
    let vm = driverless().with(&[("sys/bus/pci/devices/0000:03:00.0/driver", "-> ../../drivers/vfio-pci")]);
    says(&line(vm), &["bound to vfio-pci"]);
    let no_compute = driverless().with(&[("sys/module/amdgpu/version", "1\n")]);
    says(&line(no_compute), &["amdgpu is loaded", "KFD", "dmesg"]);
}

#[test]
fn a_container_without_the_device_is_told_how_to_get_it() {
    let inside = base().gpu(NAVI31).without("dev/kfd").without("dev/dri").with(&[("run/.containerenv", "")]);
    let all = problems(&inside);
    says(&all[0].line(), &["no /dev/kfd in this container", "--device /dev/kfd --device /dev/dri"]);
    // The device is there; its group has no name inside.
    let group = base().gpu(NAVI31).with(&[
        ("run/.containerenv", ""),
        ("etc/passwd", "app:x:1000:1000::/:/bin/sh\n"),
        ("etc/group", "app:x:1000:\n"),
        ("proc/self/status", "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t1000\n"),
    ]);
    let line = found(&examine(&group.machine(), BUILD), "permission", Severity::Problem);
    says(&line, &["app may not open /dev/kfd, /dev/dri/renderD128", "group 109", "--group-add 109"]);
    // Only /dev/kfd was passed in.
    let half = base().gpu(NAVI31).without("dev/dri").with(&[("run/.containerenv", "")]);
    says(
        &found(&examine(&half.machine(), BUILD), "permission", Severity::Problem),
        &["renderD128 is not there", "--device /dev/dri"],
    );
}

#[test]
fn a_service_that_is_in_no_group_is_told_which() {
    let tree = base().gpu(NAVI31).with(&[("etc/group", "video:x:44:ana\nrender:x:109:ana\nrocmforge:x:990:\n")]);
    let line = found(&examine(&tree.machine(), BUILD), "permission", Severity::Problem);
    says(&line, &["rocmforge may not open /dev/kfd, /dev/dri/renderD128 (group render, mode 0660)"]);
    says(&line, &["add it to the group: sudo usermod -aG render rocmforge, then sudo systemctl restart rocmforged"]);
    // The daemon itself says the same, as a user's process: here ana's, who may.
    assert_eq!(obstacle(&tree.machine(), BUILD), None);
    let service =
        tree.with(&[("proc/self/status", "Uid:\t990\t990\t990\t990\nGid:\t990\t990\t990\t990\nGroups:\t990\n")]);
    says(&obstacle(&service.machine(), BUILD).expect("refused"), &["sudo usermod -aG render rocmforge"]);
}

#[test]
fn groups_that_came_after_the_login_need_a_new_one() {
    let late = "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t44 1000\n";
    let tree = base().gpu(NAVI31).with(&[("proc/self/status", late)]);
    let all = examine(&tree.machine(), BUILD);
    assert_eq!(worst(&all), Severity::Note, "the service may: {all:#?}");
    let note = found(&all, "permission", Severity::Note);
    says(&note, &["ana was added to the group render after this session began", "log out and in again"]);
    let alone = tree.clone().with(&[("etc/passwd", "ana:x:1000:1000::/home/ana:/bin/bash\n")]).without("systemd");
    says(&found(&examine(&alone.machine(), BUILD), "permission", Severity::Problem), &["after this session began"]);
    let service =
        tree.with(&[("proc/self/status", "Uid:\t990\t990\t990\t990\nGid:\t990\t990\t990\t990\nGroups:\t990\n")]);
    let line = obstacle(&service.machine(), BUILD).expect("refused");
    says(&line, &["rocmforge was added to the group render", "sudo systemctl restart rocmforged"]);
}

#[test]
fn devices_of_root_alone_and_refusals_in_spite_of_the_mode_are_told_apart() {
    let root = base().gpu(NAVI31).with(&[("dev/kfd", "0600 0 0")]);
    let line = found(&examine(&root.machine(), BUILD), "permission", Severity::Problem);
    says(&line, &["only root may open /dev/kfd", "udev/rules.d", "usermod -aG render rocmforge"]);
    let mut m = base().gpu(NAVI31).machine();
    m.gpu.kfd.as_mut().expect("it is there").opens = false;
    says(&obstacle(&m, BUILD).expect("refused"), &["by its mode", "DeviceAllow=char-kfd rw"]);
}

#[test]
fn a_unit_that_keeps_the_devices_away_is_named_with_its_files() {
    let with =
        |text: &str| base().gpu(NAVI31).with(&[("etc/systemd/system/rocmforged.service.d/hardening.conf", text)]);
    let unit = |text: &str| found(&examine(&with(text).machine(), BUILD), "unit", Severity::Problem);
    says(&unit("[Service]\nPrivateDevices=yes\n"), &["PrivateDevices=yes", "hardening.conf", "PrivateDevices=no"]);
    let line = unit("[Service]\nDeviceAllow=\nDeviceAllow=/dev/dri/renderD128 rw\n");
    says(&line, &["DevicePolicy=closed without DeviceAllow=char-kfd rw (", "systemctl edit rocmforged"]);
    says(&unit("[Service]\nDeviceAllow=\n"), &["char-kfd rw and DeviceAllow=char-drm rw"]);
    assert_eq!(problems(&with("[Service]\nDeviceAllow=\nDevicePolicy=auto\n")), []);
    // Inside such a cgroup the kernel hides the GPU's node itself.
    let cgroup = base().gpu(NAVI31).without("nodes/1/properties");
    says(&obstacle(&cgroup.machine(), BUILD).expect("hidden"), &["hidden from this process", "char-drm"]);
}

#[test]
fn a_runtime_that_is_missing_or_too_old_is_named_with_the_command() {
    let none = base().gpu(NAVI31).without("libamdhip64");
    says(
        &found(&problems(&none), "library", Severity::Problem),
        &["libamdhip64 not found", "apt install hip-runtime-amd"],
    );
    let old = none.with(&[("usr/lib/x86_64-linux-gnu/libamdhip64.so.5", "x")]);
    says(&found(&problems(&old), "library", Severity::Problem), &["is of HIP 5; 6 or later is needed"]);
    let m = old.machine_with(&[("ROCMFORGE_HIP_LIBRARY", "/gone.so")]);
    says(&found(&examine(&m, BUILD), "library", Severity::Problem), &["/gone.so", "unset ROCMFORGE_HIP_LIBRARY"]);
    let two = base().gpu(NAVI31).with(&[("opt/rocm-7.0.0/.info/version", "7.0.0-38\n")]);
    says(&found(&examine(&two.machine(), BUILD), "rocm", Severity::Note), &["7.0.0-38", "6.4.1-83"]);
}

#[test]
fn a_small_window_few_lanes_and_a_display_are_pointed_out() {
    let pci = "sys/bus/pci/devices/0000:03:00.0";
    let tree = base().gpu(Spec { visible: 0.25, ..NAVI31 }).gpu(RAPHAEL).with(&[
        (&format!("{pci}/current_link_width"), "4\n"),
        (&format!("{pci}/drm/card1/card1-DP-1/status"), "connected\n"),
    ]);
    let all = examine(&tree.machine(), BUILD);
    assert_eq!(worst(&all), Severity::Warning);
    says(&found(&all, "rebar", Severity::Warning), &["256 MiB of its 24.0 GiB", "--firmware-setup", "Above 4G"]);
    says(&found(&all, "pcie", Severity::Warning), &["4 of its 16 PCIe lanes"]);
    says(&found(&all, "display", Severity::Note), &["DP-1", "mainboard"]);
}

#[test]
fn variables_that_hide_or_rename_gpus_are_said_with_what_they_do() {
    let tree = base().gpu(NAVI31);
    let with = |name: &str, value: &str| examine(&tree.machine_with(&[(name, value)]), BUILD);
    let warning = |name: &str, value: &str| found(&with(name, value), "environment", Severity::Warning);
    says(&warning("HIP_VISIBLE_DEVICES", "-1"), &["hides every GPU", "unset HIP_VISIBLE_DEVICES"]);
    says(&found(&with("ROCR_VISIBLE_DEVICES", "1"), "environment", Severity::Note), &["gpu0 is the first of them"]);
    says(&warning("HSA_OVERRIDE_GFX_VERSION", "11.5.1"), &["gfx1100", "taken for gfx1151", "no override is needed"]);
    says(&warning("HSA_OVERRIDE_GFX_VERSION", "eleven"), &["is no version"]);
    let strange = found(&with("HSA_OVERRIDE_GFX_VERSION", "9.0.10"), "environment", Severity::Problem);
    says(&strange, &["gfx90a", "no kernels here"]);
    says(&found(&with("HSA_OVERRIDE_GFX_VERSION", "11.0.0"), "environment", Severity::Note), &["changes nothing"]);
    // A chip without kernels of its own runs another's, and the daemon tries.
    let other = base().gpu(Spec { version: 110_003, ..NAVI31 });
    let m = other.machine_with(&[("HSA_OVERRIDE_GFX_VERSION", "11.0.0")]);
    assert_eq!(obstacle(&m, BUILD), None);
    says(&found(&examine(&m, BUILD), "environment", Severity::Warning), &["gfx1103", "runs the kernels of gfx1100"]);
    let unit = tree
        .with(&[("run/systemd/system/rocmforged.service.d/x.conf", "[Service]\nEnvironment=HIP_VISIBLE_DEVICES=\n")]);
    says(
        &found(&examine(&unit.machine(), BUILD), "environment", Severity::Warning),
        &["the unit's environment", "systemctl edit"],
    );
}

#[test]
fn cards_that_compute_has_no_use_for_are_listed_beside_those_it_has() {
    let pci = "sys/bus/pci/devices/0000:2b:00.0";
    let second = |driver: Option<&str>| {
        let mut tree =
            base().gpu(NAVI31).with(&[(&format!("{pci}/vendor"), "0x1002"), (&format!("{pci}/class"), "0x030000")]);
        if let Some(driver) = driver {
            tree = tree.with(&[(&format!("{pci}/driver"), &format!("-> ../drivers/{driver}"))]);
        }
        examine(&tree.machine(), BUILD)
    };
    says(&found(&second(Some("vfio-pci")), "gpu", Severity::Note), &["0000:2b:00.0", "bound to vfio-pci"]);
    says(&found(&second(Some("amdgpu")), "gpu", Severity::Warning), &["no compute driver"]);
    says(&found(&second(None), "gpu", Severity::Warning), &["has no driver"]);
}
