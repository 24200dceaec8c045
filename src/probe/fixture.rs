//! Machines as trees of files, for tests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Machine;
use super::access::DeviceFile;

/// A machine's files. Content that begins with `-> ` is a symbolic link; a device file's content is
/// its mode, owner and group, since a test cannot give files away.
#[derive(Clone, Debug, Default)]
pub struct Tree(Vec<(String, String)>);

/// A GPU with the compute driver.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Number of its topology node.
    pub node: u32,
    /// Name of the chip.
    pub name: &'static str,
    /// As KFD has it: 110000 is gfx1100.
    pub version: u32,
    /// SIMDs, two a compute unit.
    pub simds: u32,
    /// PCI bus.
    pub bus: u32,
    /// Render node.
    pub minor: u32,
    /// GiB of its own memory.
    pub vram: f64,
    /// GiB of it that the processor sees.
    pub visible: f64,
    /// GiB of the machine's memory that it may take.
    pub gtt: f64,
}

/// A card: Radeon RX 7900 XTX, gfx1100.
pub const NAVI31: Spec = Spec {
    node: 1,
    name: "navi31",
    version: 110_000,
    simds: 192,
    bus: 3,
    minor: 128,
    vram: 24.0,
    visible: 24.0,
    gtt: 31.0,
};
/// The small GPU of a Ryzen 7000 processor, gfx1036.
pub const RAPHAEL: Spec = Spec {
    node: 2,
    name: "raphael",
    version: 100_306,
    simds: 4,
    bus: 0x13,
    minor: 129,
    vram: 0.5,
    visible: 0.5,
    gtt: 31.0,
};

impl Tree {
    /// From (path, content).
    pub fn new(files: &[(&str, &str)]) -> Self {
        Self::default().with(files)
    }

    /// With more files; the last of a path's contents counts.
    #[must_use]
    pub fn with(mut self, files: &[(&str, &str)]) -> Self {
        self.0.extend(files.iter().map(|(p, c)| ((*p).to_owned(), (*c).to_owned())));
        self
    }

    /// Without the files whose path contains `part`.
    #[must_use]
    pub fn without(mut self, part: &str) -> Self {
        self.0.retain(|(p, _)| !p.contains(part));
        self
    }

    /// With a GPU: its topology node, its PCI device, its render node.
    #[must_use]
    pub fn gpu(self, gpu: Spec) -> Self {
        let Spec { node, name, version, simds, bus, minor, .. } = gpu;
        let bytes = |gib: f64| ((gib * f64::from(1 << 30)) as u64).to_string();
        let topology = format!("sys/class/kfd/kfd/topology/nodes/{node}");
        let pci = format!("sys/bus/pci/devices/0000:{bus:02x}:00.0");
        let properties = format!(
            "cpu_cores_count 0\nsimd_count {simds}\nmem_banks_count 1\nsimd_per_cu 2\ngfx_target_version {version}\n\
             vendor_id 4098\nlocation_id {}\ndomain 0\ndrm_render_minor {minor}\n",
            bus << 8
        );
        let bank = format!("heap_type 1\nsize_in_bytes {}\nflags 0\n", bytes(gpu.vram));
        self.with(&[
            (&format!("{topology}/name"), name),
            (&format!("{topology}/properties"), &properties),
            (&format!("{topology}/mem_banks/0/properties"), &bank),
            (&format!("{pci}/vendor"), "0x1002\n"),
            (&format!("{pci}/class"), "0x030000\n"),
            (&format!("{pci}/driver"), "-> ../../../bus/pci/drivers/amdgpu"),
            (&format!("{pci}/mem_info_vram_total"), &bytes(gpu.vram)),
            (&format!("{pci}/mem_info_vram_used"), &bytes(gpu.vram / 16.0)),
            (&format!("{pci}/mem_info_vis_vram_total"), &bytes(gpu.visible)),
            (&format!("{pci}/mem_info_gtt_total"), &bytes(gpu.gtt)),
            (&format!("{pci}/current_link_width"), "16\n"),
            (&format!("{pci}/max_link_width"), "16\n"),
            (&format!("{pci}/drm/renderD{minor}/dev"), "226:128\n"),
            (&format!("{pci}/drm/card{}/dev", minor - 127), "226:1\n"),
            (&format!("{pci}/drm/card{0}/card{0}-DP-1/status", minor - 127), "disconnected\n"),
            (&format!("dev/dri/renderD{minor}"), "0660 0 109"),
        ])
    }

    /// Writes it.
    pub fn write(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for (path, content) in &self.0 {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            let _ = fs::remove_file(&path);
            match content.strip_prefix("-> ") {
                Some(target) => symlink(target, &path).expect("linked"),
                None => fs::write(path, content).expect("written"),
            }
        }
        dir
    }

    /// The machine, in an empty environment.
    pub fn machine(&self) -> Machine {
        self.machine_with(&[])
    }

    /// The machine, with environment variables.
    pub fn machine_with(&self, environment: &[(&str, &str)]) -> Machine {
        let dir = self.write();
        let var = |name: &str| environment.iter().find(|v| v.0 == name).map(|v| v.1.into());
        let mut machine = Machine::probe_with(dir.path(), &var);
        let this = machine.accounts.this.clone();
        let files = machine.gpu.kfd.iter_mut().chain(&mut machine.gpu.renders);
        files.for_each(|f| {
            own(f, dir.path());
            f.opens = f.permits(&this);
        });
        machine
    }
}

/// Gives a device file the mode, owner and group that its content says.
fn own(file: &mut DeviceFile, root: &Path) {
    let path: PathBuf = root.join(file.path.trim_start_matches('/'));
    let text = fs::read_to_string(path).expect("a device");
    let words: Vec<&str> = text.split_whitespace().collect();
    let [mode, uid, gid] = words[..] else { return };
    file.mode = u32::from_str_radix(mode, 8).expect("a mode");
    (file.uid, file.gid) = (uid.parse().expect("a user"), gid.parse().expect("a group"));
}
