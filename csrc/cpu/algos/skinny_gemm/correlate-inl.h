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

  // With `pads`, a whole vector may be read from every column of W on.
  WithWeights(const Matrices& m, bool pads)
      : m(m),
        copies(m.permutes || pads),
        step(copies ? whole_vectors(m.wide) + (pads ? kLanes : 0) : m.wide) {}
  int64_t copy_bytes() const { return copies ? whole_lines(m.narrow * step) : 0; }

  // Returns W: the weights as they are or as they were packed, or else a copy in the workspace.
  const Real* weights(const Operands& ops, void* workspace, const Executor& executor) const {
    if (!copies) return static_cast<const Real*>(ops.w);
    if (ops.packed != nullptr) return static_cast<const Real*>(ops.packed);
    copy_weights(ops.w, workspace, executor);
    return static_cast<const Real*>(workspace);
  }
  void copy_weights(const void* w, void* to, const Executor& executor) const {
    pack_weights(m, static_cast<const Real*>(w), static_cast<Real*>(to), step, executor);
  }
  // Returns the memory of a thread, which has so many floats, in a workspace that begins with the
  // copy of the weights.
  Real* thread_memory(void* workspace, int thread, int64_t floats) const {
    return reinterpret_cast<Real*>(static_cast<char*>(workspace) + copy_bytes() +
                                   thread * whole_lines(floats));
  }
  // These return the operand of a pass that is not w, the bias if there is one, and whether ReLU
  // is applied.
  const Real* input(const Operands& ops) const {
    return static_cast<const Real*>(m.p.pass == Pass::forward ? ops.x : ops.gy);
  }
  const Real* bias(const Operands& ops) const {
    return m.p.pass == Pass::forward ? static_cast<const Real*>(ops.b) : nullptr;
  }
  bool applies_relu() const {
    return m.p.pass == Pass::forward && m.p.activation == Activation::relu;
  }
};

// narrow = wide * transposed W, as dot products. A task computes some columns for a block of rows.
struct Shrink final : Plan, WithWeights {
  // The products of a sum that are added in one sequence. What a tile reads for them, of both
  // matrices, stays in the L1 cache, and rounding errors stay small.
  static constexpr int64_t kProducts = 64 * kLanes;
  const Blocks blocks;
  const int64_t tiles, slices;

  explicit Shrink(const Problem& p)
      : WithWeights(Matrices(p), /*pads=*/false),
        blocks(m, block_rows(m)),
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
    copy_weights(w, packed, executor);
  }

  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    const Real* w = weights(ops, workspace, executor);
    const int64_t count = blocks.count * slices;
    executor.run(count, task_grain(m.p, count), [&](int64_t begin, int64_t end, int thread) {
      Real* sums = thread_memory(workspace, thread, thread_floats());
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

  // Adds the products of some rows of the wide matrix and some of W to the sums.
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
    const Real* b = bias(ops);
    const bool apply_relu = applies_relu();
    for (int64_t i = 0; i < rows.size(); ++i, out += m.narrow_row(), sums += sum_floats()) {
      for (int64_t j = 0; j < columns.size(); j += kLanes) {
        const auto lanes = static_cast<int>(std::min<int64_t>(kLanes, columns.size() - j));
        Vec sum = Vec::load(sums + j);
        if (b != nullptr) sum = add(sum, Vec::load_first(b + columns.begin + j, lanes));
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

// Returns how many slices a block of rows is cut into.
inline int64_t slices_of_block(const Matrices& m, const Blocks& blocks) {
  return std::min(m.segments, ceil_div(kTasks, blocks.count));
}

// wide = narrow * W. A task computes some segments for a block of rows. The rows of W are read as
// whole vectors.
struct Spread final : Plan, WithWeights {
  static constexpr int64_t kSmall = 1 << 13;  // floats of W that stay in the L1 cache
  static constexpr int64_t kProducts = 24;    // added in one sequence; more would round too often
  const Blocks blocks;
  const int64_t slices;

  explicit Spread(const Problem& p)
      : WithWeights(Matrices(p), reads_parts_of_vectors(Matrices(p))),
        blocks(m, block_rows(m)),
        slices(slices_of_block(m, blocks)) {}

  // Returns whether the first vector of a slice, or the last, may be only partly in its row of W.
  static bool reads_parts_of_vectors(const Matrices& m) {
    const bool begins_anywhere =
        m.gathers && m.segment % kLanes != 0 && slices_of_block(m, {m, block_rows(m)}) > 1;
    return m.wide % kLanes != 0 || begins_anywhere;
  }

  // The floats of a row in the buffer where rows are gathered.
  int64_t row_floats() const {
    return m.gathers ? whole_vectors(ceil_div(m.segments, slices) * m.segment) : 0;
  }
  int64_t workspace(int threads) const override {
    return copy_bytes() + threads * whole_lines(blocks.rows * row_floats());
  }
  int64_t packed_bytes() const override { return copy_bytes(); }
  void pack(const void* w, void* packed, const Executor& executor) const override {
    copy_weights(w, packed, executor);
  }

  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    const Real* w = weights(ops, workspace, executor);
    const int64_t count = blocks.count * slices;
    executor.run(count, task_grain(m.p, count), [&](int64_t begin, int64_t end, int thread) {
      Real* buffer = thread_memory(workspace, thread, blocks.rows * row_floats());
      for (int64_t task = begin; task < end; ++task) {
        const Range rows = blocks.at(task / slices);
        const Range parts = near_equal_part(m.segments, slices, task % slices);
        const Range columns = m.columns_of(parts);
        auto* out = static_cast<Real*>(ops.out);
        Matrix<Real> to{out + rows.begin * m.wide + columns.begin, m.wide};
        if (m.gathers) to = {buffer, whole_vectors(columns.size())};
        compute(input(ops) + m.narrow_offset(rows.begin), rows.size(), w, columns, bias(ops), to);
        if (!m.gathers) continue;
        m.for_each_segment(out, rows, parts, to, [&](Real* at, const Real* from) {
          Matrices::copy_floats(from, m.segment, at);
        });
      }
    });
  }

  // Computes some columns of some rows. `w` begins with the first column of W. A small W stays in
  // the cache while the result is written row by row. Of a larger one each panel is read once for
  // all rows.
  void compute(const Real* narrow, int64_t rows, const Real* w, Range columns, const Real* b,
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
          t.block = near_equal_block(m.narrow, kProducts);
          t.out = to.at + row * to.step + c - columns.begin;
          t.out_row = to.step;
          t.lanes = t.bias_lanes = static_cast<int>((width - 1) % kLanes + 1);
          t.init = b == nullptr ? Init::zero : Init::bias;
          t.bias = b == nullptr ? nullptr : b + c;
          t.relu = applies_relu();
          matmul_of(std::min(most, rows - row), ceil_div(width, kLanes))(t);
        }
      }
    }
  }
};

}  // namespace skinny_gemm
}  // namespace
}  // namespace convkern::cpu
