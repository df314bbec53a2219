#include "cpu/peak.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

namespace convkern::cpu {
namespace {

constexpr int kRepeats = 9;
constexpr int64_t kRounds = 4'000'000;  // takes about 8 ms
constexpr int64_t kFloats = 1 << 25;    // in each array of the bandwidth: 128 MiB, beyond any cache

const PeakLoop& loop_of([[maybe_unused]] Isa isa) {
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)
  if (isa >= Isa::avx512) return peak_avx512;
  if (isa >= Isa::avx2) return peak_avx2;
#endif
  return peak_baseline;
}

template <class Work>
double median_seconds(const Work& work) {
  std::vector<double> seconds;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    seconds.push_back(time.count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kRepeats / 2];
}

double measure_flops(Isa isa, const Executor& executor) {
  const PeakLoop& loop = loop_of(isa);
  const int64_t threads = executor.threads();
  std::vector<float> totals(threads);  // kept so that the compiler does not drop the loop
  const double seconds = median_seconds([&] {
    executor.run(threads, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) totals[t] = loop.run(kRounds, 1.0000001f, 1e-7f);
    });
  });
  return static_cast<double>(loop.flops * kRounds * threads) / seconds;
}

void add(float* a, const float* b, const float* c, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) a[i] = b[i] + c[i];
}

// Measures a[i] = b[i] + c[i], which is two reads and a write for each element. Writing to memory
// that is not in the cache first reads it; that read is not counted, as is usual (McCalpin's
// STREAM). Wider vectors were not faster.
double measure_bandwidth(const Executor& executor) {
  const auto array = [] { return std::unique_ptr<float[]>(new float[kFloats]); };
  const auto a = array(), b = array(), c = array();
  const int64_t grain = std::max<int64_t>(1, kFloats / executor.threads());
  // Write all pages before timing, because the first write to a page makes the system allocate it.
  executor.run(kFloats, grain, [&](int64_t begin, int64_t end, int) {
    for (float* p : {a.get(), b.get(), c.get()}) std::fill(p + begin, p + end, 1.0f);
  });
  const double seconds = median_seconds([&] {
    executor.run(kFloats, grain, [&](int64_t begin, int64_t end, int) {
      add(a.get(), b.get(), c.get(), begin, end);
    });
  });
  return 3.0 * sizeof(float) * kFloats / seconds;
}

}  // namespace

Peak measure_peak(Isa isa, const Executor& executor) {
  return {measure_flops(isa, executor), measure_bandwidth(executor)};
}

}  // namespace convkern::cpu
