// float32 vectors for any processor.
#pragma once

#include "cpu/simd/half_baseline.h"
#include "cpu/simd/real_f32.h"
#include "cpu/simd/vec_baseline.h"
