// Kernels with mistakes, and a right one: what device host must notice (tests/devices/host/test_host.py).
#include "prelude.h"

// Right: sums of neighbouring blocks of 64.
RF_KERNEL RF_BOUNDS(64) void sums(const float* x, float* out) {
  RF_SHARED(float, scratch, 2);
  const float s = block_sum<2>(x[bid_x() * 64 + tid_x()], scratch);
  if (tid_x() == 0) out[bid_x()] = s;
}
RF_REGISTER(sums)

RF_KERNEL RF_BOUNDS(64) void write_at(u8* out, u32 at) {
  if (tid_x() == 0) out[at] = 1;
}
RF_REGISTER(write_at)

RF_KERNEL RF_BOUNDS(64) void read_at(const u8* x, u8* out, u32 at) {
  if (tid_x() == 0) out[0] = x[at];
}
RF_REGISTER(read_at)

RF_KERNEL RF_BOUNDS(64) void no_barrier(float* out) {
  RF_SHARED(float, x, 64);
  x[tid_x()] = (float)tid_x();
  out[tid_x()] = x[tid_x() ^ 32];
}
RF_REGISTER(no_barrier)

RF_KERNEL RF_BOUNDS(64) void barrier_for_some(float* out) {
  if (tid_x() < 40) barrier();
  out[tid_x()] = 0.f;
}
RF_REGISTER(barrier_for_some)

RF_KERNEL RF_BOUNDS(64) void barrier_for_one_team(float* out) {
  if (tid_x() < 32) barrier();
  out[tid_x()] = 0.f;
}
RF_REGISTER(barrier_for_one_team)

RF_KERNEL RF_BOUNDS(64) void sum_of_some(float* out) {
  if (lane() >= 20) return;
  out[tid_x()] = team_sum(1.f);
}
RF_REGISTER(sum_of_some)

RF_KERNEL RF_BOUNDS(64) void lds_overrun(float* out) {
  RF_SHARED(float, x, 8);
  x[tid_x() % 9] = 0.f;
  out[tid_x()] = 0.f;
}
RF_REGISTER(lds_overrun)
