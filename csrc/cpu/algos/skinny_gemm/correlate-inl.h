// Forward and grad_input of skinny_gemm: the product whose result is the narrow matrix (Shrink) and
// the one whose result is the wide matrix (Spread).
#pragma once

#include "cpu/algos/skinny_gemm/weights-inl.h"

namespace convkern::cpu {
namespace {
namespace skinny_gemm {

// What both products have: the matrix W, which is w itself where that is possible, and how the work
// is cut into tasks. A task computes a slice of the columns for a block of rows.
struct WithWeights {
  const Matrices m;
  const Blocks blocks;
  const int64_t slices;
  const bool copies;   // W is a copy of w
  const int64_t step;  // floats between the rows of W

  // With `pads`, a whole vector may be read from every column of W on.
  WithWeights(const Matrices& m, int64_t slices, bool pads)
      : m(m),
        blocks(m),
        slices(slices),
        copies(m.permutes || pads),
        step(copies ? whole_vectors(m.wide) + (pads ? kLanes : 0) : m.wide) {}
  // Returns how many slices a block is cut into, of which there may be at most so many.
  static int64_t slices_of(const Matrices& m, int64_t most) {
    return std::min(most, ceil_div(kTasks, Blocks(m).count));
  }
  int64_t copy_bytes() const { return copies ? whole_lines(m.narrow * step) : 0; }

  // These return the operand of a pass that is not w, the bias if there is one, and what bounds and
  // finishes the result.
  const Real* input(const Operands& ops) const {
    return static_cast<const Real*>(m.p.pass == Pass::forward ? ops.x : ops.gy);
  }
  const Real* bias(const Operands& ops) const {
    return m.p.pass == Pass::forward ? static_cast<const Real*>(ops.b) : nullptr;
  }
  Epilogue epilogue(const Operands& ops) const {
    return m.p.pass == Pass::forward ? Epilogue(m.p, ops) : Epilogue();
  }
};

// narrow = wide * transposed W, as dot products. A slice is some tiles of columns.
struct Shrink : WithWeights {
  // The products of a sum that are added in one sequence. What a tile reads for them, of both
  // matrices, stays in the L1 cache, and rounding errors stay small.
  static constexpr int64_t kProducts = 64 * kLanes;
  const int64_t tiles;

  explicit Shrink(const Problem& p) : Shrink(Matrices(p)) {}
  explicit Shrink(const Matrices& m)
      : WithWeights(m, m.gathers ? 1 : slices_of(m, tiles_of(m)), /*pads=*/false),
        tiles(tiles_of(m)) {}
  static int64_t tiles_of(const Matrices& m) { return ceil_div(m.narrow, kDotColumns); }

  int64_t sum_floats() const {
    return whole_vectors(ceil_div(tiles, slices) * kDotColumns);  // of a row of sums
  }
  int64_t thread_floats() const {
    return blocks.rows * (sum_floats() + (m.gathers ? whole_vectors(m.wide) : 0));
  }

  void compute(const Operands& ops, const Real* w, Range rows, int64_t slice, Real* sums) const {
    const Range part = near_equal_part(tiles, slices, slice);
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

  // Writes the sums of a task to the narrow matrix, with bias and bounds.
  void store(const Operands& ops, Range rows, Range columns, Real* sums) const {
    Real* first = static_cast<Real*>(ops.out) + m.narrow_offset(rows.begin) +
                  columns.begin * m.narrow_column();
    Real* out = first;
    const Real* b = bias(ops);
    const Epilogue ends = epilogue(ops);
    for (int64_t i = 0; i < rows.size(); ++i, out += m.narrow_row(), sums += sum_floats()) {
      for (int64_t j = 0; j < columns.size(); j += kLanes) {
        const auto lanes = static_cast<int>(std::min<int64_t>(kLanes, columns.size() - j));
        Vec sum = Vec::load(sums + j);
        if (b != nullptr) sum = add(sum, Vec::load_first(b + columns.begin + j, lanes));
        if (ends.bounds()) sum = ends.bound(sum);
        if (m.narrow_column() == 1) {
          sum.store_first(out + j, lanes);
        } else {
          sum.store(sums + j);
        }
      }
      if (m.narrow_column() == 1) continue;
      for (int64_t j = 0; j < columns.size(); ++j) out[j * m.narrow_column()] = sums[j];
    }
    if (!ends.finishes()) return;
    if (m.narrow_column() == 1) {
      ends.finish(first, rows.size(), m.narrow_row(), columns.size());
    } else {
      ends.finish(first, columns.size(), m.narrow_column(), rows.size());
    }
  }
};

// wide = narrow * W. A slice is some segments. The rows of W are read as whole vectors.
struct Spread : WithWeights {
  static constexpr int64_t kSmall = 1 << 13;  // floats of W that stay in the L1 cache
  static constexpr int64_t kProducts = 24;    // added in one sequence; more would round too often

  explicit Spread(const Problem& p) : Spread(Matrices(p)) {}
  explicit Spread(const Matrices& m) : Spread(m, slices_of(m, m.segments)) {}
  Spread(const Matrices& m, int64_t slices)
      : WithWeights(m, slices, reads_parts_of_vectors(m, slices)) {}

  // Returns whether the first vector of a slice, or the last, may be only partly in its row of W.
  static bool reads_parts_of_vectors(const Matrices& m, int64_t slices) {
    const bool begins_anywhere = m.gathers && m.segment % kLanes != 0 && slices > 1;
    return m.wide % kLanes != 0 || begins_anywhere;
  }

  int64_t thread_floats() const {
    if (!m.gathers) return 0;
    return blocks.rows * whole_vectors(ceil_div(m.segments, slices) * m.segment);
  }

  void compute(const Operands& ops, const Real* w, Range rows, int64_t slice, Real* buffer) const {
    const Range parts = near_equal_part(m.segments, slices, slice);
    const Range columns = m.columns_of(parts);
    auto* out = static_cast<Real*>(ops.out);
    Matrix<Real> to{out + rows.begin * m.wide + columns.begin, m.wide};
    if (m.gathers) to = {buffer, whole_vectors(columns.size())};
    const Epilogue ends = epilogue(ops);
    multiply(input(ops) + m.narrow_offset(rows.begin), rows.size(), w, columns, bias(ops), ends,
             to);
    if (ends.finishes()) ends.finish(to.at, rows.size(), to.step, columns.size());
    if (!m.gathers) return;
    m.for_each_segment(out, rows, parts, to, [&](Real* at, const Real* from) {
      Matrices::copy_floats(from, m.segment, at);
    });
  }

  // Computes some columns of some rows. `w` begins with the first column of W. A small W stays in
  // the cache while the result is written row by row. Of a larger one each panel is read once for
  // all rows.
  void multiply(const Real* narrow, int64_t rows, const Real* w, Range columns, const Real* b,
                const Epilogue& ends, const Matrix<Real>& to) const {
    const int64_t most = tile_rows(kPanelVectors);
    const int64_t together = m.narrow * columns.size() <= kSmall ? most : rows;
    MatmulTile t;
    t.a_row = m.narrow_row();
    t.a_k = m.narrow_column();
    t.b_k = step;
    t.k = m.narrow;
    t.block = near_equal_block(m.narrow, kProducts);
    t.out_row = to.step;
    t.init = b == nullptr ? Init::zero : Init::bias;
    t.bounds = ends.if_bounds();
    for (int64_t i = 0; i < rows; i += together) {
      for (int64_t c = columns.begin; c < columns.end; c += kPanelColumns) {
        const Panel panel{c, std::min(kPanelColumns, columns.end - c)};
        t.b = w + c;
        t.lanes = t.bias_lanes = panel.last_lanes();
        t.bias = b == nullptr ? nullptr : b + c;
        for (int64_t row = i; row < std::min(rows, i + together); row += most) {
          t.a = narrow + row * m.narrow_row();
          t.out = to.at + row * to.step + c - columns.begin;
          matmul_of(std::min(most, rows - row), panel.vectors())(t);
        }
      }
    }
  }
};

// The plan of forward or grad_input. The workspace begins with the copy of the weights.
template <class Product>
struct Correlate final : Plan, Product {
  using Product::Product, Product::m, Product::blocks, Product::slices, Product::copy_bytes;

  int64_t thread_bytes() const { return whole_lines(this->thread_floats()); }
  int64_t workspace(int threads) const override { return copy_bytes() + threads * thread_bytes(); }
  int64_t packed_bytes() const override { return copy_bytes(); }
  void pack(const void* w, void* packed, const Executor& executor) const override {
    pack_weights(m, static_cast<const Real*>(w), static_cast<Real*>(packed), this->step, executor);
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    const void* w = this->copies ? ops.packed : ops.w;
    if (w == nullptr) {
      pack(ops.w, workspace, executor);
      w = workspace;
    }
    char* memory = static_cast<char*>(workspace) + copy_bytes();
    const int64_t count = blocks.count * slices;
    executor.run(count, task_grain(m.p, count), [&](int64_t begin, int64_t end, int thread) {
      auto* of_thread = reinterpret_cast<Real*>(memory + thread * thread_bytes());
      for (int64_t task = begin; task < end; ++task) {
        this->compute(ops, static_cast<const Real*>(w), blocks.at(task / slices), task % slices,
                      of_thread);
      }
    });
  }
};

}  // namespace skinny_gemm
}  // namespace
}  // namespace convkern::cpu
