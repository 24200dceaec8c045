// Gated activations of feed-forward blocks: out = act(gate) * up; out may be gate.
// Grid (n / 1024, rounded up).
#include "prelude.h"

RF_KERNEL RF_BOUNDS(256) void glu_silu(const float* gate, const float* up, float* out, u32 n) {
  each_element(n, [&](u32 i) { out[i] = rf_silu(gate[i]) * up[i]; });
}
RF_REGISTER(glu_silu)

RF_KERNEL RF_BOUNDS(256) void glu_gelu(const float* gate, const float* up, float* out, u32 n) {
  each_element(n, [&](u32 i) { out[i] = rf_gelu(gate[i]) * up[i]; });
}
RF_REGISTER(glu_gelu)
