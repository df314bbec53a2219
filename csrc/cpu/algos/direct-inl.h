// The direct algorithms, compiled once for each instruction set after its Vec.
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

// The kernels of an instruction set, in order of preference within a pass.
#define CONVKERN_DIRECT_KERNELS(isa)                     \
  {                                                      \
      CONVKERN_CHANNELLANE_KERNEL(fwd, forward, isa),    \
      CONVKERN_CHANNELLANE_KERNEL(gx, grad_input, isa),  \
      CONVKERN_CHANNELLANE_KERNEL(gw, grad_weight, isa), \
      CONVKERN_GEMM_KERNEL(fwd, forward, isa),           \
      CONVKERN_GEMM_KERNEL(gx, grad_input, isa),         \
      CONVKERN_GEMM_KERNEL(gw, grad_weight, isa),        \
      CONVKERN_COLUMNLANE_KERNEL(fwd, forward, isa),     \
      CONVKERN_COLUMNLANE_KERNEL(gx, grad_input, isa),   \
      CONVKERN_COLUMNLANE_KERNEL(gw, grad_weight, isa),  \
      CONVKERN_BATCHLANE_KERNEL(fwd, forward, isa),      \
      CONVKERN_BATCHLANE_KERNEL(gx, grad_input, isa),    \
      CONVKERN_BATCHLANE_KERNEL(gw, grad_weight, isa),   \
  }

#define CONVKERN_BATCHLANE_KERNEL(short_name, pass, isa) \
  {#short_name ".direct_batchlane.any.f32." #isa,        \
   Pass::pass,                                           \
   Isa::isa,                                             \
   true,                                                 \
   supports<batchlane::pass##_workspace>,                \
   batchlane::pass##_workspace,                          \
   batchlane::pass}

#define CONVKERN_COLUMNLANE_KERNEL(short_name, pass, isa) \
  {#short_name ".direct_columnlane.any.f32." #isa,        \
   Pass::pass,                                            \
   Isa::isa,                                              \
   true,                                                  \
   supports<columnlane::pass##_workspace>,                \
   columnlane::pass##_workspace,                          \
   columnlane::pass,                                      \
   columnlane::declines<batchlane::pass##_workspace>}

#define CONVKERN_CHANNELLANE_KERNEL(short_name, pass, isa) \
  {#short_name ".direct_channellane.any.f32." #isa,        \
   Pass::pass,                                             \
   Isa::isa,                                               \
   true,                                                   \
   channellane::supports<channellane::pass##_workspace>,   \
   channellane::pass##_workspace,                          \
   channellane::pass,                                      \
   channellane::declines}

#define CONVKERN_GEMM_KERNEL(short_name, pass, isa) \
  {#short_name ".implicit_gemm.any.f32." #isa,      \
   Pass::pass,                                      \
   Isa::isa,                                        \
   true,                                            \
   supports<implicit_gemm::pass##_workspace>,       \
   implicit_gemm::pass##_workspace,                 \
   implicit_gemm::pass,                             \
   implicit_gemm::declines<columnlane::pass##_workspace, batchlane::pass##_workspace>}
