// Marks functions that CUDA kernels share with host code.
#pragma once

#if defined(__CUDACC__)
#define CONVKERN_HOST_DEVICE __host__ __device__
#else
#define CONVKERN_HOST_DEVICE
#endif
