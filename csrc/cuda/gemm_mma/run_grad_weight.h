// Plans and runs grad_weight on tensor cores. The workspace holds the packed gy and the packed x,
// if they are packed (pixels.h), and then the partial sums of all splits. The kernel is in
// grad_weight.cuh.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/gemm_mma/grad_weight.cuh"
#include "cuda/gemm_mma/pixels.h"

namespace convkern::cuda::implicit_gemm_mma {

template <class T, bool kAligned, class Index>
void launch_weight_sums(const Problem& p, const Operands& ops, const WeightTiles& tiles,
                        float* partial, const Executor& executor) {
  using Element = typename T::Element;
  const Pixels<Element> gy = pixels_of_gy<Element>(p), x = pixels_of_x<Element>(p);
  Sums<Element, Index> c{weight_sums<Element, Index>(p, ops, tiles, kDepth<Element>, partial),
                         small(gy.chunks()), small(x.chunks())};
  c.gy.strides = gy.template strides<Index>();
  c.x.strides = x.template strides<Index>();
  launch(sum_weights<T, Index, kAligned>,
         {dim3(static_cast<unsigned>(tiles.blocks(p))), T::kThreads, kStages * T::kStageBytes},
         executor, c);
}

template <class Element>
struct GradWeight final : Plan {
  const Problem p;
  const WeightTiles tiles;
  const Pixels<Element> gy, x;

  explicit GradWeight(const Problem& problem)
      : p(problem), tiles(p), gy(pixels_of_gy<Element>(p)), x(pixels_of_x<Element>(p)) {}
  int64_t workspace(int) const override {
    return gy.packed_bytes() + x.packed_bytes() + tiles.bytes();
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

template <class Element>
void GradWeight<Element>::run(const Operands& ops, void* workspace,
                              const Executor& executor) const {
  char* memory = static_cast<char*>(workspace);
  Operands read = ops;
  read.gy = gy.get(ops.gy, memory, executor);
  memory += gy.packed_bytes();
  read.x = x.get(ops.x, memory, executor);
  memory += x.packed_bytes();
  auto* partial = reinterpret_cast<float*>(memory);
  auto sum = [&](auto tile) {
    using T = typename decltype(tile)::type;
    if (!begins_chunk(read.gy) || !begins_chunk(read.x)) {
      return launch_weight_sums<T, false, int64_t>(p, read, tiles, partial, executor);
    }
    with_index(gy.fits_int32() && x.fits_int32(), [&](auto index) {
      launch_weight_sums<T, true, decltype(index)>(p, read, tiles, partial, executor);
    });
  };
  if (tiles.tile == TileSize::t128x128) {
    sum(std::type_identity<Tile<Element, 128, 128, 64>>());
  } else {
    sum(std::type_identity<Tile<Element, 64, 64, 32>>());
  }
  add_weight_splits<Element>(p, tiles, partial, ops.out, executor);
}

}  // namespace convkern::cuda::implicit_gemm_mma
