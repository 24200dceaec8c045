// Modules: a code object for gfx1100 is read as far as to know its kernels, and the library's own of
// the same names are loaded.
#include <cstring>
#include <map>
#include <string>

#include "driver.h"

// What build.sh made of the kernels' sources: PTX or machine code, and each kernel's image and bytes of
// arguments.
struct Image {
  const char* file;
  const void* bytes;
};
struct Entry {
  const char* name;
  int image;
  size_t argument_bytes;
};
#include "images.inc"

namespace {

constexpr unsigned MACHINE_GFX1100 = 0x41;

struct Module {
  void* image;
  std::map<std::string, Kernel> kernels;
};

template <class T> T read(const char* p) {
  T v;
  memcpy(&v, p, sizeof v);
  return v;
}

const Entry* find(const std::string& name) {
  for (const Entry& e : ENTRIES)
    if (name == e.name) return &e;
  return nullptr;
}

// Calls `f` with the name and the descriptor's file offset of each kernel of an AMDGPU ELF file: its
// dynamic symbols NAME.kd. What is loaded is the same bytes at other addresses, by program header.
template <class F> int each_kernel(const char* elf, F f) {
  if (memcmp(elf, "\177ELF\2\1", 6) || read<uint16_t>(elf + 18) != 0xe0) return INVALID_IMAGE;
  if ((read<uint32_t>(elf + 48) & 0xff) != MACHINE_GFX1100) return NO_BINARY_FOR_GPU;
  const char* sections = elf + read<uint64_t>(elf + 40);
  const unsigned size = read<uint16_t>(elf + 58), count = read<uint16_t>(elf + 60);
  const auto section = [&](unsigned i) { return sections + i * size; };
  unsigned kernels = 0;
  for (unsigned i = 0; i < count; i++) {
    if (read<uint32_t>(section(i) + 4) != 11) continue;  // SHT_DYNSYM
    const char* symbols = elf + read<uint64_t>(section(i) + 24);
    const char* strings = elf + read<uint64_t>(section(read<uint32_t>(section(i) + 40)) + 24);
    for (uint64_t at = 0; at < read<uint64_t>(section(i) + 32); at += 24) {
      const std::string name = strings + read<uint32_t>(symbols + at);
      if (name.size() <= 3 || name.compare(name.size() - 3, 3, ".kd")) continue;
      const char* home = section(read<uint16_t>(symbols + at + 6));
      const uint64_t offset = read<uint64_t>(home + 24) + read<uint64_t>(symbols + at + 8) - read<uint64_t>(home + 16);
      if (const int e = f(name.substr(0, name.size() - 3), elf + offset)) return e;
      kernels++;
    }
  }
  return kernels ? SUCCESS : INVALID_IMAGE;
}

}  // namespace

API int hipModuleLoadData(void** module, const void* elf) {
  const Entry* first = nullptr;
  std::map<std::string, Kernel> kernels;
  const int e = each_kernel((const char*)elf, [&](const std::string& name, const char* descriptor) -> int {
    const Entry* entry = find(name);
    if (!entry) return NOT_FOUND;
    // Both compilers laid out the same arguments.
    const uint32_t bytes = read<uint32_t>(descriptor + 8);
    if (bytes < entry->argument_bytes || bytes >= entry->argument_bytes + 8) return INVALID_IMAGE;
    if (!first) first = entry;
    kernels[name] = {nullptr, entry->name, entry->argument_bytes};
    return SUCCESS;
  });
  if (e) return fail(e);
  void* image;
  if (const int e = CUDA_HERE(cuModuleLoadData, &image, IMAGES[first->image].bytes)) return e;
  for (auto& named : kernels) {
    Kernel& k = named.second;
    if (const int e = CUDA_HERE(cuModuleGetFunction, &k.function, image, k.name)) return e;
  }
  *module = new Module{image, std::move(kernels)};
  return SUCCESS;
}

API int hipModuleUnload(void* module) {
  Module* m = (Module*)module;
  const int e = CUDA_HERE(cuModuleUnload, m->image);
  delete m;
  return e;
}

API int hipModuleGetFunction(void** function, void* module, const char* name) {
  Module* m = (Module*)module;
  const auto at = m->kernels.find(name);
  if (at == m->kernels.end()) return fail(NOT_FOUND);
  *function = &at->second;
  return SUCCESS;
}
