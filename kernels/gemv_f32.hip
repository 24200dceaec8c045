// The kernels of gemv.h for F32 weights.
#include "gemv.h"
#include "quant/f32.h"

GEMV_FORMAT(f32, F32)
