#include "cuda/library.h"

#include "cuda/kernel_list.h"

extern "C" __attribute__((visibility("default")))
const convkern::cuda::Library convkern_cuda_library_3 = {convkern::cuda::kernel_list,
                                                         CONVKERN_CUDA_TOOLKIT};
