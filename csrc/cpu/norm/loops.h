// The loops over tensors that batch normalisation consists of, compiled for each instruction set.
#pragma once

#include "core/activation.h"
#include "core/kernel.h"
#include "core/problem.h"

namespace convkern::cpu {

// What a loop reads and writes. Tensors are walked in units: in channels_last a row of `width`
// numbers, which is a whole number of pixels and of vectors, and the last row of an image may be
// shorter; in NCHW a plane.
struct NormLoop {
  int64_t channels, units;
  int64_t width;       // numbers in a unit
  int64_t image_size;  // numbers in an image; in channels_last all images may count as one
  Layout layout;
  Activation activation;
  bool given_statistics;  // which take no part in derivatives
  const void *x, *residual, *gy[2];
  const void* gy_images;  // rows of columns for each image, like `rows`
  void *y, *gx, *gresidual;
  uint16_t* kept;  // of each vector, in the order of the walk

  // Rows of `columns` numbers, float or double: one for each channel, in channels_last repeated to
  // the width of a unit.
  enum Row { kMean, kScale, kBias, kSlope, kShift, kRows };
  const void* rows[kRows];

  int64_t columns() const { return layout == Layout::nchw ? channels : width; }
};

// Two rows of sums, which a range of units adds to. `block` has the same size in the numbers of the
// rows, is aligned to 64 bytes, and is zero before and after.
struct NormSums {
  static constexpr int kRows = 2;
  double* total;
  void* block;
};

// Calls are for the units [begin, end).
struct NormLoops {
  int lanes;
  // d = x - mean, with any number near the mean: adds up d and d * d.
  void (*moments)(const NormLoop& loop, int64_t begin, int64_t end, const NormSums& sums);
  // y = activation((x - mean) * scale + bias + residual), and the bits `kept`.
  void (*normalise)(const NormLoop& loop, int64_t begin, int64_t end, const NormSums& sums);
  // g = (gy[0] + gy[1] + gy_images) * the derivative of the activation: adds up g and g * (x -
  // mean), and writes g to gresidual.
  void (*gradient_sums)(const NormLoop& loop, int64_t begin, int64_t end, const NormSums& sums);
  // gx = g * scale + (x - mean) * slope + shift, where g is read from gresidual if there is one;
  // with given statistics gx = g * scale.
  void (*gradient)(const NormLoop& loop, int64_t begin, int64_t end, const NormSums& sums);
};

// The tables of one instruction set, by the dtype of the tensors.
struct NormTables {
  NormLoops f32, bf16, f16;
};

extern const NormTables norm_f32_baseline;
extern const NormLoops norm_f64_baseline;
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)
extern const NormTables norm_f32_avx2, norm_f32_avx512;
extern const NormLoops norm_f64_avx2, norm_f64_avx512;
#endif

}  // namespace convkern::cpu
