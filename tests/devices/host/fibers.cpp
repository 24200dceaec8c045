// Runs the blocks of a launch: the threads of a block are fibers, blocks run in parallel threads.
#include "device.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#if !defined(__x86_64__)
#error "the switch between fibers is written for x86-64"
#endif

extern "C" void fiber_switch(void** from, void* to);
asm(R"(.text
.globl fiber_switch
.hidden fiber_switch
fiber_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi); movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");

namespace host {

thread_local Block* here __attribute__((tls_model("initial-exec")));

namespace {

constexpr size_t STACK = 64 << 10, PAGE = 4096;

// What this OS thread runs, for the fibers' first step and for reports.
thread_local const Kernel* kernel_here;
thread_local void* const* params_here;

[[noreturn]] void broken(const char* what, u32 where) {
  const Dim at = here->id;
  die("kernel %s, block %u,%u,%u: %s (line %u)", kernel_here->name.c_str(), at.x, at.y, at.z, what, where / 4);
}

void enter() {
  kernel_here->run(params_here);
  Fiber& me = here->fibers[here->current];
  me.done = true;
  fiber_switch(&me.sp, here->scheduler);
  __builtin_trap();
}

// Canary words behind each array of LDS.
constexpr u32 LDS_GAP = 64;
constexpr u8 LDS_CANARY = 0xC5;

// The fibers of one block, and their stacks.
class Runner {
 public:
  Runner() : block_(new Block), fibers_(new Fiber[THREADS_MAX]) {
    block_->fibers = fibers_;
    void* m =
        mmap(nullptr, THREADS_MAX * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) die("no memory for stacks");
    stacks_ = (char*)m;
    for (u32 i = 0; i < THREADS_MAX; i++) mprotect(stacks_ + i * STACK, PAGE, PROT_NONE);
  }

  void run(const Kernel& kernel, Dim grid, Dim shape, Dim id, void* const* params, bool reverse) {
    Block& b = *block_;
    b.block = shape, b.grid = grid, b.id = id;
    b.threads = shape.x * shape.y * shape.z;
    b.lds_used = 0;
    memset(b.lds_at, 0xff, sizeof b.lds_at);
    here = &b, kernel_here = &kernel, params_here = params, reverse_ = reverse;
    for (u32 i = 0; i < b.threads; i++) {
      void** sp = (void**)(stacks_ + (i + 1) * STACK);
      *--sp = nullptr;
      *--sp = (void*)enter;
      fibers_[i] = {sp - 6, i, RUNS, 0, false};
    }
    while (!round()) {}
    check_lds();
    here = nullptr;
  }

 private:
  u32 team_end(u32 first) const { return first + 32 < block_->threads ? first + 32 : block_->threads; }

  void resume(u32 first) {
    const u32 end = team_end(first);
    for (u32 i = first; i < end; i++) {
      const u32 at = reverse_ ? first + end - 1 - i : i;
      if (fibers_[at].done) continue;
      block_->current = at;
      fiber_switch(&block_->scheduler, fibers_[at].sp);
    }
  }

  // Where the threads of a team wait, or RUNS if all have returned.
  u32 meeting(u32 first) {
    u32 where = RUNS, done = 0;
    const u32 end = team_end(first);
    for (u32 i = first; i < end; i++) {
      if (fibers_[i].done) {
        done++;
      } else {
        if (where != RUNS && where != fibers_[i].wait) broken("lanes of one team wait at different places", where);
        where = fibers_[i].wait;
      }
    }
    if (done && where != RUNS) broken("some lanes have returned that others wait for", where);
    return where;
  }

  // Runs a team to its next place to wait for more than itself.
  u32 advance(u32 first) {
    resume(first);
    u32 where = meeting(first);
    while (where % 4 == TEAM) {
      resume(first);
      where = meeting(first);
    }
    return where;
  }

  // Runs the teams of a wave to the barrier or their end.
  u32 advance_wave(u32 first) {
    constexpr u32 TEAMS = RF_WAVE / 32;
    for (;;) {
      u32 where = RUNS;
      for (u32 t = 0; t < TEAMS; t++) {
        const u32 team = first + 32 * (reverse_ ? TEAMS - 1 - t : t);
        if (team >= block_->threads) continue;
        const u32 here = advance(team);
        if (t && here != where) broken("teams of one wave wait at different places", here);
        where = here;
      }
      if (where % 4 != WAVE) return where;
    }
  }

  // Every wave runs to the barrier or its end; true if all have ended.
  bool round() {
    u32 barrier = RUNS;
    bool ended = false;
    const u32 waves = (block_->threads + RF_WAVE - 1) / RF_WAVE;
    for (u32 w = 0; w < waves; w++) {
      const u32 where = advance_wave(RF_WAVE * (reverse_ ? waves - 1 - w : w));
      if (where == RUNS) {
        ended = true;
      } else {
        if (barrier != RUNS && barrier != where) broken("teams wait at different barriers", where);
        barrier = where;
      }
    }
    if (ended && barrier != RUNS) broken("some teams have returned that others wait for", barrier);
    return barrier == RUNS;
  }

  void check_lds() {
    for (u32 site = 0; site < SITES_MAX; site++) {
      if (block_->lds_at[site] < 0) continue;
      for (u32 i = 0; i < LDS_GAP; i++)
        if (block_->lds[block_->lds_end[site] + i] != LDS_CANARY)
          broken("a write behind the end of an array in LDS", 0);
    }
  }

  Block* block_;
  Fiber* fibers_;
  char* stacks_;
  bool reverse_ = false;
};

// A launch that is being worked on.
struct Job {
  const Kernel* kernel;
  Dim grid, block;
  void* const* params;
  std::atomic<u64> next;
  u64 total;

  void work(Runner& runner) {
    for (u64 i; (i = next++) < total;) {
      const Dim id = {(u32)(i % grid.x), (u32)(i / grid.x % grid.y), (u32)(i / grid.x / grid.y)};
      runner.run(*kernel, grid, block, id, params, settings().reverse);
    }
  }
};

// Threads that help with launches; they live as long as the process.
class Pool {
 public:
  explicit Pool(u32 helpers) {
    for (u32 i = 0; i < helpers; i++) std::thread([this] { help(); }).detach();
    helpers_ = helpers;
  }

  void run(Job& job) {
    std::lock_guard one(launch_);
    static thread_local Runner mine;
    if (job.total > 1 && helpers_) {
      std::lock_guard l(m_);
      job_ = &job, busy_ = helpers_, turn_++;
      start_.notify_all();
    }
    job.work(mine);
    if (job.total > 1 && helpers_) {
      std::unique_lock l(m_);
      end_.wait(l, [&] { return busy_ == 0; });
    }
  }

 private:
  void help() {
    Runner mine;
    u64 seen = 0;
    for (;;) {
      Job* job;
      {
        std::unique_lock l(m_);
        start_.wait(l, [&] { return turn_ != seen; });
        seen = turn_, job = job_;
      }
      job->work(mine);
      std::lock_guard l(m_);
      if (--busy_ == 0) end_.notify_one();
    }
  }

  std::mutex launch_, m_;
  std::condition_variable start_, end_;
  Job* job_ = nullptr;
  u32 busy_ = 0, helpers_ = 0;
  u64 turn_ = 0;
};

// A kernel that touches what it must not: says which one, then dies of it.
struct sigaction before;
void on_segv(int, siginfo_t* info, void*) {
  if (here && kernel_here) {
    char line[512];
    const int n = snprintf(line, sizeof line,
                           "host device: kernel %s, block %u,%u,%u thread %u touches %p, which is in no buffer\n",
                           kernel_here->name.c_str(), here->id.x, here->id.y, here->id.z, tid(), info->si_addr);
    if (write(2, line, n) < 0) _exit(1);
  }
  sigaction(SIGSEGV, &before, nullptr);
}

}  // namespace

u32 new_site() {
  static std::atomic<u32> next{0};
  const u32 site = next++;
  if (site >= SITES_MAX) die("more than %u arrays in LDS", SITES_MAX);
  return site;
}

void* lds(u32 site, size_t bytes, const char* name) {
  Block& b = *here;
  if (b.lds_at[site] < 0) {
    const u32 at = (b.lds_used + 63) & ~63u;
    if (at + bytes + LDS_GAP > LDS_BYTES) die("kernel %s: no LDS left for %s", kernel_here->name.c_str(), name);
    b.lds_at[site] = (i32)at;
    b.lds_end[site] = at + (u32)bytes;
    b.lds_used = at + (u32)bytes + LDS_GAP;
    memset(b.lds + at, 0xff, bytes);
    memset(b.lds + at + bytes, LDS_CANARY, LDS_GAP);
  }
  return b.lds + b.lds_at[site];
}

void wait(u32 where) {
  Fiber& me = here->fibers[here->current];
  me.wait = where;
  fiber_switch(&me.sp, here->scheduler);
}

}  // namespace host

void run_grid(const Kernel& kernel, host::Dim grid, host::Dim block, void* const* params) {
  static host::Pool* pool = [] {
    struct sigaction action = {};
    action.sa_sigaction = host::on_segv;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &host::before);
    return new host::Pool(settings().threads - 1);
  }();
  host::Job job = {&kernel, grid, block, params, {0}, (u64)grid.x * grid.y * grid.z};
  pool->run(job);
}

void die(const char* format, ...) {
  va_list args;
  va_start(args, format);
  fputs("host device: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  abort();
}
