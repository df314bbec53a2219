#include "cpu/grad_epilogue.h"

#include <algorithm>
#include <vector>

#include "cpu/simd/vec_f32_baseline.h"  // memory is the limit, so wider vectors gain nothing

namespace convkern::cpu {
namespace {

constexpr int64_t kTerms = 16;  // terms summed in float32 before the sum goes into a double
constexpr int64_t kLanes = Vec::kLanes;
constexpr int64_t kGrain = 1 << 14;  // fewest floats worth handing to a thread
constexpr int64_t kMaxParts = 64;

// Reads gy, and masks it on the way if there is a y.
template <bool kMask>
struct Source {
  const GradEpilogue& e;

  Vec vector(int64_t at) const {  // elements [at, at + kLanes)
    const Vec gy = Vec::load_unaligned(e.gy + at);
    if constexpr (!kMask) return gy;
    const Vec y = Vec::load_unaligned(e.y + at);
    const Vec masked = {y.v <= Quarter{} ? Quarter{} : gy.v};
    masked.store_unaligned(e.masked + at);
    return masked;
  }
  float element(int64_t at) const {
    if constexpr (!kMask) return e.gy[at];
    const float keep[] = {e.gy[at], 0.0f};  // a branch here would be mispredicted half the time
    return e.masked[at] = keep[e.y[at] <= 0];
  }
  // Adds `terms` vectors, which are `step` floats apart, to kLanes sums.
  void add_vectors(int64_t at, int64_t terms, int64_t step, double* sums) const {
    Vec total = Vec::zero();
    for (int64_t i = 0; i < terms; ++i) total = add(total, vector(at + i * step));
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += total.v[lane];
  }
};

// Processes the images [begin, end) channel by channel (NCHW).
template <bool kMask>
void planes(const GradEpilogue& e, int64_t begin, int64_t end, double* sums) {
  const Source<kMask> source{e};
  for (int64_t plane = begin * e.channels; plane < end * e.channels; ++plane) {
    const int64_t first = plane * e.pixels, last = first + e.pixels;
    double lanes[kLanes] = {};
    int64_t at = first;
    while (last - at >= kLanes) {
      const int64_t terms = std::min(kTerms, (last - at) / kLanes);
      source.add_vectors(at, terms, kLanes, lanes);
      at += terms * kLanes;
    }
    double total = 0;
    for (; at < last; ++at) total += source.element(at);
    for (const double lane : lanes) total += lane;
    sums[plane % e.channels] += total;
  }
}

// Processes the pixels [begin, end), each with all its channels (NHWC).
template <bool kMask>
void pixels(const GradEpilogue& e, int64_t begin, int64_t end, double* sums) {
  const Source<kMask> source{e};
  for (int64_t pixel = begin; pixel < end; pixel += kTerms) {
    const int64_t terms = std::min(kTerms, end - pixel), at = pixel * e.channels;
    int64_t c = 0;
    for (; c + kLanes <= e.channels; c += kLanes) {
      source.add_vectors(at + c, terms, e.channels, sums + c);
    }
    for (; c < e.channels; ++c) {
      for (int64_t i = 0; i < terms; ++i) sums[c] += source.element(at + i * e.channels + c);
    }
  }
}

}  // namespace

void GradEpilogue::run(const Executor& executor) const {
  const bool by_plane = layout == Layout::nchw;
  const int64_t count = by_plane ? images : images * pixels;
  const int64_t floats = images * channels * pixels;
  const int64_t parts = std::max<int64_t>(1, std::min({floats / kGrain, kMaxParts, count}));
  const auto add_part = by_plane ? (y == nullptr ? planes<false> : planes<true>)
                                 : (y == nullptr ? cpu::pixels<false> : cpu::pixels<true>);
  std::vector<double> sums(parts * channels);
  executor.run(parts, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = count * part / parts, last = count * (part + 1) / parts;
      add_part(*this, first, last, sums.data() + part * channels);
    }
  });
  if (gb == nullptr) return;
  for (int64_t c = 0; c < channels; ++c) {
    double total = 0;
    for (int64_t part = 0; part < parts; ++part) total += sums[part * channels + c];
    gb[c] = static_cast<float>(total);
  }
}

}  // namespace convkern::cpu
