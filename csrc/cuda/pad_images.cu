// Padding with values of the image on CUDA devices: one thread for each element that is written.
// Not run on a GPU.
#include "core/padding.h"

#include "core/reference.h"
#include "cuda/elements.cuh"
#include "cuda/kernel_list.h"

namespace convkern::cuda {
namespace {

constexpr int64_t kPartBytes = 256 << 20;  // of padded images, which keep a GPU busy

// The place of an element: its unit and its number in the unit, in a plane of `columns` columns.
struct Place {
  int64_t plane, row, column, element;

  template <class Index>
  __device__ Place(Index index, int64_t unit, int64_t columns, int64_t rows)
      : plane(index / static_cast<Index>(unit) / static_cast<Index>(columns) /
              static_cast<Index>(rows)),
        row(index / static_cast<Index>(unit) / static_cast<Index>(columns) %
            static_cast<Index>(rows)),
        column(index / static_cast<Index>(unit) % static_cast<Index>(columns)),
        element(index % static_cast<Index>(unit)) {}
};

template <class T>
__global__ void pad_kernel(const PaddedPlanes p, const T* from, T* to) {
  for_each_element(p.padded_elements(), [&](auto index) {
    const Place at(index, p.unit, p.columns.padded(), p.rows.padded());
    const int64_t row = at.plane * p.rows.size + p.rows.source(at.row);
    to[index] = from[(row * p.columns.size + p.columns.source(at.column)) * p.unit + at.element];
  });
}

template <class T>
__global__ void fold_kernel(const PaddedPlanes p, const T* from, T* to) {
  for_each_element(p.elements(), [&](auto index) {
    const Place at(index, p.unit, p.columns.size, p.rows.size);
    double sum = 0;
    const auto add_place = [&](int64_t row, int64_t column) {
      const int64_t place = (at.plane * p.rows.padded() + row) * p.columns.padded() + column;
      sum += to_double(from[place * p.unit + at.element]);
    };
    const auto add_row = [&](int64_t row) {
      add_place(row, p.columns.before + at.column);
      p.columns.for_each_repeat(at.column, [&](int64_t column) { add_place(row, column); });
    };
    add_row(p.rows.before + at.row);
    p.rows.for_each_repeat(at.row, add_row);
    to[index] = from_double<T>(sum);
  });
}

template <class T>
__global__ void add_kernel(int64_t size, const T* from, T* sum) {
  for_each_element(size, [&](auto index) {
    sum[index] = from_double<T>(to_double(sum[index]) + to_double(from[index]));
  });
}

void pad(const PaddedPlanes& p, const void* from, void* to, const Executor& executor) {
  with_element(p.dtype, [&](auto element) {
    using T = decltype(element);
    launch(pad_kernel<T>, element_shape(p.padded_elements()), executor, p,
           static_cast<const T*>(from), static_cast<T*>(to));
  });
}

void fold(const PaddedPlanes& p, const void* from, void* to, const Executor& executor) {
  with_element(p.dtype, [&](auto element) {
    using T = decltype(element);
    launch(fold_kernel<T>, element_shape(p.elements()), executor, p, static_cast<const T*>(from),
           static_cast<T*>(to));
  });
}

void add(DType dtype, const void* from, int64_t n, void* sum, const Executor& executor) {
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    launch(add_kernel<T>, element_shape(n), executor, n, static_cast<const T*>(from),
           static_cast<T*>(sum));
  });
}

}  // namespace

const PaddingFunctions padding_functions = {pad, fold, add, kPartBytes};

}  // namespace convkern::cuda
