// The kernels of gemv.h for F16 weights.
#include "gemv.h"
#include "quant/f16.h"

GEMV_FORMAT(f16, F16)
