// The kernels of gemv.h for Q8_0 weights.
#include "gemv.h"
#include "quant/q8_0.h"

GEMV_FORMAT(q8_0, Q8_0)
