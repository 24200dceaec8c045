// Rows of an embedding table as f32: out[i] = scale * table[tokens[i]].
#include "quant/all.h"

#define EMBED(fmt, F)                                                                                          \
  RF_KERNEL RF_BOUNDS(128) void embed_##fmt(const u8* table, const u32* tokens, float* out, u32 k, float scale) { \
    const u32 i = bid_x();                                                                                     \
    F::Narrow::expand(table + tokens[i] * F::row_bytes(k), out + (u64)i * k, k, scale, tid_x(), 128);                  \
  }                                                                                                            \
  RF_REGISTER(embed_##fmt)

RF_FORMATS(EMBED)
