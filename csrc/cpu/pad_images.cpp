// Copies of images with cells around them, and the sums of the gradients of such cells. A task is
// one row of the result. Both functions move runs of whole rows and single units at the edges, so
// that their time is that of the memory that they read and write.
#include "cpu/pad_images.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/reference.h"

namespace convkern::cpu {
namespace {

constexpr int64_t kTaskBytes = 32 << 10;   // fewer are not worth waking a thread
constexpr int64_t kPartBytes = 512 << 10;  // of padded images, which stay in the L2 cache

// Copies n elements. Most runs are short, and a call of memcpy takes as long as some vectors do.
template <class T>
inline void copy(const T* from, int64_t n, T* to) {
  constexpr int64_t kVector = 16 / sizeof(T), kShort = 16 * kVector;
  if (n > kShort || n < kVector) {
    if (n > kShort) {
      std::memcpy(to, from, n * sizeof(T));
    } else {
      for (int64_t i = 0; i < n; ++i) to[i] = from[i];
    }
    return;
  }
  for (int64_t i = 0; i + kVector < n; i += kVector) std::memcpy(to + i, from + i, 16);
  std::memcpy(to + n - kVector, from + n - kVector, 16);
}

int64_t rows_in_task(int64_t row_bytes) {
  return std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, row_bytes));
}

// The columns around an image: `place` in the row of a padded image, and `cell` of the image, both
// in elements.
struct Edge {
  int64_t place, cell;
};

std::vector<Edge> edges_of(const PaddedAxis& axis, int64_t unit) {
  std::vector<Edge> edges;
  edges.reserve(axis.before + axis.after);
  for (int64_t i = 0; i < axis.padded(); ++i) {
    if (i == axis.before) i += axis.size;
    if (i < axis.padded()) edges.push_back({i * unit, axis.source(i) * unit});
  }
  return edges;
}

template <class T>
void pad_as(const PaddedPlanes& p, const T* from, T* to, const Executor& executor) {
  const PaddedAxis rows = p.rows;
  const int64_t unit = p.unit, width = p.columns.size * unit, padded = p.columns.padded() * unit;
  const std::vector<Edge> edges = edges_of(p.columns, unit);
  const int64_t grain = rows_in_task(padded * sizeof(T));
  executor.run(p.planes * rows.padded(), grain, [&](int64_t begin, int64_t end, int) {
    int64_t plane = begin / rows.padded(), row = begin % rows.padded();
    T* at = to + begin * padded;
    for (int64_t task = begin; task < end; ++task, at += padded) {
      const T* source = from + (plane * rows.size + rows.source(row)) * width;
      if (++row == rows.padded()) row = 0, ++plane;
      copy(source, width, at + p.columns.before * unit);
      if (unit == 1) {
        for (const Edge& edge : edges) at[edge.place] = source[edge.cell];
      } else {
        for (const Edge& edge : edges) copy(source + edge.cell, unit, at + edge.place);
      }
    }
  });
}

template <class T, class Sum>
inline void add_run(const T* from, int64_t n, Sum* sum) {
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (std::is_same_v<T, Sum>) {
      sum[i] += from[i];
    } else {
      sum[i] += static_cast<Sum>(to_double(from[i]));
    }
  }
}

// One row of the result of fold(). Numbers of 16 bits are added up as floats and rounded once.
template <class T>
class FoldedRow {
 public:
  static constexpr bool kRounds = sizeof(T) < sizeof(float);
  using Sum = std::conditional_t<kRounds, float, T>;

  explicit FoldedRow(int64_t width) : sums_(kRounds ? width : 0) {}

  // Begins a row, which is stored at `to`, with the numbers `own` of the same cells.
  void begin(const T* own, int64_t width, T* to) {
    to_ = to;
    copy(own, width, to);
  }
  // Returns the sums of n cells from `cell` on, to which others may be added until finish().
  Sum* open(int64_t cell, int64_t n) {
    if constexpr (kRounds) {
      for (int64_t i = cell; i < cell + n; ++i) sums_[i] = static_cast<Sum>(to_double(to_[i]));
      return sums_.data();
    } else {
      return to_;
    }
  }
  // Stores the sums of n cells.
  void finish(int64_t cell, int64_t n) {
    if constexpr (kRounds) {
      for (int64_t i = cell; i < cell + n; ++i) to_[i] = from_double<T>(sums_[i]);
    }
  }

 private:
  std::vector<Sum> sums_;
  T* to_ = nullptr;
};

template <class T>
void fold_as(const PaddedPlanes& p, const T* from, T* to, const Executor& executor) {
  const PaddedAxis rows = p.rows;
  const int64_t unit = p.unit, width = p.columns.size * unit, padded = p.columns.padded() * unit;
  const int64_t first_column = p.columns.before * unit;
  const std::vector<Edge> edges = edges_of(p.columns, unit), row_edges = edges_of(rows, 1);
  const auto is_repeated = [&](int64_t row) {
    return std::any_of(row_edges.begin(), row_edges.end(),
                       [&](const Edge& edge) { return edge.cell == row; });
  };
  const int64_t grain = rows_in_task(padded * sizeof(T));
  executor.run(p.planes * rows.size, grain, [&](int64_t begin, int64_t end, int) {
    FoldedRow<T> result(width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / rows.size, row = task % rows.size;
      const T* first = from + plane * rows.padded() * padded;
      const T* own = first + (rows.before + row) * padded;
      const bool whole = is_repeated(row);
      result.begin(own + first_column, width, to + task * width);
      typename FoldedRow<T>::Sum* sums = result.open(0, whole ? width : 0);
      if (!whole) {
        for (const Edge& edge : edges) result.open(edge.cell, unit);
      }
      // Adds the cells around a row of the padded image to those that they repeat.
      const auto add_edges = [&](const T* source) {
        for (const Edge& edge : edges) add_run(source + edge.place, unit, sums + edge.cell);
      };
      add_edges(own);
      for (const Edge& repeat : row_edges) {
        if (repeat.cell != row) continue;
        add_run(first + repeat.place * padded + first_column, width, sums);
        add_edges(first + repeat.place * padded);
      }
      if (whole) result.finish(0, width);
      for (const Edge& edge : edges) result.finish(edge.cell, unit);
    }
  });
}

void pad(const PaddedPlanes& p, const void* from, void* to, const Executor& executor) {
  with_element(p.dtype, [&](auto element) {
    using T = decltype(element);
    pad_as(p, static_cast<const T*>(from), static_cast<T*>(to), executor);
  });
}

void fold(const PaddedPlanes& p, const void* from, void* to, const Executor& executor) {
  with_element(p.dtype, [&](auto element) {
    using T = decltype(element);
    fold_as(p, static_cast<const T*>(from), static_cast<T*>(to), executor);
  });
}

template <class T>
void add_as(const void* from, int64_t n, void* sum, const Executor& executor) {
  const int64_t grain = kTaskBytes / static_cast<int64_t>(sizeof(T));
  executor.run(n, grain, [&](int64_t begin, int64_t end, int) {
    add_run(static_cast<const T*>(from) + begin, end - begin, static_cast<T*>(sum) + begin);
  });
}

void add(DType dtype, const void* from, int64_t n, void* sum, const Executor& executor) {
  if (dtype == DType::f64) return add_as<double>(from, n, sum, executor);
  return add_as<float>(from, n, sum, executor);
}

}  // namespace

const PaddingFunctions padding_functions = {pad, fold, add, kPartBytes};

}  // namespace convkern::cpu
