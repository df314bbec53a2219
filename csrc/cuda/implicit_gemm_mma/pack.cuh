// Tensors as the tensor-core kernels read them, with zeros where a group's channels, or a column's
// terms, do not fill the last chunk:
//   weights  (group, column, tap row, tap column, channel), each column's terms in whole kDepth;
//           of float rounded to TF32
//   pixels   (n, h, w, group, channel)
// A thread writes an element of weights, or a chunk of a pixel, of which neighbouring threads have
// neighbours in the tensor. Not yet run on a GPU.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/elements.cuh"
#include "cuda/implicit_gemm/geometry.cuh"
#include "cuda/implicit_gemm_mma/tiles.cuh"

namespace convkern::cuda::implicit_gemm_mma {

template <class Element>
__device__ __forceinline__ Element as_term(Element value) {
  if constexpr (sizeof(Element) == 4) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    bits = round_to_tf32(bits);
    std::memcpy(&value, &bits, sizeof(bits));
  }
  return value;
}

template <class Element>
__global__ void __launch_bounds__(kElementThreads)
    pack_taps(const Element* w, const TapsOf taps, int terms, int padded_terms, int columns,
              int64_t column_terms, int64_t size, Element* packed) {
  for_each_element(size, [&](int64_t i) {
    const int64_t at = i % column_terms, row = i / column_terms;
    const int term = static_cast<int>(at % padded_terms);
    const int64_t tap = at / padded_terms;
    const int m = static_cast<int>(tap / taps.taps_w), k = static_cast<int>(tap % taps.taps_w);
    const int column = static_cast<int>(row % columns);
    const bool exists = term < terms && m < taps.taps_h;
    packed[i] = exists ? as_term(w[taps.at(row / columns, column, term, m, k)]) : Element{};
  });
}

template <class Element, Layout kLayout>
__global__ void __launch_bounds__(kElementThreads)
    pack_pixels(const Element* tensor, int64_t image_pixels, int groups, int channels, int chunks,
                int64_t size, Element* packed) {
  for_each_element(size, [&](int64_t i) {
    // Of (n, group and chunk, pixel) or (n, pixel, group and chunk), as the tensor.
    const int row_chunks = groups * chunks;
    const int64_t image = i / (image_pixels * row_chunks), rest = i % (image_pixels * row_chunks);
    const bool planes = kLayout == Layout::nchw;
    const int64_t pixel = planes ? rest % image_pixels : rest / row_chunks;
    const int row_chunk = static_cast<int>(planes ? rest / image_pixels : rest % row_chunks);
    const int group = row_chunk / chunks, first = row_chunk % chunks * kChunk<Element>;
    const int64_t channel = static_cast<int64_t>(group) * channels + first;
    const int64_t all = static_cast<int64_t>(groups) * channels;
    const Element* from = planes ? tensor + (image * all + channel) * image_pixels + pixel
                                 : tensor + (image * image_pixels + pixel) * all + channel;
    Element values[kChunk<Element>];
#pragma unroll
    for (int k = 0; k < kChunk<Element>; ++k) {
      values[k] = first + k < channels ? from[planes ? k * image_pixels : k] : Element{};
    }
    uint32_t words[4];
    std::memcpy(words, values, sizeof(words));
    store16(packed + ((image * image_pixels + pixel) * row_chunks + row_chunk) * kChunk<Element>,
            words);
  });
}

}  // namespace convkern::cuda::implicit_gemm_mma
