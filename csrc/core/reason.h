// The reasons why a kernel does not run a problem. Plans, logs and errors share this one list.
// to_string() returns the words that users read. The subject of most of them is the kernel.
#pragma once

#include <cstdint>

namespace convkern {

enum class Reason : uint8_t {
  none,  // the kernel supports the problem
  dtype,
  not_grouped,
  channels,
  group_steps,
  not_3x3,
  kernel_size,
  not_a_product,
  odd_terms,
  precision,
  tf32,
  isa_not_available,
  isa_capped,
  empty,
  workspace,
  beyond_memory,
  residues,
  size,
  shared_memory,
  empty_lanes,
  slower,
  not_deterministic,
  less_preferred,
  not_forced,
};

inline const char* to_string(Reason reason) {
  switch (reason) {
    case Reason::none:
      return "supported";
    case Reason::dtype:
      return "computes another dtype";
    case Reason::not_grouped:
      return "computes depthwise and grouped convolutions";
    case Reason::channels:
      return "needs groups of which its vectors hold whole ones";
    case Reason::group_steps:
      return "computes groups with a dilation of 1 and a stride of 1 or 2 only";
    case Reason::not_3x3:
      return "computes 3x3 kernels with stride 1 and dilation 1";
    case Reason::kernel_size:
      return "has no transform that is large enough for the kernel";
    case Reason::not_a_product:
      return "computes windows that cover the image without overlap, in one group";
    case Reason::odd_terms:
      return "needs an even number of channels to sum over";
    case Reason::precision:
      return "is less accurate than the precision that is set allows";
    case Reason::tf32:
      return "rounds float32 to TF32, which torch.backends.cudnn.allow_tf32 does not allow";
    case Reason::isa_not_available:
      return "needs an instruction set that this processor lacks";
    case Reason::isa_capped:
      return "needs an instruction set above the configured cap";
    case Reason::empty:
      return "the problem has no products to compute";
    case Reason::workspace:
      return "would need more workspace than a thread may have";
    case Reason::beyond_memory:
      return "counts in 64 bits, which sizes beyond any memory exceed";
    case Reason::residues:
      return "would need a plan for each of more than 65,536 residues of the stride";
    case Reason::size:
      return "counts blocks and pixels in 32 bits";
    case Reason::shared_memory:
      return "needs more shared memory than a block has";
    case Reason::empty_lanes:
      return "would do too, but another kernel should make better use of the lanes";
    case Reason::slower:
      return "would do too, but another kernel should be faster";
    case Reason::not_deterministic:
      return "is not deterministic, and deterministic algorithms are required";
    case Reason::less_preferred:
      return "would do too, but is less preferred";
    case Reason::not_forced:
      return "would do too, but another kernel is forced";
  }
  return "?";
}

}  // namespace convkern
