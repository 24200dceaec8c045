// The kernels of gemv.h for Q5_0 weights.
#include "gemv.h"
#include "quant/q5_0.h"

GEMV_FORMAT(q5_0, Q5_0)
