//! What is read of a machine, on trees of files.

use std::ffi::OsString;
use std::path::PathBuf;

use super::access::User;
use super::driver::Block;
use super::fixture::{NAVI31, Spec, Tree};
use super::*;

#[test]
fn cores_are_counted_once_however_many_threads_they_have() {
    let m = Tree::new(&[
        ("proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD EPYC 9B14\n\nprocessor\t: 1\nmodel name\t: other\n"),
        ("proc/meminfo", "MemTotal:       16000 kB\nMemFree: 1 kB\nMemAvailable:    9000 kB\n"),
        ("sys/devices/system/cpu/cpu0/topology/core_id", "0\n"),
        ("sys/devices/system/cpu/cpu0/topology/physical_package_id", "0\n"),
        ("sys/devices/system/cpu/cpu1/topology/core_id", "0\n"),
        ("sys/devices/system/cpu/cpu1/topology/physical_package_id", "0\n"),
        ("sys/devices/system/cpu/cpu2/topology/core_id", "0\n"),
        ("sys/devices/system/cpu/cpu2/topology/physical_package_id", "1\n"),
        ("sys/devices/system/cpu/cpufreq/boost", "1\n"),
    ])
    .machine();
    assert_eq!(m.cpu, Cpu { model: "AMD EPYC 9B14".into(), cores: 2, threads: 3 });
    assert_eq!((m.memory_total, m.memory_available), (Some(16_384_000), Some(9_216_000)));
}

#[test]
fn an_empty_root_still_gives_a_processor() {
    let m = Tree::default().machine();
    assert!(m.cpu.cores >= 1 && m.cpu.threads >= m.cpu.cores);
    assert_eq!(m.cpu.model, "unknown processor");
    assert_eq!(m.memory_total, None);
    assert!(m.unit.is_none() && m.accounts.service.is_none() && m.runtime.libraries.is_empty());
}

#[test]
fn an_audio_function_is_no_gpu() {
    let m = Tree::new(&[
        ("sys/bus/pci/devices/0000:03:00.0/vendor", "0x1002\n"),
        ("sys/bus/pci/devices/0000:03:00.0/class", "0x030000\n"),
        ("sys/bus/pci/devices/0000:03:00.1/vendor", "0x1002\n"),
        ("sys/bus/pci/devices/0000:03:00.1/class", "0x040300\n"),
    ])
    .machine();
    assert_eq!(m.gpu.cards.iter().map(|c| c.address.as_str()).collect::<Vec<_>>(), ["0000:03:00.0"]);
}

#[test]
fn topology_nodes_are_joined_with_their_cards() {
    let displays = ("sys/bus/pci/devices/0000:03:00.0/drm/card1/card1-HDMI-A-1/status", "connected\n");
    let processor = ("sys/class/kfd/kfd/topology/nodes/0/properties", "cpu_cores_count 16\nsimd_count 0\n");
    // No render node, no PCI device that is there: still a GPU.
    let bare = ("sys/class/kfd/kfd/topology/nodes/2/properties", "simd_count 304\ngfx_target_version 90010\n");
    let unreadable = ("sys/class/kfd/kfd/topology/nodes/3/gpu_id", "7\n");
    let m = Tree::new(&[processor, bare, displays, unreadable, ("dev/kfd", "0660 0 109")]).gpu(NAVI31).machine();
    let [first, second] = &m.gpu.nodes[..] else { panic!("{:?}", m.gpu.nodes) };
    assert_eq!((first.gfx.as_str(), first.units, first.memory), ("gfx1100", 96, 24 << 30));
    assert_eq!(first.label(), "gfx1100 (navi31) at 0000:03:00.0");
    let card = first.card.as_ref().expect("a card");
    assert_eq!((card.driver.as_deref(), card.render, card.lanes), (Some("amdgpu"), Some(128), Some((16, 16))));
    assert_eq!((card.vram_total, card.vram_used, card.gtt_total), (Some(24 << 30), Some(3 << 29), Some(31 << 30)));
    assert_eq!(card.displays, ["HDMI-A-1"]);
    assert_eq!((second.gfx.as_str(), second.card.as_ref()), ("gfx90a", None));
    assert_eq!(m.gpu.hidden, 1);
}

#[test]
fn a_card_is_found_by_its_address_where_no_render_node_tells() {
    let tree = Tree::default().gpu(Spec { bus: 0xc1, ..NAVI31 }).without("drm/renderD128");
    assert_eq!(tree.machine().gpu.nodes[0].pci(), Some("0000:c1:00.0"));
}

#[test]
fn integrated_gpus_are_told_from_cards() {
    let gpu = |version, vram, gtt| {
        let m = Tree::default().gpu(Spec { version, vram, gtt, ..NAVI31 }).machine();
        m.gpu.nodes[0].integrated
    };
    // Strix Halo with a large carve-out, and a card newer than the table.
    assert!(gpu(110_501, 64.0, 32.0) && gpu(100_306, 0.5, 16.0) && gpu(90_012, 0.5, 8.0));
    assert!(!gpu(110_000, 24.0, 16.0) && !gpu(90_402, 192.0, 500.0) && !gpu(130_000, 8.0, 16.0));
    assert!(gpu(130_000, 0.5, 16.0));
}

#[test]
fn modes_and_groups_decide_who_may_open_a_device() {
    let file = |mode| access::DeviceFile { path: "/dev/kfd".into(), mode, uid: 0, gid: 109, opens: false };
    let user = |uid, groups: &[u32]| User { name: "u".into(), uid, groups: groups.to_vec(), listed: Vec::new() };
    assert!(file(0o660).permits(&user(0, &[])) && file(0o660).permits(&user(5, &[7, 109])));
    assert!(!file(0o660).permits(&user(5, &[7])) && file(0o666).permits(&user(5, &[7])));
    // The group's bits are for its members, even where others may more.
    assert!(!file(0o606).permits(&user(5, &[109])) && !file(0o640).permits(&user(5, &[109])));
}

#[test]
fn users_have_the_groups_of_the_files_and_of_their_process() {
    let m = Tree::new(&[
        (
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nana:x:1000:1000::/home/ana:/bin/sh\nrocmforge:x:990:990::/:/bin/false\n",
        ),
        ("etc/group", "render:x:109:rocmforge,ana\nvideo:x:44:ana\nrocmforge:x:990:\n"),
        ("usr/lib/group", "input:x:104:ana\n"),
        (
            "proc/self/status",
            "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t44 1000 \n",
        ),
    ])
    .machine();
    let this = &m.accounts.this;
    assert_eq!(
        (this.name.as_str(), &this.groups[..], &this.listed[..]),
        ("ana", &[44, 1000, 1000][..], &[1000, 109, 44, 104][..])
    );
    let service = m.accounts.service.as_ref().expect("it is there");
    assert_eq!((service.uid, &service.groups[..]), (990, &[990, 109][..]));
    assert_eq!((m.accounts.group(109), m.accounts.group(5)), (Some("render"), None));
}

#[test]
fn a_unit_is_read_with_its_drop_ins_in_order() {
    let unit = "[Unit]\nUser=no\n[Service]\nUser=llm\nDevicePolicy=closed\nDeviceAllow=char-drm rw\n\
                Environment=\"A=1 2\" HIP_VISIBLE_DEVICES=0\n";
    let m = Tree::new(&[
        ("usr/lib/systemd/system/rocmforged.service", unit),
        ("usr/lib/systemd/system/rocmforged.service.d/50-x.conf", "[Service]\nDeviceAllow=char-kfd r\n"),
        (
            "etc/systemd/system/rocmforged.service.d/10-kfd.conf",
            "[Service]\nDeviceAllow=/dev/kfd\n# DevicePolicy=auto\n",
        ),
    ])
    .machine();
    let unit = m.unit.as_ref().expect("it is there");
    assert_eq!((unit.user.as_deref(), unit.policy.as_str(), unit.dropins.len()), (Some("llm"), "closed", 2));
    assert!(unit.dropins[0].ends_with("10-kfd.conf"));
    assert!(unit.admits("/dev/kfd", "kfd") && unit.admits("/dev/dri/renderD128", "drm"));
    assert!(!unit.admits("/dev/nvidia0", "nvidia"));
    assert_eq!(unit.environment, [("A".into(), "1 2".into()), ("HIP_VISIBLE_DEVICES".into(), "0".into())]);
    let hidden = Tree::new(&[
        (
            "etc/systemd/system/rocmforged.service",
            "[Service]\nDeviceAllow=/dev/kfd r\nDeviceAllow=\nDeviceAllow=char-* rw\n",
        ),
        ("usr/lib/systemd/system/rocmforged.service", "[Service]\nPrivateDevices=yes\n"),
    ])
    .machine();
    let unit = hidden.unit.expect("it is there");
    assert!(!unit.private_devices && unit.admits("/dev/kfd", "kfd"));
}

#[test]
fn the_driver_s_version_arguments_and_blocks_are_read() {
    let tree = Tree::new(&[
        ("proc/sys/kernel/osrelease", "6.14.0-27-generic\n"),
        ("proc/cmdline", "root=/dev/sda amdgpu.gttsize=8192 quiet\n"),
        ("sys/module/amdgpu/version", "6.12.12\n"),
        ("sys/module/amdttm/parameters/pages_limit", "4096\n"),
        ("etc/default/grub", ""),
        ("usr/sbin/update-grub", ""),
    ]);
    let d = tree.machine().driver;
    assert_eq!((d.kernel(), d.version.as_deref(), d.block.as_ref()), ((6, 14), Some("6.12.12"), None));
    assert_eq!((d.argument("amdgpu.gttsize"), d.ttm.as_str(), d.pages_limit), (Some("8192"), "amdttm", Some(4096)));
    assert!(d.add_arguments("a=1").contains("update-grub"));
    let blocked = |files: &[(&str, &str)]| Tree::new(files).machine().driver.block;
    let file = "usr/lib/modprobe.d/gpu.conf";
    assert_eq!(blocked(&[(file, "# no\nblacklist  amdgpu\n")]), Some(Block::File(format!("/{file}"))));
    assert_eq!(blocked(&[(file, "install amdgpu /bin/false\n")]), Some(Block::File(format!("/{file}"))));
    assert_eq!(blocked(&[(file, "blacklist amdgpu\n"), ("etc/modprobe.d/gpu.conf", "")]), None);
    assert_eq!(blocked(&[(file, "blacklist amdgpu_old\noptions amdgpu dc=1\n")]), None);
    let argument = Block::Argument("modprobe.blacklist=nouveau,amdgpu".to_owned());
    assert_eq!(blocked(&[("proc/cmdline", "quiet modprobe.blacklist=nouveau,amdgpu")]), Some(argument));
    assert_eq!(blocked(&[("proc/cmdline", "nomodeset")]), Some(Block::Argument("nomodeset".to_owned())));
}

fn names(vars: &[(&str, &str)], installed: &[&str]) -> Vec<String> {
    let installed: Vec<PathBuf> = installed.iter().map(PathBuf::from).collect();
    let var = |name: &str| vars.iter().find(|v| v.0 == name).map(|v| OsString::from(v.1));
    library::candidates(var, &installed).iter().map(|n| n.display().to_string()).collect()
}

#[test]
fn a_named_library_is_the_only_one() {
    let vars = [("ROCMFORGE_HIP_LIBRARY", "/here/lib.so"), ("ROCM_PATH", "/rocm")];
    assert_eq!(names(&vars, &["/opt/rocm"]), ["/here/lib.so"]);
}

#[test]
fn the_named_rocm_comes_before_the_system_s_and_that_before_opt() {
    let all = names(&[("ROCM_PATH", "/rocm"), ("HIP_PATH", "")], &["/opt/rocm-7.0.1", "/opt/rocm"]);
    assert_eq!(all.len(), 16);
    assert_eq!(&all[..2], ["/rocm/lib/libamdhip64.so.7", "/rocm/lib/libamdhip64.so.6"]);
    assert_eq!(&all[4..8], library::SONAMES);
    assert_eq!(all[8], "/opt/rocm-7.0.1/lib/libamdhip64.so.7");
    assert_eq!(all[15], "/opt/rocm/lib/libamdhip64.so");
}

#[test]
fn libraries_are_found_where_they_are_tried_and_once() {
    let tree = Tree::new(&[
        ("opt/rocm-6.4.1/lib/libamdhip64.so.6.4.60401", "x"),
        ("opt/rocm-6.4.1/lib/libamdhip64.so.6", "-> libamdhip64.so.6.4.60401"),
        ("opt/rocm-6.4.1/lib/libamdhip64.so", "-> libamdhip64.so.6"),
        ("opt/rocm-6.4.1/.info/version", "6.4.1-83\n"),
        ("opt/rocm", "-> rocm-6.4.1"),
        ("usr/lib/x86_64-linux-gnu/libamdhip64.so.5.7.31921", "x"),
        ("usr/lib/x86_64-linux-gnu/libamdhip64.so.5", "-> libamdhip64.so.5.7.31921"),
        ("srv/hip/libamdhip64.so.7", "x"),
        ("etc/ld.so.cache", "junk\0libamdhip64.so.7\0/srv/hip/libamdhip64.so.7\0"),
    ]);
    let files = |r: &Runtime| r.libraries.iter().map(|l| (l.path.clone(), l.major())).collect::<Vec<_>>();
    let runtime = tree.machine().runtime;
    assert_eq!(
        files(&runtime),
        [
            ("/srv/hip/libamdhip64.so.7".to_owned(), Some(7)),
            ("/usr/lib/x86_64-linux-gnu/libamdhip64.so.5".to_owned(), Some(5)),
            ("/opt/rocm-6.4.1/lib/libamdhip64.so.6".to_owned(), Some(6)),
        ]
    );
    assert_eq!(runtime.rocm.len(), 2);
    let named = tree.machine_with(&[(library::NAMED, "/opt/rocm/lib/libamdhip64.so")]).runtime;
    assert_eq!(files(&named), [("/opt/rocm/lib/libamdhip64.so".to_owned(), Some(6))]);
    let path = tree.machine_with(&[("ROCM_PATH", "/opt/rocm")]).runtime;
    assert_eq!(files(&path)[0].0, "/opt/rocm/lib/libamdhip64.so.6");
}

#[test]
fn the_distribution_decides_how_a_runtime_is_installed() {
    let how = |release| Tree::new(&[("etc/os-release", release)]).machine().runtime.install;
    assert_eq!(how("ID=fedora\n"), "sudo dnf install rocm-hip");
    assert!(how("ID=ubuntu\nID_LIKE=debian\n").contains("apt install hip-runtime-amd"));
    assert!(how("ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\n").contains("dnf install hip-runtime-amd"));
    assert!(how("").contains("ROCMFORGE_HIP_LIBRARY"));
}
