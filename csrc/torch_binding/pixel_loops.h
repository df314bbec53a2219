// Loops over the pixels of float32 images whose channels are adjacent.
#pragma once

#include <algorithm>
#include <cstdint>

#include "convkern.h"

// A function is compiled for each of these, and the machine's best is called. The compiler makes
// vectors of its loops.
#if defined(__x86_64__) && defined(__gnu_linux__)
#define CONVKERN_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CONVKERN_CLONES
#endif

namespace convkern::torch_binding {

constexpr int64_t kBlock = 64;  // channels that a loop over pixels takes together

// Calls body(begin, end) for ranges of [0, count), on the threads of the executor. The whole of
// `count` moves so many floats; fewer than kLeastFloats are not worth another thread.
template <class Body>
void in_parallel(const convkern_executor* executor, int64_t count, int64_t floats,
                 const Body& body) {
  constexpr int64_t kLeastFloats = 1 << 12;
  const int64_t grain = std::max<int64_t>(1, kLeastFloats * count / std::max<int64_t>(1, floats));
  executor->run(
      executor->self, count, grain,
      [](void* context, int64_t begin, int64_t end, int) {
        (*static_cast<const Body*>(context))(begin, end);
      },
      const_cast<Body*>(&body));
}

// Multiplies the pixels [begin, end) of several images, which have `pixels` each, with one number
// for each image and channel.
void scale_pixels(const float* x, const float* scale, int64_t channels, int64_t pixels,
                  int64_t begin, int64_t end, float* y);

// Adds up some pixels. They are summed in blocks, which keeps rounding errors small.
void sum_pixels(const float* x, int64_t channels, int64_t pixels, float* sums);

// Adds up the products of the pixels of gy and x in the same way, and multiplies gy with one number
// for each channel. gx may be gy.
void scale_gradient(const float* gy, const float* x, const float* scale, int64_t channels,
                    int64_t pixels, float* sums, float* gx);

}  // namespace convkern::torch_binding
