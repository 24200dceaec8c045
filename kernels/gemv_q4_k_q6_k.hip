// The products of gemv.h for matrices of Q4_K and a last one of Q6_K: query, key and value in one launch
// where files mix these formats, as llama.cpp's Q4_K_M does.
#include "gemv.h"
#include "quant/q4_k.h"
#include "quant/q6_k.h"

GEMV_TWO_FORMATS(q4_k_q6_k, Q4_K, Q6_K)
