// Streams, events, graphs, copies and launches. Work is done when it is submitted or, with
// HOSTHIP_LAZY, when it is waited for.
#include "device.h"

#include <unistd.h>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>

namespace {

typedef std::function<int()> Work;

struct Graph {
  std::vector<Work> work;
};

struct Stream {
  std::deque<Work> queue;
  std::unique_ptr<Graph> capture;
  int error = SUCCESS;  // of queued work, for whoever waits
};

struct Event {
  Stream* stream = nullptr;  // where it was recorded last
  bool done = true;          // an event that was never recorded is complete
  std::chrono::steady_clock::time_point time;
};

std::recursive_mutex lock;
std::set<Stream*> streams;
Stream null_stream;

Stream* stream_of(void* s) { return s ? (Stream*)s : &null_stream; }

void hang() {
  for (;;) pause();
}

// Does what is queued; the first error.
int drain(Stream& s) {
  while (!s.queue.empty()) {
    if (hangs()) hang();
    const Work work = std::move(s.queue.front());
    s.queue.pop_front();
    if (const int e = work())
      if (!s.error) s.error = e;
  }
  check_memory();
  const int e = s.error;
  s.error = SUCCESS;
  return e;
}

int drain_all() {
  int error = drain(null_stream);
  for (Stream* s : streams)
    if (const int e = drain(*s)) error = e;
  return error;
}

int submit(void* handle, Work work) {
  std::lock_guard l(lock);
  if (const int e = device_state()) return fail(e);
  Stream& s = *stream_of(handle);
  if (s.capture) {
    s.capture->work.push_back(std::move(work));
  } else if (settings().lazy && handle) {
    s.queue.push_back(std::move(work));
  } else {
    // The null stream waits for all others.
    if (!handle) drain_all();
    if (const int e = work()) return fail(e);
  }
  return SUCCESS;
}

// Waits for streams, unless one of them is being captured.
template <class F> int waiting(Stream* s, F wait) {
  std::unique_lock l(lock);
  if (const int e = device_state()) return fail(e);
  if (s && s->capture) return fail(CAPTURE_UNSUPPORTED);
  if (hangs()) {
    l.unlock();
    hang();
  }
  if (const int e = wait()) return fail(e);
  if (const int e = device_state()) return fail(e);
  return SUCCESS;
}

// Not ready the first time, if there was anything to do.
int poll(Stream& s) {
  std::lock_guard l(lock);
  if (const int e = device_state()) return fail(e);
  if (hangs()) return NOT_READY;
  if (s.queue.empty()) return s.error ? fail(drain(s)) : SUCCESS;
  if (const int e = drain(s)) return fail(e);
  return NOT_READY;
}

struct Launch {
  const Kernel* kernel;
  host::Dim grid, block;
  std::vector<u8> args;

  int operator()() const {
    if (const int e = count_launch(kernel->name)) return e;
    std::vector<void*> params;
    size_t at = 0;
    for (const u32 size : kernel->sizes) {
      at = (at + size - 1) / size * size;
      params.push_back((void*)(args.data() + at));
      at += size;
    }
    if (!hangs() && kernel->name != settings().wrong_in) run_grid(*kernel, grid, block, params.data());
    return device_state();
  }
};

}  // namespace

API int hipStreamCreateWithFlags(void** stream, unsigned) {
  if (const int e = device_state()) return fail(e);
  std::lock_guard l(lock);
  Stream* s = new Stream;
  streams.insert(s);
  *stream = s;
  return SUCCESS;
}

API int hipStreamDestroy(void* stream) {
  std::lock_guard l(lock);
  if (!streams.count((Stream*)stream)) return fail(INVALID_HANDLE);
  if (!hangs()) drain(*(Stream*)stream);
  streams.erase((Stream*)stream);
  delete (Stream*)stream;
  return SUCCESS;
}

API int hipStreamSynchronize(void* stream) {
  Stream* s = stream_of(stream);
  return waiting(s, [&] { return stream ? drain(*s) : drain_all(); });
}
API int hipDeviceSynchronize() {
  return waiting(nullptr, [] { return drain_all(); });
}
API int hipStreamQuery(void* stream) { return poll(*stream_of(stream)); }

API int hipStreamWaitEvent(void* stream, void* event, unsigned) {
  Event* e = (Event*)event;
  return submit(stream, [e] { return e->done ? SUCCESS : drain(*e->stream); });
}

API int hipEventCreateWithFlags(void** event, unsigned) {
  *event = new Event;
  return device_state();
}
API int hipEventCreate(void** event) { return hipEventCreateWithFlags(event, 0); }
API int hipEventDestroy(void* event) {
  std::lock_guard l(lock);
  // Its record may still be in the queue.
  Event* e = (Event*)event;
  if (!e->done && !hangs()) drain(*e->stream);
  delete e;
  return SUCCESS;
}

API int hipEventRecord(void* event, void* stream) {
  Event* e = (Event*)event;
  {
    std::lock_guard l(lock);
    e->stream = stream_of(stream), e->done = false;
  }
  return submit(stream, [e] {
    e->done = true, e->time = std::chrono::steady_clock::now();
    return SUCCESS;
  });
}
API int hipEventQuery(void* event) {
  Event* e = (Event*)event;
  std::lock_guard l(lock);
  if (e->done && !hangs()) return device_state() ? fail(device_state()) : SUCCESS;
  return poll(*e->stream);
}
API int hipEventSynchronize(void* event) {
  Event* e = (Event*)event;
  return waiting(e->stream, [&] { return e->done ? SUCCESS : drain(*e->stream); });
}
API int hipEventElapsedTime(float* ms, void* from, void* to) {
  const Event &a = *(Event*)from, &b = *(Event*)to;
  if (!a.stream || !b.stream) return fail(INVALID_HANDLE);
  if (!a.done || !b.done) return fail(NOT_READY);
  *ms = std::chrono::duration<float, std::milli>(b.time - a.time).count();
  return SUCCESS;
}

API int hipMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream) {
  // What comes from ordinary host memory is read before the call returns; what goes there is there
  // when it returns.
  const bool at_once = (kind == 1 && !pinned(from)) || (kind == 2 && !pinned(to));
  if (at_once) {
    std::lock_guard l(lock);
    Stream& s = *stream_of(stream);
    if (s.capture) return fail(CAPTURE_UNSUPPORTED);
    if (hangs()) return SUCCESS;
    if (const int e = drain(s)) return fail(e);
    memcpy(to, from, bytes);
    return device_state() ? fail(device_state()) : SUCCESS;
  }
  return submit(stream, [=] {
    memcpy(to, from, bytes);
    return SUCCESS;
  });
}
API int hipMemcpy(void* to, const void* from, size_t bytes, int) {
  return waiting(&null_stream, [&] {
    const int e = drain_all();
    memcpy(to, from, bytes);
    return e;
  });
}
API int hipMemsetAsync(void* to, int value, size_t bytes, void* stream) {
  return submit(stream, [=] {
    memset(to, value, bytes);
    return SUCCESS;
  });
}

// Marks of the `extra` list: the arguments' address, their size, the end.
API int hipModuleLaunchKernel(void* function, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, void* stream,
                              void** params, void** extra) {
  const Kernel* k = (const Kernel*)function;
  const u64 threads = (u64)bx * by * bz;
  if (!gx || !gy || !gz || !threads || threads > host::THREADS_MAX) return fail(INVALID_CONFIGURATION);
  if (shared) die("kernel %s is launched with %u bytes of dynamic LDS", k->name.c_str(), shared);
  const u8* packed = nullptr;
  size_t given = 0;
  for (void** e = extra; e && *e != (void*)3; e += 2) {
    if (*e == (void*)1) packed = (const u8*)e[1];
    if (*e == (void*)2) given = *(size_t*)e[1];
  }
  Launch launch = {k, {gx, gy, gz}, {bx, by, bz}, {}};
  size_t at = 0;
  for (size_t i = 0; i < k->sizes.size(); i++) {
    const size_t size = k->sizes[i], start = (at + size - 1) / size * size;
    at = start + size;
    launch.args.resize(at);
    if (packed && at > given) return fail(INVALID_VALUE);
    memcpy(launch.args.data() + start, packed ? packed + start : params[i], size);
  }
  return submit(stream, std::move(launch));
}

API int hipStreamBeginCapture(void* stream, int) {
  std::lock_guard l(lock);
  Stream& s = *stream_of(stream);
  if (!stream || s.capture) return fail(CAPTURE_UNSUPPORTED);
  s.capture.reset(new Graph);
  return SUCCESS;
}
API int hipStreamEndCapture(void* stream, void** graph) {
  std::lock_guard l(lock);
  Stream& s = *stream_of(stream);
  if (!s.capture) return fail(INVALID_VALUE);
  *graph = s.capture.release();
  return device_state();
}
API int hipGraphInstantiate(void** exec, void* graph, void*, char*, size_t) {
  *exec = new Graph(*(Graph*)graph);
  return device_state();
}
API int hipGraphLaunch(void* exec, void* stream) {
  for (const Work& work : ((Graph*)exec)->work)
    if (const int e = submit(stream, work)) return e;
  return SUCCESS;
}
API int hipGraphDestroy(void* graph) {
  delete (Graph*)graph;
  return SUCCESS;
}
API int hipGraphExecDestroy(void* exec) {
  delete (Graph*)exec;
  return SUCCESS;
}
