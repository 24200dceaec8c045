// Device "host": a libamdhip64.so that runs the kernel sources on the CPU. What the files of this
// folder share.
//
// It is set up by environment variables, read once:
//   HOSTHIP_ARCH=gfx1100     what it claims to be; code objects must be for it
//   HOSTHIP_DEVICES=1        devices; 0: a machine with ROCm and no card
//   HOSTHIP_INTEGRATED=1     its memory is the machine's
//   HOSTHIP_MEMORY_MB=4096   memory of each
//   HOSTHIP_VERSION=70125424 version of runtime and driver
//   HOSTHIP_THREADS          threads that run blocks (default: the machine's)
//   HOSTHIP_ORDER=reverse    teams and lanes run from the last to the first: with a barrier
//                            missing, one of the two orders goes wrong
//   HOSTHIP_LAZY=1           work on a stream waits until somebody synchronizes or asks for the
//                            second time, so that results are not there by luck
//   HOSTHIP_ALIGN=256        alignment of allocations; at 16, ends lie closer to the guard page
// Faults, each counted from 1 over the life of the process; launches in graphs count:
//   HOSTHIP_FAIL_MALLOC=n    the nth hipMalloc finds no memory
//   HOSTHIP_FAIL_LAUNCH=n    the nth launch returns an error and does nothing
//   HOSTHIP_LOSE_AT=n        the nth launch and all calls to the device from then on fail
//   HOSTHIP_ABORT_AT=n       the nth launch ends the process as ROCm does on a memory fault
//   HOSTHIP_HANG_AT=n        work from the nth launch on never completes
// Faults of one kernel, named:
//   HOSTHIP_WRONG_IN=name    it does nothing
//   HOSTHIP_ABORT_IN=name    it ends the process as ROCm does on a memory fault
//   HOSTHIP_HANG_IN=name     it never completes, nor does work after it
#pragma once
#include <atomic>
#include <string>
#include <vector>

#include "../hip.h"
#include "host.h"

struct Settings {
  std::string arch;
  int devices;
  size_t memory;
  u32 threads;
  bool reverse, lazy;
  size_t align;
  u64 fail_malloc, fail_launch, lose_at, abort_at, hang_at;
  std::string wrong_in, abort_in, hang_in;
  int version;
};
const Settings& settings();

// Prints and aborts: a mistake of the caller or a kernel that no real device would report.
[[noreturn]] void die(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Remembers an error for hipGetLastError and returns it.
int fail(int error);

// What is wrong with the device as a whole, or SUCCESS.
int device_state();
int current_device();

struct Kernel {
  std::string name;
  host::Trampoline run;
  std::vector<u32> sizes;  // of the arguments
};
const Kernel* find_kernel(const std::string& name);

// Runs all blocks of a launch.
void run_grid(const Kernel& kernel, host::Dim grid, host::Dim block, void* const* params);

// Counts a launch of `kernel`; the error that it is to return, if any.
int count_launch(const std::string& kernel);
// Whether work hangs by now.
bool hangs();

// Checks the bytes around all allocations.
void check_memory();
// Whether the address is in memory that the host got from hipHostMalloc.
bool pinned(const void* p);
