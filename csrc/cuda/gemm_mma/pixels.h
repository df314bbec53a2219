// The tensors that the tensor-core kernels read. They are packed into the workspace if they are in
// NCHW or if their groups do not fill whole chunks of channels. Other tensors are read in place.
#pragma once

#include <cstdint>

#include "cuda/gemm/passes.h"
#include "cuda/gemm_mma/pack.cuh"

namespace convkern::cuda::implicit_gemm_mma {

template <class Element>
int64_t chunks_of(int64_t channels) {
  return tiles_of(channels, kChunk<Element>);
}

// A tensor (N, groups * channels, height, width), which the kernels read as (n, h, w, group,
// chunk).
template <class Element>
struct Pixels {
  const Problem& p;
  int64_t channels, height, width;

  int64_t chunks() const { return chunks_of<Element>(channels); }
  int64_t size() const { return p.N * height * width * p.groups * chunks(); }  // in chunks
  bool is_packed() const { return p.layout == Layout::nchw || channels % kChunk<Element> != 0; }
  // Returns whether the offsets of this tensor and of the problem's tensors fit int32.
  bool fits_int32() const {
    return cuda::fits_int32(p) && size() < kInt32Elements / kChunk<Element>;
  }
  int64_t packed_bytes() const { return is_packed() ? size() * kChunkBytes : 0; }

  // Returns the tensor in the form that the kernels read. It is packed to `workspace` if necessary.
  const Element* get(const void* tensor, void* workspace, const Executor& executor) const {
    const auto* given = static_cast<const Element*>(tensor);
    if (!is_packed()) return given;
    auto* packed = static_cast<Element*>(workspace);
    with_index(fits_int32(), [&](auto index) {
      using Index = decltype(index);
      auto pack = p.layout == Layout::nchw ? pack_pixels<Element, Index, Layout::nchw>
                                           : pack_pixels<Element, Index, Layout::nhwc>;
      launch(pack, element_shape(size()), executor, given, static_cast<Index>(height * width),
             small(p.groups), small(channels), small(chunks()), size(), packed);
    });
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
inline bool begins_chunk(const void* tensor) {
  return reinterpret_cast<uintptr_t>(tensor) % kChunkBytes == 0;
}

}  // namespace convkern::cuda::implicit_gemm_mma
