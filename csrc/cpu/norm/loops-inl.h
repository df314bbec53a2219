// The loops of batch normalisation (loops.h) in terms of Vec, as templates of the number in memory.
//
// Memory is walked in order, one vector at a time: the processor's prefetchers follow one stream a
// tensor. In channels_last the numbers and the sums of the columns of a row are in the L1 cache,
// and in NCHW those of a plane's channel are in registers. Sums are float32 for a block of terms
// and float64 beyond.
#pragma once

#include "cpu/norm/slopes-inl.h"
#include "cpu/tiles/transpose-inl.h"

namespace convkern::cpu {
namespace {

constexpr int64_t kBlockTerms = 64;  // added up in `Real` before they go into a double
constexpr int64_t kFetched = 4096;   // bytes ahead of a load that are fetched: the next page

template <class Number>
CONVKERN_INLINE Vec read(const Number* p, int lanes) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kFetched);
  if (lanes == kLanes) return load_vector(p);
  Number some[kLanes] = {};
  std::memcpy(some, p, lanes * sizeof(Number));
  return load_vector(some);
}

template <class Number>
CONVKERN_INLINE void write(Number* p, Vec v, int lanes) {
  if (lanes == kLanes) return store_vector(p, v);
  Number some[kLanes];
  store_vector(some, v);
  std::memcpy(p, some, lanes * sizeof(Number));
}

// The columns at a vector of a row (channels_last).
struct AtColumns {
  const NormLoop& loop;
  Real* sums;  // NormSums::kRows rows
  const Real* image;
  int64_t column;

  CONVKERN_INLINE Vec operator[](NormLoop::Row row) const {
    return Vec::load(static_cast<const Real*>(loop.rows[row]) + column);
  }
  CONVKERN_INLINE Vec of_image() const { return Vec::load(image + column); }
  CONVKERN_INLINE void add_to(int sum, Vec v) const {
    Real* at = sums + sum * loop.width + column;
    add(Vec::load(at), v).store(at);
  }
};

// The channel of a plane (NCHW).
struct AtPlane {
  Vec numbers[NormLoop::kRows], sums[NormSums::kRows], image;

  CONVKERN_INLINE Vec operator[](NormLoop::Row row) const { return numbers[row]; }
  CONVKERN_INLINE Vec of_image() const { return image; }
  CONVKERN_INLINE void add_to(int sum, Vec v) { sums[sum] = add(sums[sum], v); }
};

CONVKERN_INLINE LaneBits first_lanes(int lanes) { return (LaneBits{1} << lanes) - 1; }

// Calls body(at, offset, vector, lanes) for each vector of the units [begin, end): `lanes` numbers
// from `offset` on, the vector with this number in the order of the walk.
template <bool kSummed, class Body>
CONVKERN_INLINE void walk_rows(const NormLoop& loop, int64_t begin, int64_t end,
                               const NormSums& sums, const Body& body) {
  const int64_t width = loop.width, rows = (loop.image_size + width - 1) / width;
  const int64_t vectors = (loop.image_size + kLanes - 1) / kLanes;
  auto* block = kSummed ? static_cast<Real*>(sums.block) : nullptr;
  for (int64_t first = begin; first < end; first += kBlockTerms) {
    for (int64_t unit = first; unit < std::min(end, first + kBlockTerms); ++unit) {
      const int64_t image = unit / rows, start = unit % rows * width;
      const int64_t count = std::min(width, loop.image_size - start);
      const int64_t offset = image * loop.image_size + start;
      const int64_t vector = image * vectors + start / kLanes;
      const auto* of_image = static_cast<const Real*>(loop.gy_images);
      if (of_image != nullptr) of_image += image * width;
      int64_t column = 0;
      for (; column + kLanes <= count; column += kLanes) {
        AtColumns at{loop, block, of_image, column};
        body(at, offset + column, vector + column / kLanes, kLanes);
      }
      if (column < count) {
        AtColumns at{loop, block, of_image, column};
        body(at, offset + column, vector + column / kLanes, static_cast<int>(count - column));
      }
    }
    if (!kSummed) continue;
    for (int64_t i = 0; i < NormSums::kRows * width; ++i) {
      sums.total[i] += block[i];
      block[i] = 0;
    }
  }
}

template <bool kSummed, class Body>
CONVKERN_INLINE void walk_planes(const NormLoop& loop, int64_t begin, int64_t end,
                                 const NormSums& sums, const Body& body) {
  const int64_t pixels = loop.width, vectors = (pixels + kLanes - 1) / kLanes;
  for (int64_t plane = begin; plane < end; ++plane) {
    const int64_t channel = plane % loop.channels, start = plane * pixels;
    AtPlane at;
    for (int row = 0; row < NormLoop::kRows; ++row) {
      at.numbers[row] = Vec::broadcast(static_cast<const Real*>(loop.rows[row]) + channel);
    }
    at.image = Vec::zero();
    if (loop.gy_images != nullptr) {
      at.image = Vec::broadcast(static_cast<const Real*>(loop.gy_images) + plane);
    }
    for (int64_t first = 0; first < vectors; first += kBlockTerms) {
      for (Vec& sum : at.sums) sum = Vec::zero();
      const int64_t last = std::min(pixels, (first + kBlockTerms) * kLanes);
      int64_t i = first * kLanes;
      for (; i + kLanes <= last; i += kLanes) {
        body(at, start + i, plane * vectors + i / kLanes, kLanes);
      }
      if (i < last) {
        body(at, start + i, plane * vectors + i / kLanes, static_cast<int>(last - i));
      }
      if (!kSummed) continue;
      for (int sum = 0; sum < NormSums::kRows; ++sum) {
        Real lanes[kLanes];
        at.sums[sum].store_unaligned(lanes);
        for (const Real lane : lanes) sums.total[sum * loop.channels + channel] += lane;
      }
    }
  }
}

template <bool kSummed, class Body>
CONVKERN_INLINE void walk(const NormLoop& loop, int64_t begin, int64_t end, const NormSums& sums,
                          const Body& body) {
  if (loop.layout == Layout::nchw) {
    walk_planes<kSummed>(loop, begin, end, sums, body);
  } else {
    walk_rows<kSummed>(loop, begin, end, sums, body);
  }
}

template <class Number>
void moments(const NormLoop& given, int64_t begin, int64_t end, const NormSums& sums) {
  const NormLoop loop = given;
  const auto* x = static_cast<const Number*>(loop.x);
  walk<true>(loop, begin, end, sums,
             [&](auto& at, int64_t i, int64_t, int lanes) CONVKERN_INLINE_LAMBDA {
               Vec d = sub(read(x + i, lanes), at[NormLoop::kMean]);
               if (lanes != kLanes) d = kept(d, first_lanes(lanes));
               at.add_to(0, d);
               at.add_to(1, mul(d, d));
             });
}

template <class At>
CONVKERN_INLINE Vec normalised(const At& at, Vec x) {
  return fma(sub(x, at[NormLoop::kMean]), at[NormLoop::kScale], at[NormLoop::kBias]);
}

template <class Number, class Activated>
CONVKERN_NOINLINE void normalise_with(NormLoop loop, int64_t begin, int64_t end,
                                      Activated activated) {
  const auto* x = static_cast<const Number*>(loop.x);
  const auto* residual = static_cast<const Number*>(loop.residual);
  auto* y = static_cast<Number*>(loop.y);
  walk<false>(loop, begin, end, NormSums{},
              [&](const auto& at, int64_t i, int64_t vector, int lanes) CONVKERN_INLINE_LAMBDA {
                Vec u = normalised(at, read(x + i, lanes));
                if (residual != nullptr) u = add(u, read(residual + i, lanes));
                if constexpr (std::is_same_v<Activated, Bounded>) {
                  if (loop.kept != nullptr) {
                    loop.kept[vector] = static_cast<uint16_t>(activated.inside(u));
                  }
                }
                write(y + i, activated.value(u), lanes);
              });
}

template <class Number>
void normalise(const NormLoop& loop, int64_t begin, int64_t end, const NormSums&) {
  with_slope(loop.activation,
             [&](const auto& activated) { normalise_with<Number>(loop, begin, end, activated); });
}

// Returns the gradient before the activation, at x.
template <class Number, class At, class Activated>
CONVKERN_INLINE Vec inner_gradient(const NormLoop& loop, const At& at, Vec x, int64_t i,
                                   int64_t vector, int lanes, const Activated& activated) {
  Vec g = read(static_cast<const Number*>(loop.gy[0]) + i, lanes);
  if (loop.gy[1] != nullptr) g = add(g, read(static_cast<const Number*>(loop.gy[1]) + i, lanes));
  if (loop.gy_images != nullptr) g = add(g, at.of_image());
  if constexpr (std::is_same_v<Activated, Unchanged>) {
    return g;
  } else {
    if (loop.kept != nullptr) return kept(g, loop.kept[vector]);
    return activated.times_slope(g, normalised(at, x));
  }
}

template <class Number, class Activated>
CONVKERN_NOINLINE void gradient_sums_with(NormLoop loop, int64_t begin, int64_t end,
                                          const NormSums& sums, Activated activated) {
  const auto* input = static_cast<const Number*>(loop.x);
  auto* gresidual = static_cast<Number*>(loop.gresidual);
  walk<true>(loop, begin, end, sums,
             [&](auto& at, int64_t i, int64_t vector, int lanes) CONVKERN_INLINE_LAMBDA {
               const Vec x = read(input + i, lanes);
               Vec g = inner_gradient<Number>(loop, at, x, i, vector, lanes, activated);
               if (gresidual != nullptr) write(gresidual + i, g, lanes);
               if (lanes != kLanes) g = kept(g, first_lanes(lanes));
               at.add_to(0, g);
               at.add_to(1, mul(g, sub(x, at[NormLoop::kMean])));
             });
}

template <class Number>
void gradient_sums(const NormLoop& loop, int64_t begin, int64_t end, const NormSums& sums) {
  with_slope(loop.activation, [&](const auto& activated) {
    gradient_sums_with<Number>(loop, begin, end, sums, activated);
  });
}

template <class Number, class Activated>
CONVKERN_NOINLINE void gradient_with(NormLoop loop, int64_t begin, int64_t end,
                                     Activated activated) {
  const auto* input = static_cast<const Number*>(loop.x);
  const auto* gresidual = static_cast<const Number*>(loop.gresidual);
  auto* gx = static_cast<Number*>(loop.gx);
  walk<false>(loop, begin, end, NormSums{},
              [&](const auto& at, int64_t i, int64_t vector, int lanes) CONVKERN_INLINE_LAMBDA {
                const Vec x = read(input + i, lanes);
                const Vec g = gresidual != nullptr ? read(gresidual + i, lanes)
                                                   : inner_gradient<Number>(loop, at, x, i, vector,
                                                                            lanes, activated);
                // With given statistics an x that is not finite makes no other gradient than
                // torch's.
                const Vec d = loop.given_statistics
                                  ? Vec::zero()
                                  : fma(sub(x, at[NormLoop::kMean]), at[NormLoop::kSlope],
                                        at[NormLoop::kShift]);
                write(gx + i, fma(g, at[NormLoop::kScale], d), lanes);
              });
}

template <class Number>
void gradient(const NormLoop& loop, int64_t begin, int64_t end, const NormSums&) {
  with_slope(loop.activation,
             [&](const auto& activated) { gradient_with<Number>(loop, begin, end, activated); });
}

template <class Number>
constexpr NormLoops norm_loops() {
  return {kLanes, moments<Number>, normalise<Number>, gradient_sums<Number>, gradient<Number>};
}

}  // namespace
}  // namespace convkern::cpu
