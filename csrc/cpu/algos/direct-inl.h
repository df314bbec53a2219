// The algorithms, compiled once for each instruction set after its Vec.
#pragma once

#include "cpu/algos/lane_transpose-inl.h"
#include "cpu/algos/correlation_tile-inl.h"
#include "cpu/algos/lane_images-inl.h"
#include "cpu/algos/matmul_tile-inl.h"
#include "cpu/algos/tasks-inl.h"
#include "cpu/algos/pixels-inl.h"
#include "cpu/algos/residues-inl.h"
#include "cpu/algos/weight_reduction-inl.h"
#include "cpu/algos/batchlane/batchlane-inl.h"
#include "cpu/algos/columnlane/columnlane-inl.h"
#include "cpu/algos/channellane/channellane-inl.h"
#include "cpu/algos/implicit_gemm/implicit_gemm-inl.h"
#include "cpu/algos/winograd/winograd-inl.h"

// The kernels of an instruction set, in order of preference within a pass.
#define CONVKERN_DIRECT_KERNELS(isa)                                                          \
  {                                                                                           \
      CONVKERN_KERNELS(direct_channellane, channellane, isa, channellane::declines, highest), \
      CONVKERN_WINOGRAD_KERNELS(winograd_4x4, winograd::Passes<winograd::F4x4>, isa),         \
      CONVKERN_WINOGRAD_KERNELS(winograd_2x2, winograd::Passes<winograd::F2x2>, isa),         \
      CONVKERN_KERNELS(implicit_gemm, implicit_gemm, isa, implicit_gemm::declines, highest),  \
      CONVKERN_KERNELS(direct_columnlane, columnlane, isa, columnlane::declines, highest),    \
      CONVKERN_KERNELS(direct_batchlane, batchlane, isa, nullptr, highest),                   \
  }
#define CONVKERN_KERNELS(algorithm, space, isa, declines, precision)               \
  CONVKERN_KERNEL(fwd, algorithm, space, forward, isa, declines, precision),       \
      CONVKERN_KERNEL(gx, algorithm, space, grad_input, isa, declines, precision), \
      CONVKERN_KERNEL(gw, algorithm, space, grad_weight, isa, declines, precision)

#define CONVKERN_WINOGRAD_KERNELS(algorithm, space, isa)                       \
  CONVKERN_KERNEL(fwd, algorithm, space, forward, isa, space::declines, high), \
      CONVKERN_KERNEL(gx, algorithm, space, grad_input, isa, space::declines, high)

#define CONVKERN_KERNEL(short_name, algorithm, space, pass, isa, declines, precision) \
  {#short_name "." #algorithm ".any.f32." #isa,                                       \
   Pass::pass,                                                                        \
   Isa::isa,                                                                          \
   true,                                                                              \
   space::supports<space::pass##_workspace>,                                          \
   space::pass##_workspace,                                                           \
   space::pass,                                                                       \
   declines,                                                                          \
   Precision::precision}
