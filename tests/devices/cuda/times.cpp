// Times of launches: an event before and one after each. What two events with nothing between them
// show is in every figure of a kernel; it is the table's first line.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "driver.h"

namespace {

// Launches whose events are looked at together: so many steps that the wait for them does not count.
constexpr size_t PENDING_MAX = 8192;

struct Launch {
  void *before, *after;
  const char* name;
};

struct Total {
  unsigned long calls;
  double us;
};

const char* const kernel_file = getenv("CUDAHIP_KERNEL_TIMES");
const char* const graph_file = getenv("CUDAHIP_GRAPH_TIMES");
std::mutex lock;
std::vector<Launch> pending;
std::map<std::string, Total> totals;

void* event() {
  void* e = nullptr;
  CUDA_HERE(cuEventCreate, &e, 0u);
  return e;
}

void write() {
  FILE* f = fopen(kernel_file ? kernel_file : graph_file, "w");
  if (!f) return;
  for (const auto& [name, t] : totals) fprintf(f, "%s\t%lu\t%.1f\n", name.c_str(), t.calls, t.us);
  fclose(f);
}

void collect() {
  for (const Launch& l : pending) {
    float ms = 0;
    CUDA_HERE(cuEventSynchronize, l.after);
    CUDA_HERE(cuEventElapsedTime, &ms, l.before, l.after);
    Total& t = totals[l.name];
    t.calls++, t.us += 1000.0 * ms;
    CUDA_HERE(cuEventDestroy_v2, l.before);
    CUDA_HERE(cuEventDestroy_v2, l.after);
  }
  pending.clear();
  write();
}

}  // namespace

bool times_kernels() { return kernel_file; }

int begin_timing(void* stream, bool graph) {
  // In a recording, launches are not launched.
  if (graph ? !graph_file : !kernel_file) return -1;
  std::lock_guard l(lock);
  if (pending.size() >= (graph ? 32 : PENDING_MAX)) {
    collect();
    pending.push_back({event(), event(), " nothing"});
    CUDA_HERE(cuEventRecord, pending.back().before, stream);
    CUDA_HERE(cuEventRecord, pending.back().after, stream);
  }
  pending.push_back({event(), event(), ""});
  CUDA_HERE(cuEventRecord, pending.back().before, stream);
  return (int)pending.size() - 1;
}

void end_timing(int handle, const char* name, void* stream) {
  if (handle < 0) return;
  std::lock_guard l(lock);
  pending[handle].name = name;
  CUDA_HERE(cuEventRecord, pending[handle].after, stream);
}
