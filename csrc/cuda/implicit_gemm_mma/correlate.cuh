// The kernel behind forward and grad_input on tensor cores: pixels of the result are the rows of a
// matrix product, columns its channels, and the input's channels at each tap its terms, summed in
// float32. Not yet run on a GPU.
//
// The input is channels_last with whole chunks of channels in each group (pack.cuh makes others
// so), whose chunks are copied straight to shared memory. The taps follow each other without a gap,
// so that a few channels of many taps also fill what is multiplied at a time: each thread copies
// chunks of its own tap. The result is written in the problem's layout, with bias and ReLU in
// float32.
#pragma once

#include "cuda/implicit_gemm/geometry.cuh"
#include "cuda/implicit_gemm/pipeline.cuh"
#include "cuda/implicit_gemm_mma/tiles.cuh"

namespace convkern::cuda::implicit_gemm_mma {

template <class Element, class Index>
struct Correlation : CorrelationSizes<Index> {
  const Element *in, *packed, *bias;  // bias null: none
  Element* out;
  int chunks;          // of a group's channels
  Digits<int> stride;  // kRowChunks, as (tap row, tap column, chunk)
  int steps;           // parts of kDepth terms
};

// Copies kDepth terms of kRows pixels.
template <class T, class Index, bool kAligned>
struct PixelCopies {
  using Element = typename T::Element;
  using Chunks = RowChunks<T, T::kRows>;

  const Correlation<Element, Index>& c;
  InputPixel<Index> pixels[Chunks::kRows];
  Digits<int> at;  // (tap row, tap column, chunk) of the next

  __device__ PixelCopies(const Correlation<Element, Index>& c, Index first_pixel, Index channel)
      : c(c), at(Chunks::chunk(), c.taps_w, c.chunks) {
#pragma unroll
    for (int i = 0; i < Chunks::kRows; ++i) {
      pixels[i] = {c, first_pixel + Chunks::row(i), channel};
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

// Copies kDepth terms of kColumns columns of packed taps. Columns beyond the last are the last:
// what they sum is not written.
template <class T, class Index>
struct TapCopies {
  using Element = typename T::Element;
  using Chunks = RowChunks<T, T::kColumns>;

  const Element* packed;
  Index from[Chunks::kRows];

  __device__ TapCopies(const Correlation<Element, Index>& c, int group, int first_column)
      : packed(c.packed) {
#pragma unroll
    for (int i = 0; i < Chunks::kRows; ++i) {
      const int column = first_column + Chunks::row(i);
      const Index row =
          static_cast<Index>(group) * c.columns + (column < c.columns ? column : c.columns - 1);
      from[i] = row * c.steps * kDepth<Element> + Chunks::chunk() * kChunk<Element>;
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
__device__ __forceinline__ void write_results(const Correlation<typename T::Element, Index>& c,
                                              const CorrelationBlock<T, Index>& block,
                                              const T& tile, typename T::Sums& sums) {
  using Element = typename T::Element;
  const Index first_channel = static_cast<Index>(block.group) * c.columns + block.first_column;
  if (c.bias != nullptr) {
#pragma unroll
    for (int j = 0; j < T::kColumnFragments; ++j) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int column = tile.column(j, k);
        const bool exists = block.first_column + column < c.columns;
        const float bias = exists ? to_float(c.bias[first_channel + column]) : 0.f;
#pragma unroll
        for (int i = 0; i < T::kRowFragments; ++i) {
          sums[i][j][k] += bias;
          sums[i][j][k + 2] += bias;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < T::kRowFragments; ++i) {
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      const Index index = block.first_pixel + tile.row(i, half);
      if (index >= c.pixels) continue;
      Element* out = c.out + c.result_of(index) + first_channel * c.out_strides.channel;
#pragma unroll
      for (int j = 0; j < T::kColumnFragments; ++j) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int column = tile.column(j, k);
          if (block.first_column + column >= c.columns) continue;
          float sum = sums[i][j][half + k];
          if (c.relu) sum = sum < 0 ? 0 : sum;
          out[static_cast<Index>(column) * c.out_strides.channel] = from_float<Element>(sum);
        }
      }
    }
  }
}

template <class T, class Index, bool kAligned>
__global__ void __launch_bounds__(T::kThreads, resident_blocks<Index>(T::kThreads))
    correlate(const Correlation<typename T::Element, Index> c) {
  using Element = typename T::Element;
  using A = RowsOfTerms<Element, T::kRows>;
  using B = RowsOfTerms<Element, T::kColumns>;
  const CorrelationBlock<T, Index> block(c);
  PixelCopies<T, Index, kAligned> pixels(
      c, block.first_pixel, static_cast<Index>(block.group) * c.chunks * kChunk<Element>);
  TapCopies<T, Index> taps(c, block.group, block.first_column);
  const T tile;
  typename T::Sums sums = {};
  run_pipeline<A::kBytes + B::kBytes>(
      c.steps,
      [&](char* stage) {
        pixels.begin(stage);
        taps.begin(stage + A::kBytes);
      },
      [&](const char* stage) { tile.template add_products<A, B>(stage, stage + A::kBytes, sums); });
  write_results(c, block, tile, sums);
}

}  // namespace convkern::cuda::implicit_gemm_mma
