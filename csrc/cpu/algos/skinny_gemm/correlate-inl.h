// Forward and grad_input of skinny_gemm: the product whose result is the narrow matrix (Shrink) and
// the one whose result is the wide matrix (Spread).
#pragma once

#include "cpu/algos/skinny_gemm/weights-inl.h"

namespace convkern::cpu {
namespace {
namespace skinny_gemm {

// What both passes have: the matrix W, which is w itself where that is possible.
struct WithWeights {
  const Matrices m;
  const bool copies;   // W is a copy of w
  const int64_t step;  // floats between the rows of W

  WithWeights(const Problem& p, bool whole_vectors_only)
      : m(p),
        copies(m.permutes || (whole_vectors_only && m.wide % kLanes != 0)),
        step(copies ? whole_vectors(m.wide) : m.wide) {}
  int64_t copy_bytes() const { return copies ? whole_lines(m.narrow * step) : 0; }

  // Returns W: the weights as they are or as they were packed, or else a copy in the workspace.
  const Real* weights(const Operands& ops, Real* workspace, const Executor& executor) const {
    if (!copies) return static_cast<const Real*>(ops.w);
    if (ops.packed != nullptr) return static_cast<const Real*>(ops.packed);
    pack_weights(m, static_cast<const Real*>(ops.w), workspace, step, executor);
    return workspace;
  }
  // The operand of a pass that is not w.
  const void* input(const Operands& ops) const {
    return m.p.pass == Pass::forward ? ops.x : ops.gy;
  }
};

// narrow = wide * transposed W, as dot products. A task computes some columns for a block of rows.
// Products are summed in blocks, so short that what a tile reads of both matrices stays in the L1
// cache and rounding errors stay small.
struct Shrink final : Plan, WithWeights {
  static constexpr int64_t kProducts = 64 * kLanes;
  const Blocks blocks;
  const int64_t tiles, slices;

  explicit Shrink(const Problem& p)
      : WithWeights(p, false),
        blocks(m, block_rows(m, m.wide)),
        tiles(ceil_div(m.narrow, kDotColumns)),
        slices(m.gathers ? 1 : std::min(tiles, ceil_div(kTasks, blocks.count))) {}

  int64_t row_floats() const { return whole_vectors(m.wide); }
  int64_t sum_floats() const {
    return whole_vectors(ceil_div(tiles, slices) * kDotColumns);  // of a row of sums
  }
  int64_t thread_floats() const {
    return blocks.rows * (sum_floats() + (m.gathers ? row_floats() : 0));
  }
  int64_t workspace(int threads) const override {
    return copy_bytes() + threads * whole_lines(thread_floats());
  }
  int64_t packed_bytes() const override { return copy_bytes(); }
  void pack(const void* w, void* packed, const Executor& executor) const override {
    pack_weights(m, static_cast<const Real*>(w), static_cast<Real*>(packed), step, executor);
  }

  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    auto* memory = static_cast<Real*>(workspace);
    const Real* w = weights(ops, memory, executor);
    memory += copy_bytes() / static_cast<int64_t>(sizeof(Real));
    const int64_t count = blocks.count * slices;
    executor.run(count, task_grain(m.p, count), [&](int64_t begin, int64_t end, int thread) {
      Real* sums = memory + thread * whole_lines(thread_floats()) / sizeof(Real);
      for (int64_t task = begin; task < end; ++task) {
        const Range rows = blocks.at(task / slices);
        const Range part = near_equal_part(tiles, slices, task % slices);
        const Range columns{part.begin * kDotColumns, std::min(m.narrow, part.end * kDotColumns)};
        const Matrix<const Real> wide =
            m.read_wide(input(ops), rows, {0, m.segments}, sums + blocks.rows * sum_floats());
        set_zero(sums, rows.size() * sum_floats());
        for (int64_t k = 0; k < m.wide; k += kProducts) {
          add_products({wide.at + k, wide.step}, {w + columns.begin * step + k, step},
                       std::min(kProducts, m.wide - k), rows.size(), columns.size(), sums);
        }
        store(ops, rows, columns, sums);
      }
    });
  }

  // Adds the products of some rows of both matrices to the sums.
  void add_products(Matrix<const Real> wide, Matrix<const Real> w, int64_t products, int64_t rows,
                    int64_t columns, Real* sums) const {
    Real of_tile[kDotRows * kDotColumns];
    for (int64_t j = 0; j < columns; j += kDotColumns) {
      const int64_t width = std::min<int64_t>(kDotColumns, columns - j);
      for (int64_t i = 0; i < rows; i += kDotRows) {
        const int64_t height = std::min<int64_t>(kDotRows, rows - i);
        dot_of(height, width)(
            {wide.at + i * wide.step, w.at + j * w.step, wide.step, w.step, products}, of_tile);
        for (int64_t e = 0; e < height * width; ++e) {
          Real& sum = sums[(i + e / width) * sum_floats() + j + e % width];
          sum = sum + of_tile[e];
        }
      }
    }
  }

  // Writes the sums of a task to the narrow matrix, with bias and ReLU.
  void store(const Operands& ops, Range rows, Range columns, Real* sums) const {
    auto* out = static_cast<Real*>(ops.out) + m.narrow_offset(rows.begin) +
                columns.begin * m.narrow_column();
    const auto* bias = static_cast<const Real*>(ops.b);
    const bool apply_relu = m.p.activation == Activation::relu;
    for (int64_t i = 0; i < rows.size(); ++i, out += m.narrow_row(), sums += sum_floats()) {
      for (int64_t j = 0; j < columns.size(); j += kLanes) {
        const auto lanes = static_cast<int>(std::min<int64_t>(kLanes, columns.size() - j));
        Vec sum = Vec::load(sums + j);
        if (bias != nullptr) sum = add(sum, Vec::load_first(bias + columns.begin + j, lanes));
        if (apply_relu) sum = relu(sum);
        if (m.narrow_column() == 1) {
          sum.store_first(out + j, lanes);
        } else {
          sum.store(sums + j);
        }
      }
      if (m.narrow_column() == 1) continue;
      for (int64_t j = 0; j < columns.size(); ++j) out[j * m.narrow_column()] = sums[j];
    }
  }
};

// wide = narrow * W. A task computes some segments for a block of rows. The rows of W are read in
// place, as whole vectors.
struct Spread final : Plan, WithWeights {
  static constexpr int64_t kSmall = 1 << 13;  // floats of W that stay in the L1 cache
  const Blocks blocks;
  const int64_t slices;

  explicit Spread(const Problem& p)
      : WithWeights(p, true),
        blocks(m, block_rows(m, m.wide)),
        slices(std::min(m.segments, ceil_div(kTasks, blocks.count))) {}

  // The floats of a row in the buffer where rows are gathered.
  int64_t row_floats() const {
    return m.gathers ? whole_vectors(ceil_div(m.segments, slices) * m.segment) : 0;
  }
  int64_t workspace(int threads) const override {
    return copy_bytes() + threads * whole_lines(blocks.rows * row_floats());
  }
  int64_t packed_bytes() const override { return copy_bytes(); }
  void pack(const void* w, void* packed, const Executor& executor) const override {
    pack_weights(m, static_cast<const Real*>(w), static_cast<Real*>(packed), step, executor);
  }

  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    auto* memory = static_cast<Real*>(workspace);
    const Real* w = weights(ops, memory, executor);
    memory += copy_bytes() / static_cast<int64_t>(sizeof(Real));
    const int64_t count = blocks.count * slices;
    executor.run(count, task_grain(m.p, count), [&](int64_t begin, int64_t end, int thread) {
      Real* buffer = memory + thread * whole_lines(blocks.rows * row_floats()) / sizeof(Real);
      for (int64_t task = begin; task < end; ++task) {
        const Range rows = blocks.at(task / slices);
        const Range parts = near_equal_part(m.segments, slices, task % slices);
        const Range columns = m.columns_of(parts);
        auto* out = static_cast<Real*>(ops.out);
        Matrix<Real> to{out + rows.begin * m.wide + columns.begin, m.wide};
        if (m.gathers) to = {buffer, whole_vectors(columns.size())};
        compute(static_cast<const Real*>(input(ops)) + m.narrow_offset(rows.begin), rows.size(), w,
                columns, static_cast<const Real*>(ops.b), to);
        if (!m.gathers) continue;
        m.for_each_segment(out, rows, parts, to, [&](Real* at, const Real* from) {
          Matrices::copy_floats(from, m.segment, at);
        });
      }
    });
  }

  // Computes some columns of some rows. Few rows of W stay in the cache while the result is written
  // row by row. Otherwise each panel of W is read once for all rows.
  void compute(const Real* narrow, int64_t rows, const Real* w, Range columns, const Real* bias,
               const Matrix<Real>& to) const {
    const int64_t most = tile_rows(kPanelVectors);
    const int64_t together = m.narrow * columns.size() <= kSmall ? most : rows;
    for (int64_t i = 0; i < rows; i += together) {
      for (int64_t c = columns.begin; c < columns.end; c += kPanelColumns) {
        const int64_t width = std::min(kPanelColumns, columns.end - c);
        for (int64_t row = i; row < std::min(rows, i + together); row += most) {
          MatmulTile t;
          t.a = narrow + row * m.narrow_row();
          t.a_row = m.narrow_row();
          t.a_k = m.narrow_column();
          t.b = w + c;
          t.b_k = step;
          t.k = m.narrow;
          t.inner = t.outer = 1;
          t.block = near_equal_block(m.narrow, kMostBlock);
          t.out = to.at + row * to.step + c - columns.begin;
          t.out_row = to.step;
          t.lanes = t.bias_lanes = static_cast<int>((width - 1) % kLanes + 1);
          t.init = bias == nullptr ? Init::zero : Init::bias;
          t.bias = bias == nullptr ? nullptr : bias + c;
          t.relu = m.p.activation == Activation::relu;
          matmul_of(std::min(most, rows - row), ceil_div(width, kLanes))(t);
        }
      }
    }
  }
};

}  // namespace skinny_gemm
}  // namespace
}  // namespace convkern::cpu
