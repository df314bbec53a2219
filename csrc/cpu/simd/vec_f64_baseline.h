// float64 vectors for any processor.
#pragma once

#include "cpu/simd/real_f64.h"
#include "cpu/simd/vec_baseline.h"
