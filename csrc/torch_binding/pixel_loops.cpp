#include "torch_binding/pixel_loops.h"

#include <cstring>

namespace convkern::torch_binding {

CONVKERN_CLONES void scale_pixels(const float* x, const float* scale, int64_t channels,
                                  int64_t pixels, int64_t begin, int64_t end, float* y) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const float *from = x + pixel * channels, *numbers = scale + pixel / pixels * channels;
    float* to = y + pixel * channels;
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) to[c] = from[c] * numbers[c];
  }
}

CONVKERN_CLONES void sum_pixels(const float* x, int64_t channels, int64_t pixels, float* sums) {
  constexpr int64_t kPixels = 64;
  std::memset(sums, 0, channels * sizeof(float));
  for (int64_t first = 0; first < pixels; first += kPixels, x += kPixels * channels) {
    const int64_t count = std::min(kPixels, pixels - first);
    for (int64_t c = 0; c < channels; c += kBlock) {
      const int64_t width = std::min(kBlock, channels - c);
      float sum[kBlock] = {};
      const auto add = [&](const float* from, int64_t floats) {
        for (int64_t i = 0; i < floats; ++i) sum[i] += from[i];
      };
      for (int64_t pixel = 0; pixel < count; ++pixel) {
        if (width == kBlock) {
          add(x + pixel * channels + c, kBlock);
        } else {
          add(x + pixel * channels + c, width);
        }
      }
      for (int64_t i = 0; i < width; ++i) sums[c + i] += sum[i];
    }
  }
}

CONVKERN_CLONES void scale_gradient(const float* gy, const float* x, const float* scale,
                                    int64_t channels, int64_t pixels, float* sums, float* gx) {
  constexpr int64_t kPixels = 64;
  std::memset(sums, 0, channels * sizeof(float));
  for (int64_t first = 0; first < pixels; first += kPixels) {
    const int64_t last = std::min(pixels, first + kPixels);
    for (int64_t c = 0; c < channels; c += kBlock) {
      const int64_t width = std::min(kBlock, channels - c);
      float sum[kBlock] = {};
      const auto add = [&](int64_t at, int64_t floats) {
#pragma GCC ivdep
        for (int64_t i = 0; i < floats; ++i) {
          const float g = gy[at + i];
          sum[i] += g * x[at + i];
          gx[at + i] = g * scale[c + i];
        }
      };
      for (int64_t pixel = first; pixel < last; ++pixel) {
        if (width == kBlock) {
          add(pixel * channels + c, kBlock);
        } else {
          add(pixel * channels + c, width);
        }
      }
      for (int64_t i = 0; i < width; ++i) sums[c + i] += sum[i];
    }
  }
}

}  // namespace convkern::torch_binding
