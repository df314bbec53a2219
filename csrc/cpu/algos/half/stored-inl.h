// Gives bfloat16 and float16 images to algorithms that convert the pixels which they need
// themselves, a band of rows at a time. Weights and biases are given as float32 numbers.
#pragma once

#include "cpu/algos/channellane/channellane-inl.h"
#include "cpu/algos/half/half-inl.h"
#include "cpu/algos/half/widened-inl.h"

namespace convkern::cpu {
namespace {
namespace half {

// The form of class Through<Form> for images as they are stored.
struct Stored {
  static constexpr bool kRounds = true;  // the kernel itself rounds y and gx
  static constexpr Reason (*kDeclines)(const Candidate&) = nullptr;
  const Problem& p;

  Reason supports() const {
    return p.dtype == DType::bf16 || p.dtype == DType::f16 ? Reason::none : Reason::dtype;
  }
  Problem problem() const { return p; }
  int64_t x_floats() const { return 0; }
  int64_t y_floats() const { return 0; }
  int64_t w_floats() const { return p.O * p.Cg * p.R * p.S; }

  const void* x(const uint16_t* from, Range images, float*, const Executor&) const {
    return from + images.begin * p.C * p.H * p.W;
  }
  const void* gy(const uint16_t* from, Range images, float*, const Executor&) const {
    return from + images.begin * p.O * p.OH() * p.OW();
  }
  void weights(const uint16_t* from, float* to, const Executor& executor) const {
    widen(p.dtype, from, w_floats(), to, executor);
  }
};

// How the passes of direct_channellane read and write depthwise channels_last tensors in half
// precision (RealTensors). Buffers hold a band of rows of a slice of the channels.
struct StoredTensors {
  static bool hold(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16; }
  static Pixels<const Real> read(DType dtype, const void* tensor, const ImageShape& shape,
                                 const Region& region, Real* buffer) {
    const auto from = pixels_of(static_cast<const uint16_t*>(tensor), shape, region);
    const Pixels<Real> to = to_write(nullptr, shape, region, buffer);
    const auto convert = dtype == DType::bf16 ? widen_bf16 : widen_f16;
    for_each_run(region, from, to,
                 [&](const uint16_t* run, Real* at, int64_t n) { convert(run, n, at); });
    return to.read_only();
  }
  static Pixels<Real> to_write(void*, const ImageShape& shape, const Region& region, Real* buffer) {
    const int64_t channels = region.channels.size();
    return {buffer, channels, channels * shape.width, 0};
  }
  static void write(DType dtype, void* tensor, const ImageShape& shape, const Region& region,
                    const Pixels<Real>& from) {
    const auto to = pixels_of(static_cast<uint16_t*>(tensor), shape, region);
    const auto convert = dtype == DType::bf16 ? narrow_bf16 : narrow_f16;
    for_each_run(region, to, from,
                 [&](uint16_t* run, const Real* at, int64_t n) { convert(at, n, run); });
  }

 private:
  // Calls move(run, at, n) for runs of n numbers that are adjacent in the tensor and in the buffer:
  // all rows or, if the region has not all channels, each pixel.
  template <class Number, class Move>
  static void for_each_run(const Region& region, const Pixels<Number>& tensor,
                           const Pixels<Real>& buffer, const Move& move) {
    const int64_t channels = region.channels.size(), width = region.columns.size();
    const int64_t rows = region.rows.size();
    if (tensor.pixel == channels) return move(tensor.at, buffer.at, rows * width * channels);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < width; ++column) {
        move(tensor.at + row * tensor.row + column * tensor.pixel,
             buffer.at + row * buffer.row + column * buffer.pixel, channels);
      }
    }
  }
};

constexpr Algorithm stored_channellane = {
    channellane::algorithm.name,
    channellane::plan_if_grouped<channellane::Forward<StoredTensors>, StoredTensors>,
    channellane::plan_if_grouped<channellane::GradInput<StoredTensors>, StoredTensors>,
    nullptr,
    channellane::algorithm.declines,
};

// Images and results of more bytes, as float32 numbers, do not stay in the caches between the steps
// of a conversion. With 16 MB both ways were measured to be equally fast, and with 35 MB this one
// was 3 to 4 times as fast (Zen 5).
constexpr int64_t kWidenedBytes = 16 << 20;

// Plans direct_channellane in half precision: depthwise problems in channels_last with large images
// on the images as they are stored, and others on images that are widened. So are those whose
// results are finished, because these would be rounded twice, and those whose bands take too much
// memory.
template <Pass kPass>
Planned plan_channellane(const Problem& p) {
  if constexpr (kPass != Pass::grad_weight) {
    // The sizes of empty problems may have products beyond 64 bits.
    if (!p.empty() && channellane::Groups(p).in_place && !is_finished(p)) {
      const Widened image{p};
      const int64_t floats = image.x_floats() + image.y_floats();
      if (floats > kWidenedBytes / int64_t{sizeof(float)}) {
        Planned plan = plan_through<Stored, stored_channellane, kPass>(p);
        if (plan.reason != Reason::workspace) return plan;
      }
    }
  }
  return plan_through<Widened, channellane::algorithm, kPass>(p);
}

constexpr Algorithm channellane_of_half = {
    channellane::algorithm.name,        plan_channellane<Pass::forward>,
    plan_channellane<Pass::grad_input>, plan_channellane<Pass::grad_weight>,
    channellane::algorithm.declines,
};

}  // namespace half
}  // namespace
}  // namespace convkern::cpu
