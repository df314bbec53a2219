// The direct sum for images that fft is not accurate on. The error of a transform is relative to
// the whole plane, so that a quiet part of it loses its digits beside a loud pixel. A number that
// is not finite is lost in all of the plane, and so is one whose transform overflows.
//
// Both are seen in the energy of a plane, the sum of the squares of its pixels. A plane is loud if
// one pixel has more than a quarter of its energy. The energies of planes and taps have limits that
// keep every number of the transforms finite: by the inequality of Cauchy and Schwarz, a result is
// at most the root of their product. Tiny taps would lose digits because the scale of the
// transforms is multiplied into them.
#pragma once

#include "cpu/algos/fft/spectra-inl.h"

namespace convkern::cpu {
namespace {
namespace fft {

// The images that forward and grad_input compute again. If lanes are channels, each slice of an
// image is computed on its own, as an image of kLanes channels to which its planes are copied.
class Redo {
 public:
  explicit Redo(const Setting& setting) : s_(setting), direct_(computed_at_a_time(setting)) {}
  bool works() const { return direct_.works(); }
  int64_t count() const { return s_.p.N * slices(); }
  int64_t mark_bytes() const { return Marks::bytes(count()); }
  int64_t workspace(int threads) const {
    return direct_.workspace(threads) + (s_.x.channels ? copies().end : 0);
  }

  // Returns whether the energy of some taps, which is the sum of the lanes, is within the limits.
  static bool are_safe_taps(const Vec& energies) { return is_safe_energy(sum_of_lanes(energies)); }

  // Marks the lanes of a unit one of whose planes is loud or has too much energy.
  void mark_unsafe(const Real* energy, const Real* largest, int64_t planes, int64_t unit,
                   int64_t slice, int lanes, const Marks& marks) const {
    for (int64_t plane = 0; plane < planes; ++plane) {
      const Real *sums = energy + plane * kLanes, *magnitudes = largest + plane * kLanes;
      if (!is_unsafe(Vec::load(sums), Vec::load(magnitudes))) continue;
      for (int lane = 0; lane < lanes; ++lane) {
        if (!is_unsafe(Vec::load_first(sums + lane, 1), Vec::load_first(magnitudes + lane, 1)))
          continue;
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
    if (!s_.x.channels) return direct_.run_marked(ops, marks, workspace, executor);
    for (int64_t i = 0; i < count(); ++i) {
      if (marks.is_set(i)) run_copy(ops, i / slices(), i % slices(), workspace, executor);
    }
  }

 private:
  int64_t slices() const { return s_.x.channels ? s_.x.slices() : 1; }
  static Problem computed_at_a_time(const Setting& s) {
    Problem p = s.p;
    if (!s.x.channels) return p;
    p.N = 1;
    p.C = p.O = p.groups = kLanes;
    p.layout = Layout::nhwc;
    return p.residual || !p.activation.bounds() ? without_epilogue(p) : p;  // run_copy() finishes
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
    direct_.run(one, 0, at(offsets.end), executor);
    out.store(ops.out, image, slice, {0, out.shape.height}, {0, out.shape.width},
              whole_image(to, out.shape), kLanes);
    if (forward) {
      out.finish(Epilogue(s_.p, ops), ops.out, image, slice, {0, out.shape.height},
                 {0, out.shape.width});
    }
  }

  const Setting& s_;
  const DirectImages direct_;
};

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
