// Every format, by the name that kernels carry it with.
#pragma once
#include "bf16.h"
#include "f16.h"
#include "f32.h"
#include "q2_k.h"
#include "q3_k.h"
#include "q4_0.h"
#include "q4_1.h"
#include "q4_k.h"
#include "q5_0.h"
#include "q5_1.h"
#include "q5_k.h"
#include "q6_k.h"
#include "q8_0.h"

#define RF_FORMATS(each) \
  each(f32, F32) each(f16, F16) each(bf16, BF16) each(q4_0, Q4_0) each(q4_1, Q4_1) each(q5_0, Q5_0) each(q5_1, Q5_1) \
  each(q8_0, Q8_0) each(q2_k, Q2_K) each(q3_k, Q3_K) each(q4_k, Q4_K) each(q5_k, Q5_K) each(q6_k, Q6_K)
