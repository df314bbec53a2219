// How the direct kernels cut an axis of a correlation (core/axis.h) into windows of adjacent
// elements, whatever its steps are:
//
//   out[u] += tap[m] * in[u * a + m * b + offset]        a = out_step, b = tap_step
//
// With g = gcd(a, b), the results of a thread are b/g apart, u = u0 + k * b/g, and taps are taken
// in a/g classes, m = rho + l * a/g. Then the index is a multiple of the least common multiple B of
// a and b, k + l times, from a beginning that (u0 mod b/g, rho) give: of each such phase, adjacent
// results read adjacent elements of every B-th, which are adjacent in shared memory.
// Pure functions of the sizes, all in elements of one axis.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "core/axis.h"
#include "core/host_device.h"

namespace convkern::cuda {

// Results of a thread of the direct kernels: the sums, a window and the taps for it take about 70
// registers.
constexpr int kWindowRows = 4, kWindowColumns = 8;

constexpr int kQuad = 4;   // elements of a load
constexpr int kChunk = 8;  // taps of a row for which a window of 16 elements serves

// The indices of a tensor that a block has in shared memory: `count` positions in each of
// `residues` * `classes` phases.
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
  // b/g and a/g, or as many as there are results and taps: beyond those none is adjacent.
  int residues, classes;
  int step;  // B

  WindowAxis() = default;
  // The indices of the axis must fit int, also those around the image that taps reach.
  explicit WindowAxis(const Axis& axis) {
    out = static_cast<int>(axis.out);
    taps = static_cast<int>(axis.taps);
    // The step of a single one does not matter, and might not fit.
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

  // Taps of class 0, which has the most, and of any.
  CONVKERN_HOST_DEVICE int class_taps(int rho = 0) const {
    return taps > rho ? (taps - rho - 1) / classes + 1 : 0;
  }
  // Threads' windows of `size` results along the axis, for each residue.
  int windows(int size) const {
    return static_cast<int>((out - 1) / (static_cast<int64_t>(size) * residues) + 1);
  }

  // The indices that a block has in shared memory, where it has so many windows, for so many
  // residues, of so many classes and taps of each.
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
  // The input of phase 0, position 0, where the block has residues and classes from the given ones
  // on, and of these taps from first_tap on.
  CONVKERN_HOST_DEVICE int first_input(int window, int size, int residue, int rho,
                                       int first_tap) const {
    return offset + residue * out_step + rho * tap_step + (window * size + first_tap) * step;
  }
  CONVKERN_HOST_DEVICE int first_result(int window, int size, int residue) const {
    return window * size * residues + residue;
  }
};

// Planes of a tensor in shared memory: (plane, row phase, row, column phase, column). Of a row's
// quads of columns those of even number come first, then the odd ones: threads of adjacent windows,
// which read every other quad, then use different banks.
struct PlaneTile {
  TileAxis rows, columns;
  int half;  // quads of each kind, in a column phase
  int row_pitch, plane_pitch;

  // So that whole chunks are read behind the last position, rows have `quads` for it. The numbers
  // of quads from row to row and, modulo 8, from plane to plane are such that threads in different
  // ones use different banks, which have 8 quads of float.
  PlaneTile() = default;
  PlaneTile(const TileAxis& rows, const TileAxis& columns, int quads, int plane_shift)
      : rows(rows), columns(columns), half((quads + 1) / 2) {
    // The products might not fit int for sizes that a block has no memory for.
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
  // Positions without the room behind them.
  int64_t elements() const { return rows.phases() * rows.count * columns.phases() * columns.count; }
};

}  // namespace convkern::cuda
