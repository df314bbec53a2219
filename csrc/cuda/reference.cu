// The reference kernels: one thread an element, each a plain sum (core/reference.h).
//
// Any dtype, layout, stride, padding, dilation and groups. Here to be right, not fast.
// Not yet run on a GPU.
#include "core/reference.h"

#include <algorithm>

#include "cuda/kernel_list.h"
#include "cuda/launch.cuh"

namespace convkern::cuda {
namespace {

constexpr int kBlock = 256;            // threads
constexpr int64_t kMaxGrid = 1 << 20;  // blocks; threads stride over what is left

template <class T>
__global__ void reference_kernel(const Reference<T> reference, int64_t size) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kBlock;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x; index < size;
       index += step) {
    switch (reference.p.pass) {
      case Pass::forward:
        reference.forward(index);
        break;
      case Pass::grad_input:
        reference.grad_input(index);
        break;
      case Pass::grad_weight:
        reference.grad_weight(index);
        break;
    }
  }
}

template <class T>
void launch_reference(const Problem& p, const Operands& ops, const Executor& executor) {
  const Reference<T> reference(p, ops);
  const int64_t size = reference.size();
  const int64_t grid = std::min(kMaxGrid, (size + kBlock - 1) / kBlock);
  launch(reference_kernel<T>, {dim3(static_cast<unsigned>(grid)), kBlock}, executor, reference,
         size);
}

void run(const Problem& p, const Operands& ops, void*, const Executor& executor) {
  switch (p.dtype) {
    case DType::f32:
      return launch_reference<float>(p, ops, executor);
    case DType::f64:
      return launch_reference<double>(p, ops, executor);
    case DType::bf16:
      return launch_reference<BFloat16>(p, ops, executor);
    case DType::f16:
      return launch_reference<Half>(p, ops, executor);
  }
}

Reason supports(const Problem&) { return Reason::none; }
int64_t workspace(const Problem&, int) { return 0; }

}  // namespace

const Kernel reference_kernels[3] = {
    {"fwd.reference.any.any.cuda", Pass::forward, Isa::baseline, true, supports, workspace, run},
    {"gx.reference.any.any.cuda", Pass::grad_input, Isa::baseline, true, supports, workspace, run},
    {"gw.reference.any.any.cuda", Pass::grad_weight, Isa::baseline, true, supports, workspace, run},
};

}  // namespace convkern::cuda
