#include "torch_binding/passes.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "torch_binding/pixel_loops.h"

namespace convkern::torch_binding {
namespace {

int64_t pixels_of(const at::Tensor& t) { return t.size(2) * t.size(3); }

// Neighbouring channels of a source that go to channels `step` apart: channel first + i goes to
// channel to + i * step.
struct Run {
  size_t source;
  int64_t first, count, to, step;
};

constexpr int64_t kMostStep = 8;  // neighbours that are farther apart are not looked for

// Returns the runs that bring channel index[c] of the concatenated sources to channel c.
std::vector<Run> runs_of(const std::vector<int64_t>& widths, const std::vector<int64_t>& index) {
  struct At {
    size_t source;
    int64_t channel;
    bool precedes(const At& next) const {
      return source == next.source && channel + 1 == next.channel;
    }
  };
  const auto count = static_cast<int64_t>(index.size());
  std::vector<At> from;
  for (int64_t channel : index) {
    size_t source = 0;
    while (channel >= widths[source]) channel -= widths[source++];
    from.push_back({source, channel});
  }
  std::vector<Run> runs;
  std::vector<bool> taken(index.size());
  for (int64_t to = 0; to < count; ++to) {
    if (taken[to]) continue;
    const auto goes_on = [&](int64_t last, int64_t step) {
      const int64_t next = last + step;
      return next < count && !taken[next] && from[last].precedes(from[next]);
    };
    taken[to] = true;
    Run run{from[to].source, from[to].channel, 1, to, 1};
    while (run.step < kMostStep && !goes_on(to, run.step)) ++run.step;
    for (int64_t last = to; goes_on(last, run.step); last += run.step) {
      taken[last + run.step] = true;
      ++run.count;
    }
    if (run.count == 1) run.step = 1;
    runs.push_back(run);
  }
  return runs;
}

bool are_adjacent(const std::vector<Run>& runs) {
  return std::all_of(runs.begin(), runs.end(), [](const Run& run) { return run.step == 1; });
}

constexpr int64_t kLine = 16;  // floats that are copied at once

// A run with step 1 in units of 4 bytes: `count` of them go from `from`, in pixels of `width`, to
// the unit `to` of a pixel.
struct Copy {
  const float* from;
  int64_t width, count, to;
};

CONVKERN_CLONES void copy_pixels(const std::vector<Copy>& copies, int64_t begin, int64_t end,
                                 int64_t channels, float* out) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    for (const Copy& copy : copies) {
      const float* from = copy.from + pixel * copy.width;
      float* to = out + pixel * channels + copy.to;
      int64_t i = 0;
      // Runs are short, so that this is faster than a call of memcpy.
      for (; i + kLine <= copy.count; i += kLine) std::memcpy(to + i, from + i, 4 * kLine);
      if (i == copy.count) continue;
      if (copy.count >= kLine) {  // the last line overlaps the one before it
        i = copy.count - kLine;
        std::memcpy(to + i, from + i, 4 * kLine);
      } else {
        for (; i < copy.count; ++i) to[i] = from[i];
      }
    }
  }
}

CONVKERN_CLONES void scale_and_shift_pixels(const std::vector<Copy>& copies, int64_t begin,
                                            int64_t end, int64_t channels, const float* scale,
                                            const float* shift, float least, float* out) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    for (const Copy& copy : copies) {
      const float* from = copy.from + pixel * copy.width;
      const float *a = scale + copy.to, *b = shift + copy.to;
      float* to = out + pixel * channels + copy.to;
#pragma GCC ivdep
      for (int64_t i = 0; i < copy.count; ++i) {
        const float v = from[i] * a[i] + b[i];
        to[i] = v < least ? least : v;
      }
    }
  }
}

template <class T>
void scatter(const T* from, const Run& run, T* to) {
  if (run.step == 1) {
    std::memcpy(to + run.to, from + run.first, run.count * sizeof(T));
    return;
  }
  for (int64_t i = 0; i < run.count; ++i) to[run.to + i * run.step] = from[run.first + i];
}

// Writes the channels of two runs in turn.
template <class T>
void interleave(const T* a, const T* b, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) {
    to[2 * i] = a[i];
    to[2 * i + 1] = b[i];
  }
}

class PickChannels final : public Pass {
 public:
  PickChannels(std::vector<Run> runs, at::Tensor scale, at::Tensor shift, bool relu)
      : runs_(std::move(runs)),
        scale_(std::move(scale)),
        shift_(std::move(shift)),
        least_(relu ? 0.0F : -std::numeric_limits<float>::infinity()) {}

  void run(const std::vector<at::Tensor>& inputs, const at::Tensor& y,
           const convkern_executor* executor) const override {
    const auto size = static_cast<int64_t>(y.element_size());
    if (are_adjacent(runs_) && size % sizeof(float) == 0) return copy(inputs, y, executor);
    switch (size) {
      case 2:
        return pick<uint16_t>(inputs, y, executor);
      case 4:
        return pick<uint32_t>(inputs, y, executor);
      case 8:
        return pick<uint64_t>(inputs, y, executor);
      default:
        TORCH_CHECK_TYPE(false, "pick_channels: no channels of ", y.dtype());
    }
  }

 private:
  void copy(const std::vector<at::Tensor>& inputs, const at::Tensor& y,
            const convkern_executor* executor) const {
    const auto units = static_cast<int64_t>(y.element_size() / sizeof(float));
    const int64_t channels = y.size(1) * units;
    std::vector<Copy> copies;
    for (const Run& run : runs_) {
      const at::Tensor& x = inputs[run.source];
      copies.push_back({static_cast<const float*>(x.const_data_ptr()) + run.first * units,
                        x.size(1) * units, run.count * units, run.to * units});
    }
    auto* out = static_cast<float*>(y.mutable_data_ptr());
    in_parallel(executor, y.size(0) * pixels_of(y), y.numel(), [&](int64_t begin, int64_t end) {
      if (!scale_.defined()) return copy_pixels(copies, begin, end, channels, out);
      scale_and_shift_pixels(copies, begin, end, channels, scale_.const_data_ptr<float>(),
                             shift_.const_data_ptr<float>(), least_, out);
    });
  }

  template <class T>
  void pick(const std::vector<at::Tensor>& inputs, const at::Tensor& y,
            const convkern_executor* executor) const {
    struct Source {
      const T* at;
      int64_t width;
    };
    std::vector<Source> sources;
    for (const at::Tensor& x : inputs) {
      sources.push_back({static_cast<const T*>(x.const_data_ptr()), x.size(1)});
    }
    auto* out = static_cast<T*>(y.mutable_data_ptr());
    const int64_t channels = y.size(1);
    in_parallel(executor, y.size(0) * pixels_of(y), y.numel(), [&](int64_t begin, int64_t end) {
      for (int64_t pixel = begin; pixel < end; ++pixel) {
        const auto from = [&](const Run& run) {
          return sources[run.source].at + pixel * sources[run.source].width;
        };
        T* to = out + pixel * channels;
        for (size_t i = 0; i < runs_.size(); ++i) {
          const Run& run = runs_[i];
          if (i + 1 < runs_.size() && alternate(run, runs_[i + 1])) {
            const Run& next = runs_[++i];
            interleave(from(run) + run.first, from(next) + next.first, run.count, to + run.to);
          } else {
            scatter(from(run), run, to);
          }
        }
      }
    });
  }

  static bool alternate(const Run& a, const Run& b) {
    return a.step == 2 && b.step == 2 && b.to == a.to + 1 && a.count == b.count;
  }

  const std::vector<Run> runs_;
  const at::Tensor scale_, shift_;
  const float least_;
};

class ScaleChannels final : public Pass {
  void run(const std::vector<at::Tensor>& inputs, const at::Tensor& y,
           const convkern_executor* executor) const override {
    const auto* x = inputs[0].const_data_ptr<float>();
    const auto* scale = inputs[1].const_data_ptr<float>();
    auto* out = y.mutable_data_ptr<float>();
    const int64_t channels = y.size(1), pixels = pixels_of(y);
    in_parallel(executor, y.size(0) * pixels, y.numel(), [&](int64_t begin, int64_t end) {
      scale_pixels(x, scale, channels, pixels, begin, end, out);
    });
  }
};

class MeanOfPixels final : public Pass {
  // An image is cut into so many parts, whose sums are added in order, so that the result does not
  // depend on the threads.
  static constexpr int64_t kParts = 8;

  void run(const std::vector<at::Tensor>& inputs, const at::Tensor& y,
           const convkern_executor* executor) const override {
    const auto* x = inputs[0].const_data_ptr<float>();
    auto* out = y.mutable_data_ptr<float>();
    const int64_t channels = y.size(1), pixels = pixels_of(inputs[0]);
    const int64_t parts = std::min(kParts, std::max<int64_t>(1, pixels));
    const at::Tensor memory = at::empty({y.size(0) * parts * channels}, y.options());
    auto* sums = memory.mutable_data_ptr<float>();
    const int64_t count = y.size(0) * parts;
    in_parallel(executor, count, inputs[0].numel(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % parts * pixels / parts, last = (i % parts + 1) * pixels / parts;
        sum_pixels(x + (i / parts * pixels + first) * channels, channels, last - first,
                   sums + i * channels);
      }
    });
    const auto size = static_cast<float>(pixels);
    for (int64_t image = 0; image < y.size(0); ++image, out += channels) {
      for (int64_t c = 0; c < channels; ++c) {
        float sum = 0;
        for (int64_t part = 0; part < parts; ++part) {
          sum += sums[(image * parts + part) * channels + c];
        }
        out[c] = sum / size;
      }
    }
  }
};

// The pixels of x that a window reads: `rows` x `columns` from x on, so many floats apart.
struct Pixels {
  const float* x;
  int64_t rows, columns, row, column;
};

// Writes the maximum over some pixels for each channel. If one of them is NaN, that is it.
CONVKERN_CLONES void maximum(const Pixels& p, int64_t channels, float* y) {
  for (int64_t c = 0; c < channels; c += kBlock) {
    const int64_t width = std::min(kBlock, channels - c);
    float most[kBlock];
    const auto take = [&](const float* x, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        most[i] = x[i] > most[i] || x[i] != x[i] ? x[i] : most[i];
      }
    };
    for (float& m : most) m = -std::numeric_limits<float>::infinity();
    for (int64_t row = 0; row < p.rows; ++row) {
      for (int64_t column = 0; column < p.columns; ++column) {
        const float* x = p.x + row * p.row + column * p.column + c;
        if (width == kBlock) {
          take(x, kBlock);
        } else {
          take(x, width);
        }
      }
    }
    std::memcpy(y + c, most, width * sizeof(float));
  }
}

class MaxOfWindows final : public Pass {
 public:
  MaxOfWindows(Pair size, Pair stride, Pair padding, Pair dilation)
      : size_(size), stride_(stride), padding_(padding), dilation_(dilation) {}

  void run(const std::vector<at::Tensor>& inputs, const at::Tensor& y,
           const convkern_executor* executor) const override {
    const at::Tensor& x = inputs[0];
    const auto* in = x.const_data_ptr<float>();
    auto* out = y.mutable_data_ptr<float>();
    const int64_t channels = y.size(1), height = y.size(2), width = y.size(3);
    const int64_t x_row = x.size(3) * channels;
    in_parallel(executor, y.size(0) * height, y.numel(), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const Taps rows = taps(0, row % height, x.size(2));
        const float* image = in + row / height * x.size(2) * x_row;
        for (int64_t column = 0; column < width; ++column) {
          const Taps columns = taps(1, column, x.size(3));
          maximum({image + rows.first * x_row + columns.first * channels, rows.count, columns.count,
                   dilation_[0] * x_row, dilation_[1] * channels},
                  channels, out + (row * width + column) * channels);
        }
      }
    });
  }

 private:
  // The first input position that a window reads along an axis, and how many it reads.
  struct Taps {
    int64_t first, count;
  };
  Taps taps(int axis, int64_t output, int64_t size) const {
    const int64_t step = dilation_[axis];
    int64_t first = output * stride_[axis] - padding_[axis];
    int64_t last = first + (size_[axis] - 1) * step;
    if (first < 0) first += (-first + step - 1) / step * step;
    if (last >= size) last -= (last - size) / step * step + step;
    return {first, last < first ? 0 : (last - first) / step + 1};
  }

  const Pair size_, stride_, padding_, dilation_;
};

}  // namespace

std::shared_ptr<Pass> pick_channels(const std::vector<int64_t>& widths,
                                    const std::vector<int64_t>& index, const at::Tensor& scale,
                                    const at::Tensor& shift, bool relu) {
  std::vector<Run> runs = runs_of(widths, index);
  TORCH_CHECK_VALUE(!scale.defined() || are_adjacent(runs),
                    "pick_channels: only channels in increasing order are scaled and shifted");
  return std::make_shared<PickChannels>(std::move(runs), scale, shift, relu);
}
std::shared_ptr<Pass> scale_channels() { return std::make_shared<ScaleChannels>(); }
std::shared_ptr<Pass> mean_of_pixels() { return std::make_shared<MeanOfPixels>(); }
std::shared_ptr<Pass> max_of_windows(Pair size, Pair stride, Pair padding, Pair dilation) {
  return std::make_shared<MaxOfWindows>(size, stride, padding, dilation);
}

}  // namespace convkern::torch_binding
