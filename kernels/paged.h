// The paged cache as attention sees it; its layout is in store.hip.
#pragma once
#include "prelude.h"

// Tokens start .. start + len of the step, at positions pos ..; its blocks from tables[table] on.
struct Span {
  u32 start, len, pos, table;
};

// What a cache in q8_0 keeps for an element; see kv_q8_0.h.
struct Code {
  i8 q;
};
template <class T> inline constexpr bool CODED = false;
template <> inline constexpr bool CODED<Code> = true;
// Bytes of a head of one element in a block: those of its 32 tokens.
template <class T> inline constexpr u32 HEAD_BYTES = 32 * sizeof(T);
template <> inline constexpr u32 HEAD_BYTES<Code> = 34;

// One layer, as one key head sees it.
struct Layer {
  const u64* table;  // blocks of the span
  u32 off_k, off_v;  // bytes in a block to this head's keys and values
  u32 head_dim, head_dim_v;
  u32 window;     // 0: none
  float softcap;  // with log2 e; 0: none
};

template <class T>
RF_DEV Layer layer_of(Span span, const u64* tables, u32 off_k, u32 off_v, u32 head, u32 head_dim, u32 head_dim_v,
                      u32 window, float softcap) {
  return {tables + span.table,
          off_k + head * head_dim * HEAD_BYTES<T>,
          off_v + head * head_dim_v * HEAD_BYTES<T>,
          head_dim,
          head_dim_v,
          window,
          softcap * RF_LOG2E};
}

// First position that a query at `position` sees.
RF_DEV u32 first_visible(u32 position, u32 window) { return window && position >= window ? position + 1 - window : 0; }
