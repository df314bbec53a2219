// Selects the products that the matrix products are compiled for. CONVKERN_PRODUCT names the file.
// Without it, a product is that of two numbers in each lane.
#pragma once

#include "cpu/simd/vec.h"

#ifndef CONVKERN_PRODUCT
#define CONVKERN_PRODUCT "cpu/simd/product_fma.h"
#endif
#include CONVKERN_PRODUCT
