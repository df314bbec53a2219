// This machine's floating-point peak and memory bandwidth, for peaks.py, which
// compiles it for the widest vectors that the kernels use here.
#include <chrono>
#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * kLanes)));

constexpr int kChains = 12;  // independent sums: more than latency (4 to 5) times units (2)

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

float multiply_add(int64_t rounds) {
  Vec sum[kChains], a = Vec{} + 1.0000001f, b = Vec{} + 1e-7f;
  asm volatile("" : "+x"(a), "+x"(b));  // unknown values: nothing is computed ahead
  for (int chain = 0; chain < kChains; ++chain) sum[chain] = Vec{} + 1.0f * chain;  // all different
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int chain = 0; chain < kChains; ++chain) sum[chain] = sum[chain] * a + b;
  }
  Vec total{};
  for (const Vec& s : sum) total += s;
  return total[0];
}

}  // namespace

// float32 FLOP/s of fused multiply-adds in registers.
extern "C" double measure_peak(int threads) {
  constexpr int64_t kRounds = 4'000'000;
  float total = 0;
  const auto start = std::chrono::steady_clock::now();
#pragma omp parallel for num_threads(threads) reduction(+ : total)
  for (int t = 0; t < threads; ++t) total += multiply_add(kRounds);
  const double seconds = seconds_since(start);
  return total > 0 ? 2.0 * kLanes * kChains * kRounds * threads / seconds : 0;
}

// Bytes a second of a[i] = b[i] + c[i]: read, read, written. The read that a write to memory not in
// cache makes beforehand is not counted, as is usual (McCalpin's STREAM).
extern "C" double measure_bandwidth(float* a, const float* b, const float* c, int64_t n,
                                    int threads) {
  const auto start = std::chrono::steady_clock::now();
#pragma omp parallel for num_threads(threads)
  for (int64_t i = 0; i < n; ++i) a[i] = b[i] + c[i];
  return 12.0 * n / seconds_since(start);
}
