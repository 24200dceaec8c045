// BF16: the upper half of an f32.
#pragma once
#include "float.h"

struct BF16 : Float<BF16, u16> {
  RF_DEV float value(u16 v) { return bf16_to_f32(v); }
};
