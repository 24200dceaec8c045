// libamdhip64.so stand-in: enough of HIP for a module-loading inference daemon, kernels run on the CPU.
#define RF_HOST 1
#include "prelude.h"
#include <sys/mman.h>
#include <map>
#include <string>
#include <vector>
#include <mutex>
#include <thread>
#include <atomic>
#include <chrono>
namespace rfh {
thread_local Block* B __attribute__((tls_model("initial-exec")));
u32 lds_site(const char* n, size_t b) { static u32 top; u32 o = top; top = (top + b + 63) & ~63u; if (top > 65536) { fprintf(stderr, "fakehip: LDS arena full at %s\n", n); abort(); } return o; }
struct Kern { std::string name; Tramp t; std::vector<u32> sizes; };
static std::map<std::string, Kern>& reg() { static std::map<std::string, Kern> m; return m; }
void register_kernel(const char* n, Tramp t, const u32* s, u32 c) { reg()[n] = {n, t, std::vector<u32>(s, s + c)}; }
void die(const char* w, u32 tag) {
  fprintf(stderr, "fakehip: %s (source line %u, block %u,%u,%u)\n", w, tag >> 8, B->bid.x, B->bid.y, B->bid.z); abort();
}
asm(R"(.text
.globl rfh_switch
rfh_switch: pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi); movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret
)");
struct Job { const Kern* k; void* const* params; };
static thread_local Job J;
static void entry() {
  J.k->t(J.params);
  Fiber& me = B->f[B->cur]; me.done = true; rfh_switch(&me.sp, B->sched_sp); __builtin_trap();
}
static const size_t STACK = 64 << 10;
static void run_block(Block& b, char* stacks, u32 order) {
  for (u32 i = 0; i < b.n; i++) {
    void** sp = (void**)(stacks + (i + 1) * STACK); *--sp = 0; *--sp = (void*)entry; sp -= 6;
    b.f[i] = {sp, i, 0, false};
  }
  auto resume = [&](u32 lo, u32 hi) {
    for (u32 i = lo; i < hi; i++) { u32 j = order ? lo + hi - 1 - i : i; if (!b.f[j].done) { b.cur = j; rfh_switch(&b.sched_sp, b.f[j].sp); } }
  };
  for (u32 w = 0; w < b.n; w += 32) resume(w, w + 32 < b.n ? w + 32 : b.n);
  for (;;) {                                     // waves advance alone through wave collectives, together through barriers
    u32 at_bar = 0, done = 0, tag = 0;
    for (u32 w0 = 0; w0 < b.n; w0 += 32) {
      u32 w = order ? (b.n - 1 - w0) / 32 * 32 : w0, hi = w + 32 < b.n ? w + 32 : b.n;
      for (;;) {
        u32 d = 0, wt = 0; bool mixed = false;
        for (u32 i = w; i < hi; i++) { if (b.f[i].done) d++; else { if (wt && wt != b.f[i].wait) mixed = true; wt = b.f[i].wait; } }
        if (mixed) die("lanes of one wave wait at different places (divergent collective)", wt);
        if (d == hi - w) { done += d; break; }
        if ((wt & 255) == 1) { if (d) die("barrier after some lanes returned", wt); at_bar += hi - w; if (tag && tag != wt) die("waves at different barriers", wt); tag = wt; break; }
        if (d) die("wave collective after some lanes returned", wt);
        resume(w, hi);
      }
    }
    if (done == b.n) return;
    if (done && at_bar) die("barrier not reached by all waves", tag);
    for (u32 w0 = 0; w0 < b.n; w0 += 32) { u32 w = order ? (b.n - 1 - w0) / 32 * 32 : w0; resume(w, w + 32 < b.n ? w + 32 : b.n); }
  }
}
static void launch(const Kern* k, Dim g, Dim bl, void* const* params) {
  const u64 total = (u64)g.x * g.y * g.z; std::atomic<u64> next{0};
  static u32 order = getenv("FAKEHIP_REVERSE") ? 1 : 0;
  unsigned nt = getenv("FAKEHIP_THREADS") ? atoi(getenv("FAKEHIP_THREADS")) : 1;
  auto worker = [&] {
    u32 n = bl.x * bl.y * bl.z; static thread_local char* stacks = nullptr; static thread_local u32 cap = 0;
    if (cap < n) { stacks = (char*)mmap(0, n * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); cap = n; }
    static thread_local Block* bp = nullptr; if (!bp) { bp = new Block; bp->f = new Fiber[1024]; } Block& b = *bp; b.block = bl; b.grid = g; b.n = n; B = bp; J = {k, params};
    for (u64 i; (i = next++) < total;) { b.bid = {(u32)(i % g.x), (u32)(i / g.x % g.y), (u32)(i / g.x / g.y)}; run_block(b, stacks, order); }
  };
  std::vector<std::thread> ts; for (unsigned i = 1; i < nt; i++) ts.emplace_back(worker);
  worker(); for (auto& t : ts) t.join();
}
}
using namespace rfh;
#define API extern "C" __attribute__((visibility("default"))) int
static std::mutex mu; static std::map<char*, std::pair<char*, size_t>> allocs; static size_t used; static thread_local int last;
static size_t total_mem() { const char* e = getenv("FAKEHIP_MEM_MB"); return (size_t)(e ? atoi(e) : 4096) << 20; }
static size_t count() { const char* e = getenv("FAKEHIP_DEVICES"); return e ? atoi(e) : 1; }
static int ret(int e) { if (e) last = e; return e; }
API hipInit(unsigned) { return count() ? 0 : ret(100); }
API hipGetDeviceCount(int* n) { *n = (int)count(); return *n ? 0 : ret(100); }
API hipSetDevice(int d) { return d < (int)count() ? 0 : ret(101); }
API hipRuntimeGetVersion(int* v) { *v = 70125424; return 0; }
API hipDeviceGetName(char* s, int n, int) { snprintf(s, n, "fakehip (CPU)"); return 0; }
API hipMemGetInfo(size_t* f, size_t* t) { std::lock_guard<std::mutex> l(mu); *t = total_mem(); *f = *t - used; return 0; }
API hipMalloc(void** p, size_t n) {              // guard page right after the last byte: an overrun faults at once
  std::lock_guard<std::mutex> l(mu); if (used + n > total_mem()) return ret(2);
  size_t pg = 4096, body = (n + pg - 1) / pg * pg; char* m = (char*)mmap(0, body + 2 * pg, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (m == MAP_FAILED) return ret(2); mprotect(m + pg, body, PROT_READ | PROT_WRITE);
  char* u = m + pg + (body - (n + 15) / 16 * 16); if (n <= 64 << 20) memset(u, 0xff, n);   // 0xff.. reads as NaN
  allocs[u] = {m, body + 2 * pg}; used += n; *p = u; return 0;
}
API hipFree(void* p) { if (!p) return 0; std::lock_guard<std::mutex> l(mu); auto i = allocs.find((char*)p); if (i == allocs.end()) return ret(1);
  used -= std::min(used, i->second.second - 8192); munmap(i->second.first, i->second.second); allocs.erase(i); return 0; }
API hipMemcpy(void* d, const void* s, size_t n, int) { memcpy(d, s, n); return 0; }
API hipMemcpyAsync(void* d, const void* s, size_t n, int, void*) { memcpy(d, s, n); return 0; }
API hipMemsetAsync(void* d, int v, size_t n, void*) { memset(d, v, n); return 0; }
API hipStreamCreateWithFlags(void** s, unsigned) { *s = malloc(8); return 0; }
API hipStreamSynchronize(void*) { return 0; }
API hipDeviceSynchronize() { return 0; }
API hipGetLastError() { int e = last; last = 0; return e; }
extern "C" __attribute__((visibility("default"))) const char* hipGetErrorString(int e) { return e == 0 ? "no error" : e == 2 ? "out of memory" : e == 100 ? "no ROCm-capable device is detected" : e == 209 ? "no kernel image is available" : e == 500 ? "named symbol not found" : "error"; }
struct Mod { std::string image; };
API hipModuleLoadData(void** m, const void* img) {   // the real .hsaco is required and checked, then the same-named host kernel runs
  const u8* e = (const u8*)img; if (memcmp(e, "\177ELF", 4) || *(u16*)(e + 18) != 0xe0) return ret(200);
  if ((*(u32*)(e + 48) & 0xff) != 0x41) return ret(209);           // EF_AMDGPU_MACH_AMDGCN_GFX1100
  u64 shoff = *(u64*)(e + 40); u16 shsz = *(u16*)(e + 58), shn = *(u16*)(e + 60);
  *m = new Mod{std::string((const char*)e, shoff + (u64)shsz * shn)}; return 0;
}
API hipModuleGetFunction(void** f, void* m, const char* n) {
  auto i = reg().find(n); std::string kd = std::string(n) + ".kd";
  if (i == reg().end() || ((Mod*)m)->image.find(kd) == std::string::npos) return ret(500);
  *f = &i->second; return 0;
}
API hipModuleLaunchKernel(void* f, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32, void*, void** params, void** extra) {
  const Kern* k = (const Kern*)f; if (!bx || bx * by * bz > 1024 || !gx) return ret(9);
  void* pv[32];
  if (!params && extra) {                        // HIP_LAUNCH_PARAM_BUFFER_POINTER: packed kernarg segment
    char* buf = (char*)extra[1]; size_t o = 0; for (size_t i = 0; i < k->sizes.size(); i++) { size_t s = k->sizes[i]; o = (o + s - 1) / s * s; pv[i] = buf + o; o += s; }
    params = pv;
  }
  launch(k, {gx, gy, gz}, {bx, by, bz}, params); return 0;
}
#include "q4_gemv.hip"
RF_REGISTER(q4_0_gemv_f32)
RF_REGISTER(q4_0_gemv_q8)
RF_REGISTER(wmma_tile)
