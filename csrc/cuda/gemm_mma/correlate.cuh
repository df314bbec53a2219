// The kernel for forward and grad_input on tensor cores, as a matrix product. Its rows are pixels
// of the result, its columns are channels of the result, and its terms are the input's channels at
// each tap. It sums in float32.
//
// The input is channels_last with whole chunks of channels in each group; pack.cuh prepares other
// inputs. Chunks are copied straight to shared memory. Taps follow each other without a gap, and
// each thread copies chunks of its own tap. A few channels at many taps therefore also fill the
// kDepth terms that are multiplied at a time. The result is written in the problem's layout. Bias,
// residual and activation are applied in float32.
#pragma once

#include <cstring>

#include "cuda/epilogue.cuh"
#include "cuda/gemm/geometry.cuh"
#include "cuda/gemm/pipeline.cuh"
#include "cuda/gemm_mma/tiles.cuh"

namespace convkern::cuda::implicit_gemm_mma {

template <class Element, class Index>
struct Correlation : CorrelationSizes<Index> {
  const Element *in, *packed, *bias;  // bias may be null
  Element* out;
  float* partial;      // the sums of the splits
  int chunks;          // chunks of one group's channels
  Digits<int> stride;  // kRowChunks as (tap row, tap column, chunk)
  int steps;           // parts of kDepth terms
  bool writes_chunks;  // each 8 columns are whole aligned chunks of the result and the residual
  Epilogue<Element> epilogue;
};

// Copies kDepth terms of kRows pixels.
template <class T, class Index, bool kAligned>
struct PixelCopies {
  using Element = typename T::Element;
  using Chunks = RowChunks<T, T::kRows>;

  const Correlation<Element, Index>& c;
  InputPixel<Index> pixels[Chunks::kRows];
  Digits<int> at;  // (tap row, tap column, chunk) of the next copy

  __device__ PixelCopies(const Correlation<Element, Index>& c,
                         const CorrelationBlock<T, Index>& block)
      : c(c), at(block.first_step * kRowChunks + Chunks::chunk(), c.taps_w, c.chunks) {
    const Index channel = static_cast<Index>(block.group) * c.chunks * kChunk<Element>;
#pragma unroll
    for (int i = 0; i < Chunks::kRows; ++i) {
      pixels[i] = {c, block.first_pixel + Chunks::row(i), channel};
    }
  }
  __device__ void begin(char* to) {
    const bool exists = at.high < c.taps_h;
    const int h = exists ? at.high * c.tap_step_h : 0, w = at.middle * c.tap_step_w;
    const Index offset = h * c.in_strides.row + w * c.in_strides.column + at.low * kChunk<Element>;
#pragma unroll
    for (int i = 0; i < Chunks::kRows; ++i) {
      copy_chunk<kAligned>(to + Chunks::at(i), c.in, pixels[i].first + offset,
                           exists && pixels[i].has(c, h, w));
    }
    at.add(c.stride, c.taps_w, c.chunks);
  }
};

// Copies kDepth terms of kColumns columns of packed taps. Columns beyond the last read the last
// one, because their sums are not written.
template <class T, class Index>
struct TapCopies {
  using Element = typename T::Element;
  using Chunks = RowChunks<T, T::kColumns>;

  const Element* packed;
  Index from[Chunks::kRows];

  __device__ TapCopies(const Correlation<Element, Index>& c,
                       const CorrelationBlock<T, Index>& block)
      : packed(c.packed) {
#pragma unroll
    for (int i = 0; i < Chunks::kRows; ++i) {
      const int column = block.first_column + Chunks::row(i);
      const Index row = static_cast<Index>(block.group) * c.columns +
                        (column < c.columns ? column : c.columns - 1);
      from[i] =
          (row * c.steps + block.first_step) * kDepth<Element> + Chunks::chunk() * kChunk<Element>;
    }
  }
  __device__ void begin(char* to) {
#pragma unroll
    for (int i = 0; i < Chunks::kRows; ++i) {
      copy_async<kChunkBytes>(to + Chunks::at(i), packed + from[i], kChunkBytes);
      from[i] += kDepth<Element>;
    }
  }
};

template <class T, class Index>
__device__ __forceinline__ void add_bias(const Correlation<typename T::Element, Index>& c,
                                         const CorrelationBlock<T, Index>& block, const T& tile,
                                         typename T::Sums& sums) {
#pragma unroll
  for (int j = 0; j < T::kColumnFragments; ++j) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int column = block.first_column + tile.column(j, k);
      const bool exists = column < c.columns;
      const float bias = exists ? to_float(c.bias[block.group * c.columns + column]) : 0.f;
#pragma unroll
      for (int i = 0; i < T::kRowFragments; ++i) {
#pragma unroll
        for (int half = 0; half < 4; half += 2) sums[i][j][half + k] += bias;
      }
    }
  }
}

// Adds the residual. All of it is read before a result is written, so that the loads need not wait
// for the stores. With kPairs, two adjacent columns are read together.
template <bool kPairs, class T, class Index>
__device__ __forceinline__ void add_residual(const Correlation<typename T::Element, Index>& c,
                                             const CorrelationBlock<T, Index>& block, const T& tile,
                                             typename T::Sums& sums) {
  const Index first_channel = static_cast<Index>(block.group) * c.columns + block.first_column;
#pragma unroll
  for (int i = 0; i < T::kRowFragments; ++i) {
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      const Index index = block.first_pixel + tile.row(i, half);
      if (index >= c.pixels) continue;
      const int columns = c.columns - block.first_column;
      const auto* row =
          c.epilogue.residual + c.result_of(index) + first_channel * c.out_strides.channel;
#pragma unroll
      for (int j = 0; j < T::kColumnFragments; ++j) {
        float two[2] = {};
        if constexpr (kPairs) {
          if (tile.column(j, 0) < columns) load_two(row + tile.column(j, 0), two);
        } else {
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            const Index column = tile.column(j, k);
            if (column < columns) two[k] = to_float(row[column * c.out_strides.channel]);
          }
        }
        sums[i][j][half] += two[0], sums[i][j][half + 1] += two[1];
      }
    }
  }
}

template <class T, class Index>
__device__ __forceinline__ void finish(const Correlation<typename T::Element, Index>& c,
                                       const CorrelationBlock<T, Index>& block, const T& tile,
                                       typename T::Sums& sums) {
  if (c.bias != nullptr) add_bias(c, block, tile, sums);
  if (c.epilogue.residual != nullptr) {
    if (c.writes_chunks) {
      add_residual<true>(c, block, tile, sums);
    } else {
      add_residual<false>(c, block, tile, sums);
    }
  }
#pragma unroll
  for (int i = 0; i < T::kRowFragments; ++i) c.epilogue.activate(sums[i]);
}

// Transposes words among four lanes: word i of lane t becomes word t of lane i.
__device__ __forceinline__ void transpose(uint32_t (&words)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = (lane() & bit) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & bit) != 0) continue;
      const uint32_t given = upper ? words[i] : words[i | bit];
      const uint32_t got = __shfl_xor_sync(0xffffffff, given, bit);
      words[i] = upper ? got : words[i];
      words[i | bit] = upper ? words[i | bit] : got;
    }
  }
}

// Writes one row of each of four fragments in whole chunks. At first each of four lanes has two
// columns of every fragment. The lanes exchange them, so that each lane writes all columns of one
// fragment.
template <class T>
__device__ __forceinline__ void write_chunks(const typename T::Sums& sums, int i, int half,
                                             bool exists, typename T::Element* out) {
  using Element = typename T::Element;
  constexpr int kWords = 2 * sizeof(Element) / 4;  // words that hold two columns
  static_assert(T::kColumnFragments == 4);
  uint32_t words[kWords][4];
#pragma unroll
  for (int j = 0; j < T::kColumnFragments; ++j) {
    const Element both[2] = {from_float<Element>(sums[i][j][half]),
                             from_float<Element>(sums[i][j][half + 1])};
    uint32_t packed[kWords];
    std::memcpy(packed, both, sizeof(both));
#pragma unroll
    for (int k = 0; k < kWords; ++k) words[k][j] = packed[k];
  }
#pragma unroll
  for (int k = 0; k < kWords; ++k) transpose(words[k]);
  if (!exists) return;
#pragma unroll
  for (int chunk = 0; chunk < kWords; ++chunk) {
    uint32_t of_chunk[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int word = chunk * 4 + k;
      of_chunk[k] = words[word % kWords][word / kWords];
    }
    store16(out + chunk * kChunk<Element>, of_chunk);
  }
}

// Writes one row of this thread's sums element by element. `out` is the element of the tile's first
// column.
template <class T, class Index, class To>
__device__ __forceinline__ void write_row(const Correlation<typename T::Element, Index>& c,
                                          const CorrelationBlock<T, Index>& block, const T& tile,
                                          const typename T::Sums& sums, int i, int half, To* out) {
#pragma unroll
  for (int j = 0; j < T::kColumnFragments; ++j) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int column = tile.column(j, k);
      if (block.first_column + column >= c.columns) continue;
      out[static_cast<Index>(column) * c.out_strides.channel] =
          from_float<To>(sums[i][j][half + k]);
    }
  }
}

template <class T, class Index>
__device__ __forceinline__ void write_results(const Correlation<typename T::Element, Index>& c,
                                              const CorrelationBlock<T, Index>& block,
                                              const T& tile, const typename T::Sums& sums) {
  using Element = typename T::Element;
  const Index first_channel = static_cast<Index>(block.group) * c.columns + block.first_column;
#pragma unroll
  for (int i = 0; i < T::kRowFragments; ++i) {
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      const Index index = block.first_pixel + tile.row(i, half);
      Element* out = c.out + c.result_of(index) + first_channel * c.out_strides.channel;
      if (c.writes_chunks) {
        const int column = tile.warp_column + lane() % 4 * 8;
        write_chunks<T>(sums, i, half, index < c.pixels && block.first_column + column < c.columns,
                        out + column);
        continue;
      }
      if (index >= c.pixels) continue;
      write_row(c, block, tile, sums, i, half, out);
    }
  }
}

// Writes the split's sums without bias and epilogue.
template <class T, class Index>
__device__ __forceinline__ void write_partial(const Correlation<typename T::Element, Index>& c,
                                              const CorrelationBlock<T, Index>& block,
                                              const T& tile, const typename T::Sums& sums) {
  const Index first_channel = static_cast<Index>(block.group) * c.columns + block.first_column;
  float* partial = c.partial + block.split * c.split_size + first_channel * c.out_strides.channel;
#pragma unroll
  for (int i = 0; i < T::kRowFragments; ++i) {
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      const Index index = block.first_pixel + tile.row(i, half);
      if (index < c.pixels)
        write_row<T>(c, block, tile, sums, i, half, partial + c.result_of(index));
    }
  }
}

template <class T, class Index, bool kAligned>
__global__ void __launch_bounds__(T::kThreads, resident_blocks<Index>(T::kThreads))
    correlate(const Correlation<typename T::Element, Index> c) {
  using Element = typename T::Element;
  using A = RowsOfTerms<Element, T::kRows>;
  using B = RowsOfTerms<Element, T::kColumns>;
  const CorrelationBlock<T, Index> block(c, c.steps);
  PixelCopies<T, Index, kAligned> pixels(c, block);
  TapCopies<T, Index> taps(c, block);
  const T tile;
  typename T::Sums sums = {};
  run_pipeline<T::kStageBytes>(
      block.steps,
      [&](char* stage) {
        pixels.begin(stage);
        taps.begin(stage + A::kBytes);
      },
      [&](const char* stage) { tile.template add_products<A, B>(stage, stage + A::kBytes, sums); });
  if (c.split_size > 0) return write_partial(c, block, tile, sums);
  finish(c, block, tile, sums);
  write_results(c, block, tile, sums);
}

}  // namespace convkern::cuda::implicit_gemm_mma
