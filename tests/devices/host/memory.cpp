// Memory of the device and of the host. Each allocation ends at a page that faults; what its
// alignment leaves between is checked. Fresh memory is full of NaN; freed memory faults.
#include "device.h"

#include <sys/mman.h>

#include <cstring>
#include <deque>
#include <map>
#include <mutex>

namespace {

constexpr size_t PAGE = 4096;
constexpr u8 CANARY = 0xC5;
// Larger allocations are not filled: it would cost their pages.
constexpr size_t FILL_MAX = 64 << 20;
// Freed ranges that are kept, so that nothing new comes to lie there.
constexpr size_t GRAVES_MAX = 4096;

struct Allocation {
  u8* map;
  size_t map_bytes;  // with a guard page at both ends
  u8* start;
  size_t bytes;
  int device;  // -1: the host's

  u8* low() const { return map + PAGE; }
  u8* high() const { return map + map_bytes - PAGE; }
};

std::mutex lock;
std::map<u8*, Allocation> live;
std::deque<std::pair<u8*, size_t>> graves;
size_t used[16];

u8* place(size_t bytes, size_t align, int device) {
  const size_t padded = (bytes + align - 1) / align * align, body = (padded + PAGE - 1) / PAGE * PAGE;
  Allocation a = {nullptr, body + 2 * PAGE, nullptr, bytes, device};
  a.map = (u8*)mmap(nullptr, a.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (a.map == MAP_FAILED || mprotect(a.low(), body, PROT_READ | PROT_WRITE)) return nullptr;
  a.start = a.high() - padded;
  memset(a.low(), CANARY, a.start - a.low());
  memset(a.start + bytes, CANARY, padded - bytes);
  if (bytes <= FILL_MAX) memset(a.start, 0xff, bytes);
  live[a.start] = a;
  return a.start;
}

void check(const Allocation& a) {
  for (const u8* p = a.low(); p < a.start; p++)
    if (*p != CANARY) die("%zu bytes before an allocation of %zu were written", (size_t)(a.start - p), a.bytes);
  for (const u8* p = a.start + a.bytes; p < a.high(); p++)
    if (*p != CANARY) die("byte %zu of an allocation of %zu was written", (size_t)(p - a.start), a.bytes);
}

int release(void* p, bool host) {
  if (!p) return SUCCESS;
  std::lock_guard l(lock);
  const auto at = live.find((u8*)p);
  if (at == live.end() || (at->second.device < 0) != host) return fail(INVALID_VALUE);
  const Allocation a = at->second;
  check(a);
  live.erase(at);
  if (a.device >= 0) used[a.device] -= a.bytes;
  madvise(a.map, a.map_bytes, MADV_DONTNEED);
  mprotect(a.map, a.map_bytes, PROT_NONE);
  graves.push_back({a.map, a.map_bytes});
  if (graves.size() > GRAVES_MAX) {
    munmap(graves.front().first, graves.front().second);
    graves.pop_front();
  }
  return SUCCESS;
}

}  // namespace

void check_memory() {
  std::lock_guard l(lock);
  for (const auto& [_, a] : live) check(a);
}

bool pinned(const void* p) {
  std::lock_guard l(lock);
  auto at = live.upper_bound((u8*)p);
  if (at == live.begin()) return false;
  const Allocation& a = (--at)->second;
  return a.device < 0 && (u8*)p < a.start + a.bytes;
}

API int hipMemGetInfo(size_t* free, size_t* total) {
  if (const int e = device_state()) return fail(e);
  std::lock_guard l(lock);
  *total = settings().memory;
  *free = *total - used[current_device()];
  return SUCCESS;
}

API int hipMalloc(void** p, size_t bytes) {
  static std::atomic<u64> count{0};
  if (const int e = device_state()) return fail(e);
  if (++count == settings().fail_malloc) return fail(OUT_OF_MEMORY);
  *p = nullptr;
  if (!bytes) return SUCCESS;
  std::lock_guard l(lock);
  size_t& mine = used[current_device()];
  if (bytes > settings().memory - mine) return fail(OUT_OF_MEMORY);
  if (!(*p = place(bytes, settings().align, current_device()))) return fail(OUT_OF_MEMORY);
  mine += bytes;
  return SUCCESS;
}

API int hipFree(void* p) { return release(p, false); }

API int hipHostMalloc(void** p, size_t bytes, unsigned) {
  if (const int e = device_state()) return fail(e);
  *p = nullptr;
  if (!bytes) return SUCCESS;
  std::lock_guard l(lock);
  return (*p = place(bytes, 64, -1)) ? SUCCESS : fail(OUT_OF_MEMORY);
}

API int hipHostFree(void* p) { return release(p, true); }
