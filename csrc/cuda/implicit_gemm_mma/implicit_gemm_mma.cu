// implicit_gemm_mma: bfloat16 and float16 convolutions of many channels as matrix products on
// tensor cores (mma.sync, compute capability 8.0 and later), summed in float32. See correlate.cuh
// and grad_weight.cuh.
//
// The workspace holds the weights as packed for the pass, or the partial sums of grad_weight, and
// each tensor that must be packed: those in NCHW, and those whose groups do not fill whole chunks
// of channels. Not yet run on a GPU.
#include <cstdint>
#include <type_traits>

#include "cuda/efficiency.h"
#include "cuda/implicit_gemm/passes.h"
#include "cuda/implicit_gemm_mma/correlate.cuh"
#include "cuda/implicit_gemm_mma/grad_weight.cuh"
#include "cuda/implicit_gemm_mma/pack.cuh"
#include "cuda/kernel_list.h"

namespace convkern::cuda {
namespace implicit_gemm_mma {
namespace {

template <class Element>
int64_t chunks_of(int64_t channels) {
  return tiles_of(channels, kChunk<Element>);
}

// A tensor (N, groups * channels, height, width) that the kernels read as (n, h, w, group, chunk).
template <class Element>
struct Pixels {
  const Problem& p;
  int64_t channels, height, width;

  int64_t chunks() const { return chunks_of<Element>(channels); }
  int64_t size() const { return p.N * height * width * p.groups * chunks(); }  // in chunks
  bool is_packed() const { return p.layout == Layout::nchw || channels % kChunk<Element> != 0; }
  // Whether its offsets, and those of the problem's tensors, do.
  bool fits_int32() const {
    return cuda::fits_int32(p) && size() < kInt32Elements / kChunk<Element>;
  }
  int64_t packed_bytes() const { return is_packed() ? size() * kChunkBytes : 0; }

  // The tensor so, which is packed to `workspace` if it must be.
  const Element* get(const void* tensor, void* workspace, const Executor& executor) const {
    const auto* given = static_cast<const Element*>(tensor);
    if (!is_packed()) return given;
    auto* packed = static_cast<Element*>(workspace);
    auto pack = p.layout == Layout::nchw ? pack_pixels<Element, Layout::nchw>
                                         : pack_pixels<Element, Layout::nhwc>;
    launch(pack, element_shape(size()), executor, given, height * width, small(p.groups),
           small(channels), small(chunks()), size(), packed);
    return packed;
  }
  template <class Index>
  Strides<Index> strides() const {
    return {Layout::nhwc, p.groups * chunks() * kChunk<Element>, height, width};
  }
};

template <class Element>
Pixels<Element> pixels_of_x(const Problem& p) {
  return {p, p.Cg, p.H, p.W};
}
template <class Element>
Pixels<Element> pixels_of_gy(const Problem& p) {
  return {p, p.Og(), p.OH(), p.OW()};
}
template <class Element>
Pixels<Element> correlated_pixels(const Problem& p) {
  return p.pass == Pass::forward ? pixels_of_x<Element>(p) : pixels_of_gy<Element>(p);
}

bool begins_chunk(const void* tensor) {
  return reinterpret_cast<uintptr_t>(tensor) % kChunkBytes == 0;
}

template <class Element>
int64_t steps_of(const Problem& p, int64_t taps) {
  return tiles_of(taps * chunks_of<Element>(terms_of(p)), kRowChunks);
}
template <class Element>
int64_t packed_taps(const Problem& p, int64_t taps) {  // elements
  return p.groups * columns_of(p) * steps_of<Element>(p, taps) * kDepth<Element>;
}

template <class T, bool kAligned, class Index>
void launch_correlation(const Correlation<typename T::Element, Index>& c, const Problem& p,
                        const Executor& executor) {
  Correlation<typename T::Element, Index> tiled = c;
  const unsigned blocks = count_tiles<T>(p, tiled);
  constexpr int kShared = kStages * (T::kRows + T::kColumns) * kRowBytes;
  launch(correlate<T, Index, kAligned>, {dim3(blocks), T::kThreads, kShared}, executor, tiled);
}

template <class Element, class Index>
Correlation<Element, Index> correlation_of(const Problem& p, const Operands& ops, const Part& part,
                                           const Element* in, const Element* packed) {
  const int chunks = small(chunks_of<Element>(terms_of(p)));
  Correlation<Element, Index> c{};
  fill_sizes(p, part, c);
  c.in_strides = correlated_pixels<Element>(p).template strides<Index>();
  c.in = in;
  c.packed = packed;
  c.bias = p.pass == Pass::forward ? static_cast<const Element*>(ops.b) : nullptr;
  c.out = static_cast<Element*>(ops.out);
  c.chunks = chunks;
  if (part.tap_count() == 0) c.taps_h = 0, c.taps_w = 1;  // chunks are divided by the width
  c.stride = {kRowChunks, c.taps_w, chunks};
  c.steps = small(steps_of<Element>(p, part.tap_count()));
  c.writes_chunks = p.layout == Layout::nhwc && begins_chunk(ops.out) && c.columns % 8 == 0;
  return c;
}

template <class Element>
void run_part(const Problem& p, const Operands& ops, const Part& part, const Element* in,
              Element* packed, const Executor& executor) {
  const int terms = small(terms_of(p)), columns = small(columns_of(p));
  const int64_t column_terms = steps_of<Element>(p, part.tap_count()) * kDepth<Element>;
  const int64_t size = packed_taps<Element>(p, part.tap_count());
  if (size > 0) {
    launch(pack_taps<Element>, element_shape(size), executor, static_cast<const Element*>(ops.w),
           part.taps, terms, small(chunks_of<Element>(terms)) * kChunk<Element>, columns,
           column_terms, size, packed);
  }
  if (!begins_chunk(in)) {  // a rare view: one tile and index for all of them
    return launch_correlation<Tile<Element, 128, 64, 64>, false>(
        correlation_of<Element, int64_t>(p, ops, part, in, packed), p, executor);
  }
  const bool small_taps = packed_taps<Element>(p, p.R * p.S) < kInt32Elements;
  with_index(small_taps && correlated_pixels<Element>(p).fits_int32(), [&](auto index) {
    const auto c = correlation_of<Element, decltype(index)>(p, ops, part, in, packed);
    switch (correlation_tile(c.pixels, columns, p.groups, multiprocessors())) {
      case TileSize::t128x128:
        return launch_correlation<Tile<Element, 128, 128, 64>, true>(c, p, executor);
      case TileSize::t128x64:
        return launch_correlation<Tile<Element, 128, 64, 64>, true>(c, p, executor);
      default:
        return launch_correlation<Tile<Element, 128, 32, 32>, true>(c, p, executor);
    }
  });
}

template <class Element>
void correlation(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  const Pixels<Element> pixels = correlated_pixels<Element>(p);
  const void* in = p.pass == Pass::forward ? ops.x : ops.gy;
  const Element* read = pixels.get(in, workspace, executor);
  auto* packed = static_cast<Element*>(workspace) + pixels.packed_bytes() / sizeof(Element);
  // One part after the other, so that they share the memory of packed weights.
  for_each_part(p, ops, [&](const Part& part) { run_part(p, ops, part, read, packed, executor); });
}

template <class T, bool kAligned, class Index>
void launch_weight_sums(const Problem& p, const Operands& ops, const WeightTiles& tiles,
                        float* partial, const Executor& executor) {
  using Element = typename T::Element;
  const Pixels<Element> gy = pixels_of_gy<Element>(p), x = pixels_of_x<Element>(p);
  Sums<Element, Index> c{weight_sums<Element, Index>(p, ops, tiles, kDepth<Element>, partial),
                         small(gy.chunks()),
                         small(x.chunks()),
                         {kDepth<Element>, small(p.OH()), small(p.OW())}};
  c.gy.strides = gy.template strides<Index>();
  c.x.strides = x.template strides<Index>();
  constexpr int kShared = kStages * (T::kRows + T::kColumns) * kRowBytes;
  launch(sum_weights<T, Index, kAligned>,
         {dim3(static_cast<unsigned>(tiles.blocks(p))), T::kThreads, kShared}, executor, c);
}

template <class Element>
void grad_weight(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  const WeightTiles tiles(p);
  const Pixels<Element> gy = pixels_of_gy<Element>(p), x = pixels_of_x<Element>(p);
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
  launch_add_splits<Element>(p, tiles, partial, ops.out, executor);
}

template <class Element>
int64_t correlation_workspace(const Problem& p, int) {
  return correlated_pixels<Element>(p).packed_bytes() +
         packed_taps<Element>(p, p.R * p.S) * static_cast<int64_t>(sizeof(Element));
}

template <class Element>
int64_t weight_workspace(const Problem& p, int) {
  return pixels_of_gy<Element>(p).packed_bytes() + pixels_of_x<Element>(p).packed_bytes() +
         WeightTiles(p).bytes();
}

template <DType kDType>
Reason supports(const Problem& p) {
  if (p.dtype != kDType) return Reason::dtype;
  return p.empty() ? Reason::empty : counts_in_ints(p);
}

template <class Element>
Reason declines(const Problem& p) {
  return leaves_to_direct(p, sizeof(Element) == sizeof(float) ? kTf32Gemm : kHalfGemm);
}

template <DType kDType, class Element>
Kernel row(const char* name, Pass pass) {
  const bool weights = pass == Pass::grad_weight;
  return {name,
          pass,
          Isa::baseline,
          true,
          supports<kDType>,
          weights ? weight_workspace<Element> : correlation_workspace<Element>,
          weights ? grad_weight<Element> : correlation<Element>,
          declines<Element>,
          kDType == DType::f32 ? Precision::tf32 : Precision::highest};
}
constexpr auto bf16 = row<DType::bf16, BFloat16>;
constexpr auto f16 = row<DType::f16, Half>;
constexpr auto f32 = row<DType::f32, float>;

}  // namespace
}  // namespace implicit_gemm_mma

const Kernel implicit_gemm_mma_kernels[9] = {
    implicit_gemm_mma::bf16("fwd.implicit_gemm_mma.any.bf16.cuda", Pass::forward),
    implicit_gemm_mma::bf16("gx.implicit_gemm_mma.any.bf16.cuda", Pass::grad_input),
    implicit_gemm_mma::bf16("gw.implicit_gemm_mma.any.bf16.cuda", Pass::grad_weight),
    implicit_gemm_mma::f16("fwd.implicit_gemm_mma.any.f16.cuda", Pass::forward),
    implicit_gemm_mma::f16("gx.implicit_gemm_mma.any.f16.cuda", Pass::grad_input),
    implicit_gemm_mma::f16("gw.implicit_gemm_mma.any.f16.cuda", Pass::grad_weight),
    implicit_gemm_mma::f32("fwd.implicit_gemm_mma.any.f32.cuda", Pass::forward),
    implicit_gemm_mma::f32("gx.implicit_gemm_mma.any.f32.cuda", Pass::grad_input),
    implicit_gemm_mma::f32("gw.implicit_gemm_mma.any.f32.cuda", Pass::grad_weight),
};

}  // namespace convkern::cuda
