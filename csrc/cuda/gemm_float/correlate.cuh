// The kernel for forward and grad_input as a matrix product. Its rows are pixels of the result, its
// columns are channels of the result, and its terms are the input's channels at each tap. There is
// no im2col matrix: the pixels of each tap are copied straight from the tensor to shared memory.
//
// For grad_input with a stride there is one correlation for each residue of the index modulo the
// stride (core/axis.h). Weights are packed before (pack.cuh). Blocks are numbered by (pixels,
// columns, group, split), and each computes kRows x kColumns results.
#pragma once

#include "cuda/epilogue.cuh"
#include "cuda/gemm/geometry.cuh"
#include "cuda/gemm_float/tiles.cuh"

namespace convkern::cuda {

// The blocks that a multiprocessor must be able to hold at once. This limits the registers of a
// thread to 128. For 64-bit indices the limit is 168, or 255 in a block of 256 threads. It is 168
// also where small blocks copy single channels of channels_last.
template <class Index, Layout kLayout, int kVector>
constexpr int resident_blocks(int threads) {
  const bool single = kLayout == Layout::nhwc && kVector == 1 && threads < 256;
  return (sizeof(Index) == 8 || single ? 384 : 512) / threads;
}

template <class Index>
struct Correlation : CorrelationSizes<Index> {
  const float *in, *packed, *bias;  // bias may be null
  float* out;
  int term_chunks, packed_columns;
  bool writes_fours;  // writes four aligned results at a time, see write_results()
  Epilogue<float> epilogue;
};

// Copies four adjacent floats. The first `left` of them are in the tensor (all if there are more),
// and zeros replace the others. With kVector 4 they are copied together, which requires that all or
// none are in the tensor.
template <int kVector, class Index>
__device__ __forceinline__ void copy_four(float* to, const float* tensor, Index from, int left) {
  if constexpr (kVector == 4) {
    copy_async<16>(to, left > 0 ? tensor + from : tensor, left > 0 ? 16 : 0);
  } else {
    const float* first = tensor + from;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      copy_async<4>(to + i, i < left ? first + i : tensor, i < left ? 4 : 0);
    }
  }
}

// Copies kDepth channels of kRows pixels for one tap. In channels_last it copies kVector channels
// at once, and kVector is 4 where addresses are multiples of 16 bytes.
template <class T, class Index, Layout kLayout, int kVector>
struct PixelCopies {
  static constexpr Inner kInner = kLayout == Layout::nchw ? Inner::rows : Inner::terms;
  using Shared = SharedOperand<T::kRows, kInner>;
  // Where rows are innermost, a thread copies every kLanes-th term of one pixel. Otherwise kLanes
  // threads copy a pixel, each four terms at a time. Together these are 32 bytes, the least that
  // memory transfers.
  static constexpr int kLanes = kInner == Inner::rows ? T::kThreads / T::kRows : 2;
  static constexpr int kPixels = kInner == Inner::rows ? 1 : T::kRows * kLanes / T::kThreads;
  static_assert(kLanes * T::kRows == kPixels * T::kThreads);

  const Correlation<Index>& c;
  InputPixel<Index> pixels[kPixels];

  __device__ PixelCopies(const Correlation<Index>& c, Index first_pixel, Index channel) : c(c) {
#pragma unroll
    for (int i = 0; i < kPixels; ++i) pixels[i] = {c, first_pixel + tile_row(i), channel};
  }
  __device__ static int tile_row(int i) {
    return kInner == Inner::rows ? threadIdx.x % T::kRows
                                 : threadIdx.x / kLanes + i * (T::kThreads / kLanes);
  }

  __device__ void begin(int tap_row, int tap_column, int term, float* to) const {
    const int h = tap_row * c.tap_step_h, w = tap_column * c.tap_step_w;
    const Index tap = h * c.in_strides.row + w * c.in_strides.column;
    if constexpr (kInner == Inner::rows) {
      const bool inside = pixels[0].has(c, h, w);
      const int first_term = threadIdx.x / T::kRows;
      Index from = pixels[0].first + tap + (term + first_term) * c.in_strides.channel;
#pragma unroll
      for (int t = 0; t < kDepth; t += kLanes, from += kLanes * c.in_strides.channel) {
        const bool exists = inside && term + first_term + t < c.terms;
        copy_async<4>(to + Shared::at(tile_row(0), first_term + t), exists ? c.in + from : c.in,
                      exists ? 4 : 0);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        const bool inside = pixels[i].has(c, h, w);
#pragma unroll
        for (int t = 0; t < kDepth; t += 4 * kLanes) {
          const int at = t + threadIdx.x % kLanes * 4;
          copy_four<kVector>(to + Shared::at(tile_row(i), at), c.in,
                             pixels[i].first + tap + term + at, inside ? c.terms - term - at : 0);
        }
      }
    }
  }
};

// Copies kDepth rows of packed taps. Packed taps have all columns of the tile.
template <class T>
struct TapCopies {
  using Shared = SharedOperand<T::kColumns, Inner::rows>;
  static constexpr int kQuads = T::kColumns / 4, kSteps = kDepth * kQuads / T::kThreads;
  static_assert(kDepth * kQuads % T::kThreads == 0);

  const float* from;
  int64_t pitch;

  __device__ void begin(float* to) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int quad = threadIdx.x + i * T::kThreads;
      const int term = quad / kQuads, column = quad % kQuads * 4;
      copy_async<16>(to + Shared::at(column, term), from + term * pitch + column, 16);
    }
    from += kDepth * pitch;
  }
};

// The results of a thread. It has four adjacent pixels at a time in NCHW, where rows are innermost
// in A. In channels_last it has four adjacent channels.
template <class A, class B, Layout kLayout, class T, class Index>
struct ThreadResults {
  const Correlation<Index>& c;
  const CorrelationBlock<T, Index>& block;
  const T& tile;

  // Returns the channel of sums[i][j] in its group.
  __device__ __forceinline__ int column(int j) const {
    return block.first_column + tile.template column<B>(j);
  }
  // Calls body(i, j, offset in the result) for each of the sums that is a result. With kFours it
  // calls it for the first of each four only.
  template <bool kFours, class Body>
  __device__ __forceinline__ void for_each(const Body& body) const {
    const Index first_channel = static_cast<Index>(block.group) * c.columns;
#pragma unroll
    for (int i = 0; i < kThreadRows; i += kFours ? kFourRows : 1) {
      const Index index = block.first_pixel + tile.template row<A>(i);
      if (index >= c.pixels) continue;
      const Index pixel = c.result_of(index);
#pragma unroll
      for (int j = 0; j < T::kThreadColumns; j += kFours ? kFourColumns : 1) {
        if (column(j) >= c.columns) continue;
        body(i, j, pixel + (first_channel + column(j)) * c.out_strides.channel);
      }
    }
  }
  __device__ __forceinline__ void add_bias(typename T::Sums& sums) const {
#pragma unroll
    for (int j = 0; j < T::kThreadColumns; ++j) {
      const bool exists = column(j) < c.columns;
      const float bias = exists ? c.bias[block.group * c.columns + column(j)] : 0.f;
#pragma unroll
      for (int i = 0; i < kThreadRows; ++i) sums[i][j] += bias;
    }
  }
  // With kFours, each four are 16 aligned bytes of the residual and of the result.
  template <bool kFours>
  __device__ __forceinline__ void add_residual(typename T::Sums& sums) const {
    for_each<kFours>([&](int i, int j, Index at) {
      if constexpr (kFours) {
        float four[4];
        load_quad(c.epilogue.residual + at, four);
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[i + k % kFourRows][j + k / kFourRows] += four[k];
      } else {
        sums[i][j] += c.epilogue.residual[at];
      }
    });
  }
  // Applies the activation and writes the results. The activations of a row are computed just
  // before it is written. The offsets of all rows, kept during the calls, would need too many
  // registers.
  template <bool kFours>
  __device__ __forceinline__ void write(typename T::Sums& sums) const {
    float* out = c.out + block.split * c.split_size;
    for_each<kFours>([&](int i, int j, Index at) {
      if (j == 0) {  // which is a result if others of the row are
#pragma unroll
        for (int k = 0; k < (kFours ? kFourRows : 1); ++k) c.epilogue.activate(sums[i + k]);
      }
      if constexpr (kFours) {
        float four[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) four[k] = sums[i + k % kFourRows][j + k / kFourRows];
        store4(out + at, four);
      } else {
        out[at] = sums[i][j];
      }
    });
  }

 private:
  static constexpr int kFourRows = kLayout == Layout::nchw ? 4 : 1, kFourColumns = 4 / kFourRows;
};

// Writes the results of a thread. The whole residual is read before a result is written, so that
// the loads need not wait for the stores.
template <class Results, class Index, class Sums>
__device__ __forceinline__ void write_results(const Correlation<Index>& c, const Results& results,
                                              Sums& sums) {
  if (c.bias != nullptr) results.add_bias(sums);
  if (c.epilogue.residual != nullptr) {
    if (c.writes_fours) {
      results.template add_residual<true>(sums);
    } else {
      results.template add_residual<false>(sums);
    }
  }
  if (c.writes_fours) {
    results.template write<true>(sums);
  } else {
    results.template write<false>(sums);
  }
}

template <class T, class Index, Layout kLayout, int kVector>
__global__ void __launch_bounds__(T::kThreads,
                                  resident_blocks<Index, kLayout, kVector>(T::kThreads))
    correlate(const Correlation<Index> c) {
  using Pixels = PixelCopies<T, Index, kLayout, kVector>;
  using Taps = TapCopies<T>;
  using A = typename Pixels::Shared;
  using B = typename Taps::Shared;
  const int steps = c.taps_h * c.taps_w * c.term_chunks;
  const CorrelationBlock<T, Index> block(c, steps);

  const Pixels pixels(c, block.first_pixel, static_cast<Index>(block.group) * c.terms);
  // Packed weights may be larger than any tensor, because they have zeros between groups.
  const int64_t first_term =
      (static_cast<int64_t>(block.group) * steps + block.first_step) * kDepth;
  Taps taps{c.packed + first_term * c.packed_columns + block.first_column, c.packed_columns};
  const Digits<int> first(block.first_step, c.taps_w, c.term_chunks);
  int tap_row = first.high, tap_column = first.middle, chunk = first.low;
  const T tile;
  typename T::Sums sums = {};
  multiply_pipelined<A, B>(
      tile, block.steps,
      [&](float* a, float* b) {
        pixels.begin(tap_row, tap_column, chunk * kDepth, a);
        taps.begin(b);
        if (++chunk < c.term_chunks) return;
        chunk = 0;
        if (++tap_column < c.taps_w) return;
        tap_column = 0;
        ++tap_row;
      },
      sums);

  write_results(c, ThreadResults<A, B, kLayout, T, Index>{c, block, tile}, sums);
}

}  // namespace convkern::cuda
