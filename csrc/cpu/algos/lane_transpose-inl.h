// Between images in memory and images in lanes.
//
// A block of up to kLanes images is held with the image innermost: element e of the block is a
// vector whose lane l belongs to image l. Lanes beyond the last image are zero.
#pragma once

#include <cstring>

namespace convkern::cpu {
namespace {

constexpr int kLanes = Vec::kLanes;
constexpr int kQuarters = kLanes / 4;

CONVKERN_INLINE Quarter load_quarter(const float* p) {
  Quarter q;
  std::memcpy(&q, p, sizeof(q));
  return q;
}

CONVKERN_INLINE void store_quarter(float* p, Quarter q) { std::memcpy(p, &q, sizeof(q)); }

struct ImageBlock {
  int64_t stride;  // floats from one image to the next
  int count;       // images, at most kLanes
};

template <bool kFull>
CONVKERN_INLINE void load_4_elements(const float* p, ImageBlock images, Vec (&out)[4]) {
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    Quarter quarters[kQuarters];
#pragma GCC unroll 4
    for (int q = 0; q < kQuarters; ++q) {
      const int lane = 4 * q + r;
      quarters[q] =
          kFull || lane < images.count ? load_quarter(p + lane * images.stride) : Quarter{};
    }
    out[r] = Vec::from_quarters(quarters);
  }
  transpose_quarters(out);
}

// Elements p[0, n) of each image become vectors; vector e is stored at address(e).
template <class Address>
CONVKERN_INLINE void images_to_lanes(const float* p, ImageBlock images, int64_t n,
                                     const Address& address) {
  if (n < 4) {
    for (int64_t e = 0; e < n; ++e) {
      float* to = address(e);
      Vec::zero().store(to);
      for (int lane = 0; lane < images.count; ++lane) to[lane] = p[lane * images.stride + e];
    }
    return;
  }
  for (int64_t e = 0; e < n; e += 4) {
    if (e > n - 4) e = n - 4;  // the last four overlap their predecessors
    Vec vectors[4];
    if (images.count == kLanes) {
      load_4_elements<true>(p + e, images, vectors);
    } else {
      load_4_elements<false>(p + e, images, vectors);
    }
    for (int i = 0; i < 4; ++i) vectors[i].store(address(e + i));
  }
}

// The reverse: element e of each image, p[e], comes from the vector at address(e).
template <class Address>
CONVKERN_INLINE void lanes_to_images(float* p, ImageBlock images, int64_t n,
                                     const Address& address) {
  if (n < 4) {
    for (int64_t e = 0; e < n; ++e) {
      const float* from = address(e);
      for (int lane = 0; lane < images.count; ++lane) p[lane * images.stride + e] = from[lane];
    }
    return;
  }
  for (int64_t e = 0; e < n; e += 4) {
    if (e > n - 4) e = n - 4;
    Vec vectors[4];
    for (int i = 0; i < 4; ++i) vectors[i] = Vec::load(address(e + i));
    transpose_quarters(vectors);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      Quarter quarters[kQuarters];
      vectors[r].to_quarters(quarters);
#pragma GCC unroll 4
      for (int q = 0; q < kQuarters; ++q) {
        const int lane = 4 * q + r;
        if (lane < images.count) store_quarter(p + e + lane * images.stride, quarters[q]);
      }
    }
  }
}

// out[e] = the sum of the lanes of vector e of `from`, e in [0, n).
inline void sum_lanes(const float* from, int64_t n, float* out) {
  for (int64_t e = 0; e < n; e += 4) {
    Vec vectors[4];
    for (int i = 0; i < 4; ++i) {
      vectors[i] = e + i < n ? Vec::load(from + (e + i) * kLanes) : Vec::zero();
    }
    transpose_quarters(vectors);
    const Vec sums = add(add(vectors[0], vectors[1]), add(vectors[2], vectors[3]));
    Quarter quarters[kQuarters];
    sums.to_quarters(quarters);
    Quarter total = quarters[0];
    for (int q = 1; q < kQuarters; ++q) total += quarters[q];
    for (int i = 0; i < 4 && e + i < n; ++i) out[e + i] = total[i];
  }
}

}  // namespace
}  // namespace convkern::cpu
