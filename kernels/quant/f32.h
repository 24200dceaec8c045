// F32: the weight itself.
#pragma once
#include "float.h"

struct F32 : Float<F32, u32> {
  RF_DEV float value(u32 v) { return from_bits(v); }
};
