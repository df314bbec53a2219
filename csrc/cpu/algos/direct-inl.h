// The algorithms, compiled once for each Vec: of an instruction set and a dtype.
#pragma once

#include "cpu/simd/product_fma.h"
#include "cpu/algos/shared-inl.h"
#include "cpu/algos/batchlane/batchlane-inl.h"
#include "cpu/algos/columnlane/columnlane-inl.h"
#include "cpu/algos/channellane/channellane-inl.h"
#include "cpu/algos/implicit_gemm/implicit_gemm-inl.h"
#include "cpu/algos/implicit_gemm/choice-inl.h"
#include "cpu/algos/winograd/winograd-inl.h"

// The kernels of an instruction set, in order of preference within a pass.
#define CONVKERN_F32_KERNELS(isa)                                                \
  CONVKERN_KERNELS(CONVKERN_KERNEL, f32, isa,                                    \
                   CONVKERN_WINOGRAD(winograd_4x4, Passes<winograd::F4x4>, isa), \
                   CONVKERN_WINOGRAD(winograd_2x2, Passes<winograd::F2x2>, isa))
#define CONVKERN_F64_KERNELS(isa) CONVKERN_KERNELS(CONVKERN_KERNEL, f64, isa)
#define CONVKERN_HALF_KERNELS(isa) CONVKERN_KERNELS(CONVKERN_HALF_KERNEL, half, isa)

#define CONVKERN_KERNELS(kernel, dtype, isa, ...)                                                  \
  CONVKERN_PASSES(kernel, direct_channellane, channellane, dtype, isa),                            \
      __VA_OPT__(__VA_ARGS__, ) CONVKERN_PASSES(kernel, implicit_gemm, implicit_gemm, dtype, isa), \
      CONVKERN_PASSES(kernel, direct_columnlane, columnlane, dtype, isa),                          \
      CONVKERN_PASSES(kernel, direct_batchlane, batchlane, dtype, isa)

#define CONVKERN_PASSES(kernel, algorithm, space, dtype, isa) \
  kernel(fwd, algorithm, space, forward, dtype, isa),         \
      kernel(gx, algorithm, space, grad_input, dtype, isa),   \
      kernel(gw, algorithm, space, grad_weight, dtype, isa)

#define CONVKERN_KERNEL(short_name, algorithm, space, pass, dtype, isa)         \
  row(#short_name "." #algorithm ".any." #dtype "." #isa, Pass::pass, Isa::isa, \
      Functions{CONVKERN_FUNCTIONS(space, pass), packing<space::pass>})
#define CONVKERN_HALF_KERNEL(short_name, algorithm, space, pass, dtype, isa)    \
  row(#short_name "." #algorithm ".any." #dtype "." #isa, Pass::pass, Isa::isa, \
      half::through<half::Widened, CONVKERN_FUNCTIONS(space, pass)>())
#define CONVKERN_WINOGRAD(algorithm, space, isa)                     \
  CONVKERN_WINOGRAD_PASS(fwd, algorithm, space, forward, isa),       \
      CONVKERN_WINOGRAD_PASS(gx, algorithm, space, grad_input, isa), \
      CONVKERN_WINOGRAD_PASS(gw, algorithm, space, grad_weight, isa)
#define CONVKERN_WINOGRAD_PASS(short_name, algorithm, space, pass, isa)  \
  row(#short_name "." #algorithm ".any.f32." #isa, Pass::pass, Isa::isa, \
      Functions{CONVKERN_FUNCTIONS(winograd::space, pass), {}}, Precision::high)

#define CONVKERN_FUNCTIONS(space, pass) \
  space::supports<space::pass##_workspace>, space::pass##_workspace, space::pass, space::declines
