// The grad_weight pass of skinny_gemm: W = transposed narrow * wide.
#pragma once

#include "cpu/algos/skinny_gemm/weights-inl.h"
#include "cpu/blocking/reduction-inl.h"

namespace convkern::cpu {
namespace {
namespace skinny_gemm {

// A task sums the products of some blocks of rows for some segments of W. The wide rows are read in
// place. Where the last panel is not whole vectors, it is copied.
struct GradWeight final : Plan {
  static constexpr int64_t kSliceFloats = 1 << 17;  // target for the sums of a task
  const Matrices m;
  const Blocks blocks;
  const int64_t slices;
  const Reduction reduction;

  explicit GradWeight(const Problem& p)
      : m(p),
        blocks(m),
        slices(slices_of()),
        reduction(p, blocks.count, 0, thread_floats(), ceil_div(2 * kTasks, slices)) {}

  int64_t slices_of() const {
    const int64_t floats = m.narrow * m.wide;
    const int64_t affordable = kPartialBytes / (floats * static_cast<int64_t>(sizeof(Real)));
    const int64_t chunks = std::min(blocks.count, std::max<int64_t>(1, affordable));
    const int64_t in_cache = m.gathers || blocks.count == 1 ? 1 : ceil_div(floats, kSliceFloats);
    return std::min(m.segments, std::max(in_cache, ceil_div(kTasks, chunks)));
  }
  int64_t row_floats() const {
    return m.gathers ? whole_vectors(ceil_div(m.segments, slices) * m.segment) : kPanelColumns;
  }
  int64_t thread_floats() const { return blocks.rows * row_floats(); }
  int64_t copy_bytes() const { return m.permutes ? whole_lines(m.narrow * m.wide) : 0; }
  int64_t workspace(int threads) const override {
    return copy_bytes() + reduction.workspace(threads);
  }

  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    auto* gw = static_cast<Real*>(ops.out);
    Real* w = m.permutes ? static_cast<Real*>(workspace) : gw;
    const void* narrow = m.turned ? ops.x : ops.gy;
    const void* wide = m.turned ? ops.gy : ops.x;
    reduce_chunks(m.p, reduction, slices, static_cast<char*>(workspace) + copy_bytes(), w, executor,
                  [&](int64_t slice, Range units, Real* memory, Real* partial) {
                    const Range parts = near_equal_part(m.segments, slices, slice);
                    for (int64_t unit = units.begin; unit < units.end; ++unit) {
                      const Range rows = blocks.at(unit);
                      add_products(
                          static_cast<const Real*>(narrow) + m.narrow_offset(rows.begin),
                          m.read_wide(wide, rows, parts, memory), rows.size(), m.columns_of(parts),
                          unit == units.begin ? Init::zero : Init::accumulate, memory, partial);
                    }
                  });
    if (m.permutes) unpack_weights(m, w, gw, executor);
  }

  // Adds the products of some rows to some columns of `sums`. `wide` begins with these columns.
  void add_products(const Real* narrow, const Matrix<const Real>& wide, int64_t rows, Range columns,
                    Init init, Real* buffer, Real* sums) const {
    for (int64_t c = 0; c < columns.size(); c += kPanelColumns) {
      const Panel panel{c, std::min(kPanelColumns, columns.size() - c)};
      const Matrix<const Real> from =
          whole_panel({wide.at + c, wide.step}, rows, panel.columns, buffer);
      const int64_t most = tile_rows(static_cast<int>(panel.vectors()));
      for (int64_t i = 0; i < m.narrow; i += most) {
        MatmulTile t;
        t.a = narrow + i * m.narrow_column();
        t.a_row = m.narrow_column();
        t.a_k = m.narrow_row();
        t.b = from.at;
        t.b_k = from.step;
        t.k = rows;
        t.block = block_of_products(m.rows);
        t.out = sums + i * m.wide + columns.begin + c;
        t.out_row = m.wide;
        t.lanes = panel.last_lanes();
        t.init = init;
        matmul_of(std::min(most, m.narrow - i), panel.vectors())(t);
      }
    }
  }

  // Returns a panel of the wide matrix, or a copy of it whose rows are whole vectors.
  Matrix<const Real> whole_panel(const Matrix<const Real>& panel, int64_t rows, int64_t width,
                                 Real* buffer) const {
    if (m.gathers || width % kLanes == 0) return panel;
    for (int64_t i = 0; i < rows; ++i) {
      Matrices::copy_floats(panel.at + i * panel.step, width, buffer + i * kPanelColumns);
    }
    return {buffer, kPanelColumns};
  }
};

}  // namespace skinny_gemm
}  // namespace
}  // namespace convkern::cpu
