// The direct sum for images that fft is not accurate on. The error of a transform is relative to
// the whole plane, so that a quiet part of it loses its digits beside a loud pixel. A number that is
// not finite is lost in all of the plane.
//
// A plane is loud if one pixel has more than a quarter of its energy, the sum of the squares of its
// pixels. Without such a pixel the error is relative to what the plane is made of.
#pragma once

#include "cpu/algos/fft/spectra-inl.h"

namespace convkern::cpu {
namespace {
namespace fft {

constexpr int kLoudShare = 4;  // a pixel with more than 1/4 of the energy is loud

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

  // Marks the lanes of a unit one of whose planes is loud.
  void mark_loud(const Real* energy, const Real* largest, int64_t planes, int64_t unit,
                 int64_t slice, int lanes, const Marks& marks) const {
    static constexpr Real kShare = kLoudShare;
    for (int64_t plane = 0; plane < planes; ++plane) {
      const Vec loudest = times(kShare, Vec::load(largest + plane * kLanes));
      if (!exceeds(loudest, Vec::load(energy + plane * kLanes))) continue;
      alignas(64) Real scaled[kLanes];
      loudest.store(scaled);
      mark(unit, slice, lanes, marks,
           [&](int lane) { return lane_exceeds(scaled, energy + plane * kLanes, lane); });
    }
  }
  // Marks the lanes of a unit that have numbers that are not finite.
  void mark_lost(const Finiteness& finite, int64_t unit, int64_t slice, int lanes,
                 const Marks& marks) const {
    if (!finite.lost()) return;
    alignas(64) Real sums[kLanes], zeros[kLanes];
    finite.sum.store(sums);
    Vec::zero().store(zeros);
    mark(unit, slice, lanes, marks, [&](int lane) { return lane_exceeds(sums, zeros, lane); });
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

  template <class IsMarked>
  void mark(int64_t unit, int64_t slice, int lanes, const Marks& marks,
            const IsMarked& is_marked) const {
    for (int lane = 0; lane < lanes; ++lane) {
      if (is_marked(lane)) marks.set(s_.x.channels ? unit * slices() + slice : unit * kLanes + lane);
    }
  }

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
