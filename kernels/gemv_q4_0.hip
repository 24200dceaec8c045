// The kernels of gemv.h for Q4_0 weights.
#include "gemv.h"
#include "quant/q4_0.h"

GEMV_FORMAT(q4_0, Q4_0)
