// The direct kernels cut an axis of a correlation (core/axis.h) into windows of adjacent elements.
// This file finds such elements for any steps:
//
//   out[u] += tap[m] * in[u * a + m * b + offset]        a = out_step, b = tap_step
//
// Let g = gcd(a, b), and let B be the least common multiple of a and b. The results of one thread
// are b/g apart: u = u0 + k * b/g. Taps are taken in a/g classes: m = rho + l * a/g. The index then
// is (k + l) * B plus a start that depends on the phase (u0 mod b/g, rho) alone. Within a phase,
// adjacent results therefore read every B-th element one after the other, and these elements are
// stored side by side in shared memory.
//
// All functions depend on the sizes alone. They count elements of one axis.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "core/axis.h"
#include "core/host_device.h"

namespace convkern::cuda {

// The results that one thread of the direct kernels computes. Its sums, its window of the input and
// the taps for it take about 70 registers.
constexpr int kWindowRows = 4, kWindowColumns = 8;

constexpr int kQuad = 4;   // elements in one load
constexpr int kChunk = 8;  // taps of a row that a window of 16 elements serves

// The part of an axis that a block holds in shared memory. There are `residues` * `classes` phases,
// each with `count` positions.
struct TileAxis {
  int residues, between_residues;
  int classes, between_classes;
  int step, count;

  CONVKERN_HOST_DEVICE int64_t phases() const { return static_cast<int64_t>(residues) * classes; }
  CONVKERN_HOST_DEVICE int first(int phase) const {
    return phase % residues * between_residues + phase / residues * between_classes;
  }
};

struct WindowAxis {
  int out, taps;
  int out_step, tap_step, offset;
  // There are b/g residues and a/g classes, but never more than results and taps: otherwise no two
  // would be adjacent.
  int residues, classes;
  int step;  // B in the comment at the top

  WindowAxis() = default;
  // The indices of the axis must fit int, including those around the image that taps reach.
  explicit WindowAxis(const Axis& axis) {
    out = static_cast<int>(axis.out);
    taps = static_cast<int>(axis.taps);
    // With one result or one tap its step has no effect, and the step might not fit int.
    const int64_t a = axis.out > 1 ? axis.out_step : 1, b = axis.taps > 1 ? axis.tap_step : 1;
    const int64_t gcd = std::gcd(a, b);
    out_step = static_cast<int>(a);
    tap_step = static_cast<int>(b);
    offset = static_cast<int>(axis.offset);
    residues = static_cast<int>(std::min(b / gcd, axis.out));
    classes = static_cast<int>(std::min(a / gcd, std::max<int64_t>(axis.taps, 1)));
    const bool adjacent = residues < axis.out || classes < axis.taps;
    step = adjacent ? static_cast<int>(a / gcd * b) : 1;
  }

  // The taps of class `rho`. Class 0 has the most.
  CONVKERN_HOST_DEVICE int class_taps(int rho = 0) const {
    return taps > rho ? (taps - rho - 1) / classes + 1 : 0;
  }
  // The windows of `size` results that cover the axis, for each residue.
  int windows(int size) const {
    return static_cast<int>((out - 1) / (static_cast<int64_t>(size) * residues) + 1);
  }

  // These return the part of the results, taps or inputs that a block holds in shared memory. The
  // block has `window_count` windows of `size` results for each of `of_residues` residues, and
  // `of_class` taps in each of `of_classes` classes.
  TileAxis results(int window_count, int size, int of_residues) const {
    return {of_residues, 1, 1, 0, residues, window_count * size};
  }
  TileAxis tap_tile(int of_classes, int of_class) const {
    return {1, 0, of_classes, 1, classes, of_class};
  }
  TileAxis inputs(int window_count, int size, int of_residues, int of_classes, int of_class) const {
    const int count = window_count * size + std::max(of_class, 1) - 1;
    return {of_residues, out_step, of_classes, tap_step, step, count};
  }
  // The index of the input at phase 0, position 0. The block's residues begin with `residue`, its
  // classes with `rho`, and the taps in each class with `first_tap`.
  CONVKERN_HOST_DEVICE int first_input(int window, int size, int residue, int rho,
                                       int first_tap) const {
    return offset + residue * out_step + rho * tap_step + (window * size + first_tap) * step;
  }
  CONVKERN_HOST_DEVICE int first_result(int window, int size, int residue) const {
    return window * size * residues + residue;
  }
};

// Planes of a tensor in shared memory, ordered (plane, row phase, row, column phase, column). A
// row's columns are stored in quads, first the quads of even number, then the odd ones. Threads of
// adjacent windows read every second quad, and this order makes them use different banks.
struct PlaneTile {
  TileAxis rows, columns;
  int half;  // even (or odd) quads in one column phase
  int row_pitch, plane_pitch;

  // A column phase has room for `quads` quads, so that whole chunks can be read beyond the last
  // position. Two numbers of quads keep threads in different banks, each of which holds 8 quads of
  // floats: the number from row to row, and the number from plane to plane modulo 8.
  PlaneTile() = default;
  PlaneTile(const TileAxis& rows, const TileAxis& columns, int quads, int plane_shift)
      : rows(rows), columns(columns), half((quads + 1) / 2) {
    // The products might not fit int for sizes for which a block has no memory anyway.
    auto capped = [](double product) { return static_cast<int>(std::min(product, 0x1p26)); };
    const int row_quads = capped(static_cast<double>(columns.phases()) * 2 * half + 1);
    const int plane_quads = capped(static_cast<double>(rows.phases()) * rows.count * row_quads);
    row_pitch = row_quads * kQuad;
    plane_pitch = (plane_quads + ((plane_shift - plane_quads) % 8 + 8) % 8) * kQuad;
  }
  CONVKERN_HOST_DEVICE int place(int phase, int position) const {
    const int quad = position / kQuad;
    return (phase * 2 * half + quad % 2 * half + quad / 2) * kQuad + position % kQuad;
  }
  CONVKERN_HOST_DEVICE int row_of(int phase, int position) const {
    return (phase * rows.count + position) * row_pitch;
  }
  // The positions that hold data, without the room for reading beyond them.
  int64_t elements() const { return rows.phases() * rows.count * columns.phases() * columns.count; }
};

}  // namespace convkern::cuda
