// What the files that are compiled for an instruction set need of all others. A file of isa/
// includes it before the region of the instruction set begins (see target_region.h), and all files
// of the region include nothing but it and each other: what a header of the standard library or of
// core/ defines would otherwise be compiled for the instruction set.
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
#include "cpu/kernel_list.h"
#include "cpu/peak.h"
#include "cpu/simd/quarter.h"
#include "cpu/simd/register_tiles.h"
#include "cpu/simd/target_region.h"
