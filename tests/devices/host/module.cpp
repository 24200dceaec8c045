// Modules: a real code object is loaded and checked, then the host kernels of the same names run.
#include "device.h"

#include <cstdio>
#include <map>
#include <set>

namespace {

std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

struct Module {
  std::set<std::string> names;
};

template <class T> T read(const u8* p) {
  T v;
  memcpy(&v, p, sizeof v);
  return v;
}

// EF_AMDGPU_MACH of LLVM's AMDGPUUsage.
u32 machine(const std::string& arch) {
  static const std::map<std::string, u32> all = {
      {"gfx90a", 0x3f}, {"gfx942", 0x4c}, {"gfx1030", 0x36}, {"gfx1100", 0x41}, {"gfx1201", 0x4e}};
  const auto at = all.find(arch);
  if (at == all.end()) die("HOSTHIP_ARCH: %s is not one of the known chips", arch.c_str());
  return at->second;
}

// The kernels of an AMDGPU ELF file: its dynamic symbols NAME.kd, the kernel descriptors.
int names_of(const u8* elf, std::set<std::string>& names) {
  if (memcmp(elf, "\177ELF\2\1", 6) || read<u16>(elf + 18) != 0xe0) return INVALID_IMAGE;
  if ((read<u32>(elf + 48) & 0xff) != machine(settings().arch)) return NO_BINARY_FOR_GPU;
  const u8* sections = elf + read<u64>(elf + 40);
  const u32 size = read<u16>(elf + 58), count = read<u16>(elf + 60);
  for (u32 i = 0; i < count; i++) {
    const u8* section = sections + i * size;
    if (read<u32>(section + 4) != 11) continue;  // SHT_DYNSYM
    const u8* symbols = elf + read<u64>(section + 24);
    const u64 bytes = read<u64>(section + 32);
    const u8* strings = elf + read<u64>(sections + read<u32>(section + 40) * size + 24);
    for (u64 at = 0; at < bytes; at += 24) {
      const std::string name = (const char*)strings + read<u32>(symbols + at);
      if (name.size() > 3 && name.compare(name.size() - 3, 3, ".kd") == 0)
        names.insert(name.substr(0, name.size() - 3));
    }
  }
  return names.empty() ? INVALID_IMAGE : SUCCESS;
}

}  // namespace

void host::register_kernel(const char* name, Trampoline run, const u32* sizes, u32 count) {
  if (!kernels().emplace(name, Kernel{name, run, std::vector<u32>(sizes, sizes + count)}).second)
    die("two kernels are called %s", name);
}

API int hipModuleLoadData(void** module, const void* image) {
  if (const int e = device_state()) return fail(e);
  Module m;
  if (const int e = names_of((const u8*)image, m.names)) return fail(e);
  *module = new Module(m);
  return SUCCESS;
}

API int hipModuleUnload(void* module) {
  delete (Module*)module;
  return SUCCESS;
}

API int hipModuleGetFunction(void** function, void* module, const char* name) {
  if (!((Module*)module)->names.count(name)) return fail(NOT_FOUND);
  const auto at = kernels().find(name);
  if (at == kernels().end())
    die("kernel %s is in the code object, but was not built for the host (RF_REGISTER?)", name);
  *function = &at->second;
  return SUCCESS;
}
