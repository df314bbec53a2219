// The headers that code compiled for an instruction set may use. A file of isa/ includes this one
// before the region of the instruction set begins (see target_region.h). Files inside the region
// include only this file and each other. Any other header, of the standard library or of core/,
// would be compiled for the instruction set too.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/axis.h"
#include "core/kernel.h"
#include "core/scalar_types.h"
#include "cpu/choice.h"
#include "cpu/fft_size.h"
#include "cpu/kernel_list.h"
#include "cpu/norm/loops.h"
#include "cpu/peak.h"
#include "cpu/simd/quarter.h"
#include "cpu/simd/register_tiles.h"
#include "cpu/simd/roots.h"
#include "cpu/simd/target_region.h"
