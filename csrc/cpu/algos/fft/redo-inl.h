// The direct sum for images that fft is not accurate on. The error of a transform is relative to
// the whole plane, so that a quiet part of it loses its digits beside a loud pixel. A number that is
// not finite is lost in all of the plane, and so is one whose transform overflows.
//
// Both are seen in the energy of a plane, the sum of the squares of its pixels. A plane is loud if
// one pixel has more than a quarter of its energy. The energies of planes and taps have limits that
// keep every number of the transforms finite: by the inequality of Cauchy and Schwarz, a result is
// at most the root of their product. Tiny taps would lose digits because the scale of the transforms
// is multiplied into them.
#pragma once

#include "cpu/algos/fft/spectra-inl.h"

namespace convkern::cpu {
namespace {
namespace fft {

constexpr Real kLoudShare = 4;  // a pixel with more than 1/4 of the energy is loud
constexpr Real kMostEnergy = Real(1 << 30) * Real(1 << 30) * Real(1 << 30);  // 1.2e27
constexpr Real kLeastTapEnergy = Real(1) / (Real(1 << 30) * Real(1 << 30));  // 8.7e-19

// The images that forward and grad_input compute again. If lanes are channels, each slice of an
// image is computed on its own, as an image of kLanes channels to which its planes are copied.
class Redo {
 public:
  explicit Redo(const Setting& setting) : s_(setting), one_(setting.p) {
    one_.N = 1;
    if (s_.x.channels) {
      one_.C = one_.O = one_.groups = kLanes;
      one_.layout = Layout::nhwc;
    }
    plan_ = plan_direct(one_);
  }
  bool works() const { return plan_ != nullptr; }
  int64_t count() const { return s_.p.N * slices(); }
  int64_t mark_bytes() const { return Marks::bytes(count()); }
  int64_t workspace(int threads) const {
    if (plan_ == nullptr) return 0;
    return plan_->workspace(threads) + (s_.x.channels ? copies().end : 0);
  }

  // Returns whether the energy of some taps, which is the sum of the lanes, is within the limits.
  static bool are_safe_taps(const Vec& energies) {
    alignas(64) Real lanes[kLanes];
    energies.store(lanes);
    for (int lane = 1; lane < kLanes; ++lane) lanes[0] += lanes[lane];
    const Vec energy = Vec::broadcast(lanes);
    return !exceeds(energy, Vec::broadcast(&kMostEnergy)) &&
           !exceeds(Vec::broadcast(&kLeastTapEnergy), energy);
  }

  // Marks the lanes of a unit one of whose planes is loud or has too much energy.
  void mark_unsafe(const Real* energy, const Real* largest, int64_t planes, int64_t unit,
                 int64_t slice, int lanes, const Marks& marks) const {
    for (int64_t plane = 0; plane < planes; ++plane) {
      const Real *sums = energy + plane * kLanes, *squares = largest + plane * kLanes;
      const auto are_unsafe = [](const Vec& sum, const Vec& square) {
        return exceeds(times(kLoudShare, square), sum) || exceeds(sum, Vec::broadcast(&kMostEnergy));
      };
      if (!are_unsafe(Vec::load(sums), Vec::load(squares))) continue;
      for (int lane = 0; lane < lanes; ++lane) {
        if (!are_unsafe(Vec::load_first(sums + lane, 1), Vec::load_first(squares + lane, 1))) continue;
        marks.set(s_.x.channels ? unit * slices() + slice : unit * kLanes + lane);
      }
    }
  }
  // Marks all results of a vector of taps. If lanes are images, these are all images.
  void mark_taps(int64_t vector, const Marks& marks) const {
    for (int64_t i = s_.x.channels ? vector : 0; i < count(); i += slices()) marks.set(i);
  }

  void run(const Operands& ops, const Marks& marks, void* workspace,
           const Executor& executor) const {
    for (int64_t i = 0; i < count(); ++i) {
      if (!marks.is_set(i)) continue;
      if (s_.x.channels) {
        run_copy(ops, i / slices(), i % slices(), workspace, executor);
      } else {
        run_image(ops, i, workspace, executor);
      }
    }
  }

 private:
  int64_t slices() const { return s_.x.channels ? s_.x.slices() : 1; }

  void run_image(const Operands& ops, int64_t image, void* workspace,
                 const Executor& executor) const {
    const int64_t x = image * s_.x.shape.size(), y = image * s_.y.shape.size();
    Operands one = ops;
    if (ops.x != nullptr) one.x = static_cast<const Real*>(ops.x) + x;
    if (ops.gy != nullptr) one.gy = static_cast<const Real*>(ops.gy) + y;
    one.out = static_cast<Real*>(ops.out) + (s_.p.pass == Pass::forward ? y : x);
    plan_->run(one, workspace, executor);
  }

  // The copies of a slice in the workspace, as offsets in bytes. The plan's workspace follows.
  struct Copies {
    int64_t x, y, w, b, end;
  };
  Copies copies() const {
    Copies at{};
    at.y = at.x + whole_lines(s_.p.H * s_.p.W * kLanes);
    at.w = at.y + whole_lines(s_.p.OH() * s_.p.OW() * kLanes);
    at.b = at.w + whole_lines(s_.p.R * s_.p.S * kLanes);
    at.end = at.b + whole_lines(kLanes);
    return at;
  }
  static View<Real> whole_image(Real* at, const ImageShape& shape) {
    return {at, 0, shape.width * kLanes};
  }

  void run_copy(const Operands& ops, int64_t image, int64_t slice, void* workspace,
                const Executor& executor) const {
    const Copies offsets = copies();
    const auto at = [&](int64_t offset) {
      return reinterpret_cast<Real*>(static_cast<char*>(workspace) + offset);
    };
    const int lanes = s_.x.count(image, slice);
    const int64_t taps = s_.p.R * s_.p.S, first = slice * kLanes;
    Real *x = at(offsets.x), *y = at(offsets.y), *w = at(offsets.w), *b = at(offsets.b);
    const bool forward = s_.p.pass == Pass::forward;
    const PlaneLanes &in = forward ? s_.x : s_.y, &out = forward ? s_.y : s_.x;
    Real *from = forward ? x : y, *to = forward ? y : x;
    in.load(forward ? ops.x : ops.gy, image, slice, {0, in.shape.height}, {0, in.shape.width},
            whole_image(from, in.shape), kLanes);
    set_zero(w, taps * kLanes);
    std::copy_n(static_cast<const Real*>(ops.w) + first * taps, lanes * taps, w);
    Operands one;
    one.x = x;
    one.gy = y;
    one.w = w;
    if (ops.b != nullptr) {
      Vec::load_first(static_cast<const Real*>(ops.b) + first, lanes).store(b);
      one.b = b;
    }
    one.out = to;
    plan_->run(one, at(offsets.end), executor);
    out.store(ops.out, image, slice, {0, out.shape.height}, {0, out.shape.width},
              whole_image(to, out.shape), kLanes);
  }

  const Setting& s_;
  Problem one_;
  std::unique_ptr<const Plan> plan_;
};

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
