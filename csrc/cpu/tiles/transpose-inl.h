// Moves images between their layout in memory and a layout with one image in each lane.
//
// The latter holds a block of up to kLanes images with the image index innermost. Element e of the
// block is a vector, and its lane l belongs to image l. Lanes beyond the last image are zero.
#pragma once

#include "cpu/simd/product.h"  // first, for its overloads of store_vector() etc.

namespace convkern::cpu {
namespace {

constexpr int kQuarters = kLanes / 4;

CONVKERN_INLINE Quarter load_quarter(const Real* p) {
  Quarter q;
  std::memcpy(&q, p, sizeof(q));
  return q;
}

// The same functions are overloaded for number types other than Real, where those that store round.
CONVKERN_INLINE void store_quarter(Real* p, Quarter q) { std::memcpy(p, &q, sizeof(q)); }
CONVKERN_INLINE void store_number(Real* p, Real number) { *p = number; }
CONVKERN_INLINE Vec load_vector(const Real* p) { return Vec::load_unaligned(p); }
CONVKERN_INLINE void store_vector(Real* p, Vec v) { v.store_unaligned(p); }
CONVKERN_INLINE void store_first(Real* p, int lanes, Vec v) { v.store_first(p, lanes); }

// Steps through the addresses of vectors 0, 1, .... They are `step` floats apart, with an
// additional gap after every `inner` vectors.
class VectorCursor {
 public:
  VectorCursor(Real* first, int64_t step, int64_t inner, int64_t gap)
      : first_(first), step_(step), inner_(inner), gap_(gap), at_(first) {}
  CONVKERN_INLINE void seek(int64_t e) {
    const int64_t groups = e / inner_;
    index_ = e - groups * inner_;
    at_ = first_ + e * step_ + groups * gap_;
  }
  // Returns the address of the next vector if n follow it without a gap, and passes over them.
  // Otherwise returns null.
  CONVKERN_INLINE Real* next(int n) {
    if (inner_ - index_ < n) return nullptr;
    Real* at = at_;
    index_ += n;
    at_ += n * step_;
    if (index_ == inner_) {
      index_ = 0;
      at_ += gap_;
    }
    return at;
  }
  CONVKERN_INLINE int64_t step() const { return step_; }
  CONVKERN_INLINE Real* next() {
    Real* at = at_;
    const bool last = ++index_ == inner_;
    at_ += last ? step_ + gap_ : step_;
    index_ = last ? 0 : index_;
    return at;
  }

 private:
  Real* first_;
  int64_t step_, inner_, gap_;
  Real* at_;
  int64_t index_ = 0;
};

struct ImageBlock {
  int64_t stride;  // floats from one image to the next
  int count;       // images, at most kLanes
};

constexpr int kAhead = 48;  // floats that are prefetched ahead of the position in each image

// Calls move(next), where next(i) returns the address of the i-th of the next kLanes vectors. They
// are asked for in order.
template <class Move>
CONVKERN_INLINE void for_square(VectorCursor& lanes, const Move& move) {
  if (Real* const at = lanes.next(kLanes)) {
    const int64_t step = lanes.step();
    move([&](int i) CONVKERN_INLINE_LAMBDA { return at + i * step; });
  } else {
    move([&](int) CONVKERN_INLINE_LAMBDA { return lanes.next(); });
  }
}

// The rows of a square: kLanes elements of kLanes images that begin at p. Addresses are made of one
// pointer for each four images, because pointers to all of them would not fit the registers.
template <class T>
struct SquareRows {
  T* at[kQuarters];
  int64_t stride, three;

  CONVKERN_INLINE SquareRows(T* p, int64_t stride) : stride(stride), three(3 * stride) {
    for (int q = 0; q < kQuarters; ++q) at[q] = p + 4 * q * stride;
  }
  // Image 4 * q + r.
  CONVKERN_INLINE T* row(int r, int q) const { return at[q] + (r < 3 ? r * stride : three); }
  CONVKERN_INLINE void prefetch() const {
#pragma GCC unroll 4
    for (int q = 0; q < kQuarters; ++q) {
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        __builtin_prefetch(row(r, q) + kAhead, /*write=*/!std::is_const_v<T>);
      }
    }
  }
};

// Moves the next kLanes elements of kLanes images into lanes.
CONVKERN_INLINE void square_to_lanes(const Real* p, int64_t stride, VectorCursor& lanes) {
  const SquareRows<const Real> images(p, stride);
  images.prefetch();
  // At first rows[r][q] is image 4q + r. Then quarter q of rows[r][g] has its elements 4g to 4g
  // + 3.
  Vec rows[4][kQuarters];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
#pragma GCC unroll 4
    for (int q = 0; q < kQuarters; ++q) rows[r][q] = Vec::load_unaligned(images.row(r, q));
    exchange_quarters(rows[r]);
  }
  const auto store = [&](const auto& next) CONVKERN_INLINE_LAMBDA {
#pragma GCC unroll 4
    for (int g = 0; g < kQuarters; ++g) {
      Vec vectors[4] = {rows[0][g], rows[1][g], rows[2][g], rows[3][g]};
      transpose_quarters(vectors);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) vectors[i].store(next(4 * g + i));
    }
  };
  for_square(lanes, store);
}

template <class T>
CONVKERN_INLINE void square_to_images(T* p, int64_t stride, VectorCursor& lanes) {
  const SquareRows<T> images(p, stride);
  images.prefetch();
  Vec rows[4][kQuarters];
  const auto load = [&](const auto& next) CONVKERN_INLINE_LAMBDA {
#pragma GCC unroll 4
    for (int g = 0; g < kQuarters; ++g) {
      Vec vectors[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) vectors[i] = Vec::load(next(4 * g + i));
      transpose_quarters(vectors);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) rows[r][g] = vectors[r];
    }
  };
  for_square(lanes, load);
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    exchange_quarters(rows[r]);
#pragma GCC unroll 4
    for (int q = 0; q < kQuarters; ++q) store_vector(images.row(r, q), rows[r][q]);
  }
}

// Moves the next 4 elements of the block's images into lanes. The other lanes are zero.
CONVKERN_INLINE void strip_to_lanes(const Real* p, ImageBlock images, VectorCursor& lanes) {
  Vec vectors[4];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    Quarter quarters[kQuarters];
#pragma GCC unroll 4
    for (int q = 0; q < kQuarters; ++q) {
      const int lane = 4 * q + r;
      quarters[q] = lane < images.count ? load_quarter(p + lane * images.stride) : Quarter{};
    }
    vectors[r] = Vec::from_quarters(quarters);
  }
  transpose_quarters(vectors);
  for (int i = 0; i < 4; ++i) vectors[i].store(lanes.next());
}

template <class T>
CONVKERN_INLINE void strip_to_images(T* p, ImageBlock images, VectorCursor& lanes) {
  Vec vectors[4];
  for (int i = 0; i < 4; ++i) vectors[i] = Vec::load(lanes.next());
  transpose_quarters(vectors);
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    Quarter quarters[kQuarters];
    vectors[r].to_quarters(quarters);
#pragma GCC unroll 4
    for (int q = 0; q < kQuarters; ++q) {
      const int lane = 4 * q + r;
      if (lane < images.count) store_quarter(p + lane * images.stride, quarters[q]);
    }
  }
}

// Splits the elements [0, n) into parts of `width` and calls move(e) for each part, which starts at
// e. `lanes` is then at element e. n must be at least `width`. Where `width` does not divide n, the
// last part overlaps the one before it.
template <class Move>
CONVKERN_INLINE void for_each_part(int64_t n, int64_t width, VectorCursor& lanes,
                                   const Move& move) {
  int64_t e = 0;
  for (; e + width <= n; e += width) move(e);
  if (e == n) return;
  lanes.seek(n - width);
  move(n - width);
}

// Moves the elements p[0, n) of each image to the vectors 0 to n - 1 of `lanes`.
CONVKERN_INLINE void images_to_lanes(const Real* p, ImageBlock images, int64_t n,
                                     VectorCursor lanes) {
  if (images.count == kLanes && n >= kLanes) {
    for_each_part(n, kLanes, lanes, [&](int64_t e) __attribute__((always_inline)) {
      square_to_lanes(p + e, images.stride, lanes);
    });
  } else if (n >= 4) {
    for_each_part(n, 4, lanes, [&](int64_t e) __attribute__((always_inline)) {
      strip_to_lanes(p + e, images, lanes);
    });
  } else {
    for (int64_t e = 0; e < n; ++e) {
      Real* to = lanes.next();
      Vec::zero().store(to);
      for (int lane = 0; lane < images.count; ++lane) to[lane] = p[lane * images.stride + e];
    }
  }
}

// Moves the vectors 0 to n - 1 of `lanes` back to the elements p[0, n) of each image.
template <class T>
CONVKERN_INLINE void lanes_to_images(T* p, ImageBlock images, int64_t n, VectorCursor lanes) {
  if (images.count == kLanes && n >= kLanes) {
    for_each_part(n, kLanes, lanes, [&](int64_t e) __attribute__((always_inline)) {
      square_to_images(p + e, images.stride, lanes);
    });
  } else if (n >= 4) {
    for_each_part(n, 4, lanes, [&](int64_t e) __attribute__((always_inline)) {
      strip_to_images(p + e, images, lanes);
    });
  } else {
    for (int64_t e = 0; e < n; ++e) {
      const Real* from = lanes.next();
      for (int lane = 0; lane < images.count; ++lane) {
        store_number(p + lane * images.stride + e, from[lane]);
      }
    }
  }
}

// Sets out[e] to the sum of the lanes of vector e of `from`, for e in [0, n).
inline void sum_lanes(const Real* from, int64_t n, Real* out) {
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
