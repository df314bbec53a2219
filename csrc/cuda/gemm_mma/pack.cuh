// Packs tensors into the form that the tensor-core kernels read:
//   weights  (group, column, tap row, tap column, channel), where each column's terms fill whole
//            parts of kDepth; float weights are rounded to TF32
//   pixels   (n, h, w, group, channel)
// Zeros fill the last chunk of a group's channels or a column's terms. Each thread writes a chunk.
// When it packs pixels, neighbouring threads read neighbours in the tensor.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/elements.cuh"
#include "cuda/gemm/geometry.cuh"
#include "cuda/gemm_mma/tiles.cuh"

namespace convkern::cuda::implicit_gemm_mma {

// Writes `exists` elements that are `step` apart from `from` on, and fills the chunk with zeros.
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

// `size` counts the chunks of one tap in all columns. Each thread copies its chunk for every tap,
// because taps are neighbours in w. It also writes zeros until the column has column_chunks chunks.
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

// `size` counts chunks. It fits Index, and so do the offsets in both tensors.
template <class Element, class Index, Layout kLayout>
__global__ void __launch_bounds__(kElementThreads)
    pack_pixels(const Element* tensor, Index image_pixels, int groups, int channels, int chunks,
                int64_t size, Element* packed) {
  constexpr bool kPlanes = kLayout == Layout::nchw;
  const int row_chunks = groups * chunks, all = groups * channels;
  for_each_element(size, [&](auto i) {
    // The index counts (n, group and chunk, pixel) in NCHW and (n, pixel, group and chunk) in NHWC,
    // which is the order of the tensor.
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
