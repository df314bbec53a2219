// The products that the matrix products are compiled for: those of the file that CONVKERN_PRODUCT
// names, or of two numbers a lane where none is named.
#pragma once

#include "cpu/simd/vec.h"

#ifndef CONVKERN_PRODUCT
#define CONVKERN_PRODUCT "cpu/simd/product_fma.h"
#endif
#include CONVKERN_PRODUCT
