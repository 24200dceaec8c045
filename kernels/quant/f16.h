// F16: IEEE half precision.
#pragma once
#include "float.h"

struct F16 : Float<F16, u16> {
  RF_DEV float value(u16 v) { return f16_to_f32(v); }
};
