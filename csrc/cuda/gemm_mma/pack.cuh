// Tensors as the tensor-core kernels read them, with zeros where a group's channels, or a column's
// terms, do not fill the last chunk:
//   weights  (group, column, tap row, tap column, channel), each column's terms in whole kDepth;
//            of float rounded to TF32
//   pixels   (n, h, w, group, channel)
// A thread writes a chunk; of pixels, neighbouring threads have neighbours in the tensor.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/elements.cuh"
#include "cuda/gemm/geometry.cuh"
#include "cuda/gemm_mma/tiles.cuh"

namespace convkern::cuda::implicit_gemm_mma {

// Writes `exists` elements from `from` on, `step` apart, and zeros to fill the chunk.
template <bool kRound, class Element>
__device__ __forceinline__ void write_chunk(Element* to, const Element* from, int64_t step,
                                            int exists) {
  Element values[kChunk<Element>];
#pragma unroll
  for (int i = 0; i < kChunk<Element>; ++i) values[i] = i < exists ? from[i * step] : Element{};
  uint32_t words[4];
  std::memcpy(words, values, sizeof(words));
  if constexpr (kRound) round_terms<Element>(words);
  store16(to, words);
}

// `size`: chunks of the terms of all columns. A thread copies one of each tap, since taps are
// neighbours in w, and zeros to fill the column's column_chunks.
template <class Element>
__global__ void __launch_bounds__(kElementThreads)
    pack_taps(const Element* w, const TapsOf taps, int terms, int chunks, int columns,
              int column_chunks, int64_t size, Element* packed) {
  for_each_element(size, [&](auto i) {
    const auto row = i / chunks, group = row / columns;
    const auto first = static_cast<int>(i % chunks), column = static_cast<int>(row % columns);
    const int term = first * kChunk<Element>;
    Element* to = packed + static_cast<int64_t>(row) * column_chunks * kChunk<Element>;
    int m = 0, k = 0;
    for (int at = first; at < column_chunks; at += chunks) {
      const bool exists = m < taps.taps_h;
      const int64_t from = exists ? taps.at(group, column, term, m, k) : 0;
      write_chunk<true>(to + at * int64_t{kChunk<Element>}, w + from, taps.term,
                        exists ? terms - term : 0);
      if (++k == taps.taps_w) k = 0, ++m;
    }
  });
}

// `size`: chunks; fits Index, as do offsets in both tensors.
template <class Element, class Index, Layout kLayout>
__global__ void __launch_bounds__(kElementThreads)
    pack_pixels(const Element* tensor, Index image_pixels, int groups, int channels, int chunks,
                int64_t size, Element* packed) {
  constexpr bool kPlanes = kLayout == Layout::nchw;
  const int row_chunks = groups * chunks, all = groups * channels;
  for_each_element(size, [&](auto i) {
    // The index counts (n, group and chunk, pixel) or (n, pixel, group and chunk), as the tensor
    // does.
    const Index image = static_cast<Index>(i) / (image_pixels * row_chunks);
    const Index rest = static_cast<Index>(i) - image * image_pixels * row_chunks;
    const Index outer = rest / (kPlanes ? image_pixels : row_chunks);
    const Index inner = rest - outer * (kPlanes ? image_pixels : row_chunks);
    const Index pixel = kPlanes ? inner : outer;
    const int row_chunk = static_cast<int>(kPlanes ? outer : inner);
    const int group = row_chunk / chunks, first = row_chunk % chunks * kChunk<Element>;
    const Index channel = static_cast<Index>(group) * channels + first;
    const Index from = kPlanes ? (image * all + channel) * image_pixels + pixel
                               : (image * image_pixels + pixel) * all + channel;
    const Index to = (image * image_pixels + pixel) * row_chunks + row_chunk;
    write_chunk<false>(packed + to * kChunk<Element>, tensor + from, kPlanes ? image_pixels : 1,
                       channels - first);
  });
}

}  // namespace convkern::cuda::implicit_gemm_mma
