// Tensors as the tensor-core kernels read them, with zeros where a group's channels, or a column's
// terms, do not fill the last chunk:
//   weights  (group, column, tap row, tap column, channel), each column's terms in whole kDepth;
//            of float rounded to TF32
//   pixels   (n, h, w, group, channel)
// A thread writes a chunk; of pixels, neighbouring threads have neighbours in the tensor. Not yet
// run on a GPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/elements.cuh"
#include "cuda/implicit_gemm/geometry.cuh"
#include "cuda/implicit_gemm_mma/tiles.cuh"

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

// `size`: chunks. A column has column_chunks, of which those of its taps are the first.
template <class Element>
__global__ void __launch_bounds__(kElementThreads)
    pack_taps(const Element* w, const TapsOf taps, int terms, int chunks, int columns,
              int64_t column_chunks, int64_t size, Element* packed) {
  for_each_element(size, [&](int64_t i) {
    const int64_t at = i % column_chunks, row = i / column_chunks, tap = at / chunks;
    const int m = static_cast<int>(tap / taps.taps_w), k = static_cast<int>(tap % taps.taps_w);
    const int term = static_cast<int>(at % chunks) * kChunk<Element>;
    const int64_t from = taps.at(row / columns, static_cast<int>(row % columns), term, m, k);
    write_chunk<true>(packed + i * kChunk<Element>, w + from, taps.term,
                      m < taps.taps_h ? terms - term : 0);
  });
}

// `size`: chunks; fits Index, as do offsets in both tensors.
template <class Element, class Index, Layout kLayout>
__global__ void __launch_bounds__(kElementThreads)
    pack_pixels(const Element* tensor, Index image_pixels, int groups, int channels, int chunks,
                int64_t size, Element* packed) {
  constexpr bool kPlanes = kLayout == Layout::nchw;
  const int row_chunks = groups * chunks, all = groups * channels;
  for_each_element(size, [&](int64_t i) {
    // Of (n, group and chunk, pixel) or (n, pixel, group and chunk), as the tensor.
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
