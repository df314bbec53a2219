// What the algorithms need of other headers, included before the region of an instruction set.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/axis.h"
#include "cpu/kernel_list.h"
#include "cpu/simd/quarter.h"
