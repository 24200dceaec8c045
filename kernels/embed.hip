// Rows of an embedding table as f32: out[i] = scale * table[tokens[i]].
#include "quant/all.h"

// Blocks that share a row: grid (n_tokens, 8).
constexpr u32 EMBED_BLOCKS = 8;

#define EMBED(fmt, F)                                                                                          \
  RF_KERNEL RF_BOUNDS(128) void embed_##fmt(const u8* table, const u32* tokens, float* out, u32 k, float scale) { \
    const u32 i = bid_x(), thread = bid_y() * 128 + tid_x();                                                   \
    F::Narrow::expand(table + tokens[i] * F::row_bytes(k), out + (u64)i * k, k, scale, thread, 128 * EMBED_BLOCKS);    \
  }                                                                                                            \
  RF_REGISTER(embed_##fmt)

RF_FORMATS(EMBED)
