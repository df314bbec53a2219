// Copies of images with cells around them, and the sums of the gradients of such cells. A task is
// one row of the result. Both functions move runs of whole rows and single units at the edges, so
// that their time is that of the memory that they read and write.
#include "cpu/padding.h"

#include <algorithm>
#include <cstring>
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

// Calls body(plane, row) for every row of every plane.
template <class Body>
void for_each_row(int64_t planes, int64_t rows, int64_t row_bytes, const Executor& executor,
                  const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(1, row_bytes));
  executor.run(planes * rows, grain, [&](int64_t begin, int64_t end, int) {
    int64_t plane = begin / rows, row = begin % rows;
    for (int64_t task = begin; task < end; ++task) {
      body(plane, row);
      if (++row == rows) row = 0, ++plane;
    }
  });
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
  for_each_row(p.planes, rows.padded(), padded * sizeof(T), executor,
               [&](int64_t plane, int64_t row) {
                 const T* source = from + (plane * rows.size + rows.source(row)) * width;
                 T* at = to + (plane * rows.padded() + row) * padded;
                 copy(source, width, at + p.columns.before * unit);
                 if (unit == 1) {
                   for (const Edge& edge : edges) at[edge.place] = source[edge.cell];
                 } else {
                   for (const Edge& edge : edges) copy(source + edge.cell, unit, at + edge.place);
                 }
               });
}

// Adds n elements to a sum. Numbers of 16 bits are added as floats.
template <class T>
inline void add_run(const T* from, int64_t n, T* sum) {
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (sizeof(T) >= sizeof(float)) {
      sum[i] += from[i];
    } else {
      sum[i] = from_double<T>(to_double(sum[i]) + to_double(from[i]));
    }
  }
}

template <class T>
void fold_as(const PaddedPlanes& p, const T* from, T* to, const Executor& executor) {
  const PaddedAxis rows = p.rows;
  const int64_t unit = p.unit, width = p.columns.size * unit, padded = p.columns.padded() * unit;
  const std::vector<Edge> edges = edges_of(p.columns, unit), row_edges = edges_of(rows, 1);
  for_each_row(p.planes, rows.size, padded * sizeof(T), executor, [&](int64_t plane, int64_t row) {
    const T* first = from + plane * rows.padded() * padded;
    T* at = to + (plane * rows.size + row) * width;
    // Adds the cells around a row of the padded image to those that they repeat.
    const auto add_edges = [&](const T* source) {
      for (const Edge& edge : edges) add_run(source + edge.place, unit, at + edge.cell);
    };
    const T* own = first + (rows.before + row) * padded;
    copy(own + p.columns.before * unit, width, at);
    add_edges(own);
    for (const Edge& repeat : row_edges) {
      if (repeat.cell != row) continue;
      add_run(first + repeat.place * padded + p.columns.before * unit, width, at);
      add_edges(first + repeat.place * padded);
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

void add(DType dtype, const void* from, int64_t n, void* sum, const Executor& executor) {
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    executor.run(
        n, kTaskBytes / static_cast<int64_t>(sizeof(T)), [&](int64_t begin, int64_t end, int) {
          add_run(static_cast<const T*>(from) + begin, end - begin, static_cast<T*>(sum) + begin);
        });
  });
}

}  // namespace

const PaddingFunctions padding_functions = {pad, fold, add, kPartBytes};

}  // namespace convkern::cpu
