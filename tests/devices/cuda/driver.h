// Device "cuda": a libamdhip64.so that forwards to the CUDA driver, which is opened at run time.
// What the files of this folder share.
//
// It says that it is a gfx1100 and takes that chip's code objects, as the daemon has them; the kernels
// of the same names that run instead are in the library (build.sh).
//
// Environment variables:
//   CUDAHIP_KERNEL_TIMES=FILE   nothing is recorded as a graph, each launch is timed, and FILE is a
//                               table of kernels, calls and microseconds, written anew now and then
//   CUDAHIP_GRAPH_TIMES=FILE    the same of recorded steps, as they are launched
#pragma once
#include <cstddef>
#include <cstdint>

#include "../hip.h"

// Remembers an error for hipGetLastError and returns it.
int fail(int error);

// A function of libcuda, or null.
void* driver_function(const char* name);

// Makes this thread's device current: a thread that chose none has the first, as in HIP, while CUDA
// has none.
int enter();

template <class... A> int call(void* f, A... args) {
  const int e = f ? ((int (*)(A...))f)(args...) : NO_DEVICE;
  return e ? fail(e) : SUCCESS;
}

// Calls a function of libcuda by its name there.
#define CUDA(name, ...)                              \
  ([&] {                                             \
    static void* const f = driver_function(#name);   \
    return call(f, ##__VA_ARGS__);                   \
  }())
// The same for functions that need a context.
#define CUDA_HERE(name, ...)                         \
  ([&] {                                             \
    if (const int e = enter()) return e;             \
    static void* const f = driver_function(#name);   \
    return call(f, ##__VA_ARGS__);                   \
  }())

// A kernel as hipModuleGetFunction returns it.
struct Kernel {
  void* function;
  const char* name;
  size_t argument_bytes;
};

// Whether launches are timed one by one, so that nothing may be recorded.
bool times_kernels();
// Around a launch of `name` on a stream: the first returns what the second takes, -1 if nothing is timed.
int begin_timing(void* stream, bool graph);
void end_timing(int handle, const char* name, void* stream);
