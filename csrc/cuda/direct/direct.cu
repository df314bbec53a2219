// direct: plane by plane convolution on the CUDA cores, for few channels in each group, as in
// depthwise layers, or for large kernels. It computes both layouts and any stride and dilation.
// float64 is computed in float64, and all other dtypes in float32.
//
// The kernels are in correlate_planes.cuh (forward and grad_input) and sum_planes.cuh
// (grad_weight). A block computes some windows of some planes. Problems of which no tile fits the
// shared memory of a block are not supported. This file makes the plans and launches the kernels.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/direct/correlate_planes.cuh"
#include "cuda/direct/sum_planes.cuh"
#include "cuda/choice.h"
#include "cuda/gemm/passes.h"
#include "cuda/kernel_list.h"

namespace convkern::cuda {
namespace {

// Returns the planes of a dense tensor with `of_group` channels in each group. `channels` is the
// member of Planes that gets the stride of channels: for rows, columns or terms.
Planes dense_planes(const Problem& p, const ImageSizes& sizes, int64_t of_group,
                    int64_t Planes::* channels) {
  const Strides<int64_t> strides(p.layout, sizes.channels, sizes.height, sizes.width);
  Planes planes{};
  planes.image = strides.image;
  planes.*channels = strides.channel;
  planes.group = of_group * strides.channel;
  planes.row = strides.row, planes.column = strides.column;
  planes.height = small(sizes.height), planes.width = small(sizes.width);
  return planes;
}

Planes weight_planes(const TapsOf& taps) {
  Planes planes{};
  planes.group = taps.group;
  planes.column_channel = taps.column;
  planes.term = taps.term;
  planes.row = static_cast<int64_t>(taps.step_h) * taps.S, planes.column = taps.step_w;
  planes.height = taps.taps_h, planes.width = taps.taps_w;
  return planes;
}

constexpr int64_t kMostCount = 1 << 30;

int64_t result_channels(const Problem& p) { return columns_of(p) * p.groups; }

int64_t blocks_of_plane(const PlaneBlocking& blocking, const WindowAxis& rows,
                        const WindowAxis& columns) {
  return int64_t{1} * parts(rows.windows(kWindowRows), blocking.windows_h) *
         parts(columns.windows(kWindowColumns), blocking.windows_w) *
         (rows.residues / blocking.residues_h) * (columns.residues / blocking.residues_w);
}

PlaneWork plane_work(const Problem& p, const WindowAxis& rows, const WindowAxis& columns,
                     const PlaneBlocking& blocking, const Channels& channels) {
  return {rows,
          columns,
          blocking,
          parts(rows.windows(kWindowRows), blocking.windows_h),
          parts(columns.windows(kWindowColumns), blocking.windows_w),
          small(p.N),
          channels,
          are_inner(p, channels.count)};
}

// The blockings of a pass's correlations. Parts of the same sizes share one, so that the search for
// the cheapest runs once for them.
template <class T>
class PartBlockings {
 public:
  explicit PartBlockings(const Problem& p)
      : planes_(plane_counts(p, result_channels(p), sizeof(Sum<T>))) {
    for_each_part(p, {}, [&](const Part& part) { add(part); });
  }

  const PlaneBlocking& of(const Part& part) const { return find(part)->blocking; }
  int64_t blocks(const Part& part) const {
    const PlaneBlocking& blocking = of(part);
    return planes_.plane_blocks(blocking) *
           blocks_of_plane(blocking, WindowAxis(part.rows), WindowAxis(part.columns));
  }

 private:
  struct Known {
    Axis rows, columns;
    PlaneBlocking blocking;
  };

  void add(const Part& part) {
    if (find(part) != known_.end()) return;
    const WindowAxis rows(part.rows), columns(part.columns);
    known_.push_back({part.rows, part.columns, correlation_blocking(rows, columns, planes_)});
  }
  typename std::vector<Known>::const_iterator find(const Part& part) const {
    return std::find_if(known_.begin(), known_.end(), [&](const Known& known) {
      return known.rows.out == part.rows.out && known.rows.taps == part.rows.taps &&
             known.columns.out == part.columns.out && known.columns.taps == part.columns.taps;
    });
  }

  PlaneCounts planes_;
  // There are only a few, because residues of an axis differ by at most one result and one tap.
  std::vector<Known> known_;
};

int shared_bytes(const PlaneBlocking& blocking, int64_t element) {
  return small(blocking.elements * element);
}

template <class T>
void run_part(const Problem& p, const Operands& ops, const Part& part,
              const PartBlockings<T>& blockings, const Executor& executor) {
  PlaneCorrelation<T> c{plane_work(p, WindowAxis(part.rows), WindowAxis(part.columns),
                                   blockings.of(part),
                                   {small(result_channels(p)), 1, small(columns_of(p))})};
  c.in = static_cast<const T*>(part.in);
  c.w = static_cast<const T*>(ops.w) + static_cast<int64_t>(part.taps.first_h) * part.taps.S +
        part.taps.first_w;
  c.bias = p.pass == Pass::forward ? static_cast<const T*>(ops.b) : nullptr;
  c.epilogue = Epilogue<T>(p, ops);
  c.in_planes = dense_planes(p, part.in_sizes, terms_of(p), &Planes::term);
  c.tap_planes = weight_planes(part.taps);
  // The results of a residue are every out_step-th pixel of the tensor, from out_first on.
  c.out_planes = dense_planes(p, part.out_sizes, columns_of(p), &Planes::column_channel);
  c.out = static_cast<T*>(ops.out) + part.out_first_h * c.out_planes.row +
          part.out_first_w * c.out_planes.column;
  c.out_planes.row *= part.out_step_h, c.out_planes.column *= part.out_step_w;
  c.out_planes.height = c.rows.out, c.out_planes.width = c.columns.out;
  c.image_blocks = parts(c.images, c.blocking.images);
  c.terms = part.tap_count() > 0 ? small(terms_of(p)) : 0;
  launch(correlate_planes<T>,
         {dim3(static_cast<unsigned>(blockings.blocks(part))), c.blocking.threads,
          shared_bytes(c.blocking, sizeof(Sum<T>))},
         executor, c);
}

// How grad_weight is cut. An item is a tile of gy that blocks sum over: one of bands_h * bands_w
// bands of the taps, for some classes of taps and some images. Each of `splits` splits has
// `per_split` items and `blocks` blocks, and writes partial sums of its own.
template <class T>
struct WeightBlocking {
  WindowAxis rows, columns;
  PlaneBlocking blocking;
  int bands_h = 0, bands_w = 0;
  int64_t channels, items = 0, blocks = 0, splits = 0, per_split = 0;

  explicit WeightBlocking(const Problem& p)
      : rows(weight_rows(p)),
        columns(weight_columns(p)),
        blocking(weight_blocking(rows, columns, plane_counts(p, p.O * p.Cg, sizeof(Sum<T>)))),
        channels(p.O * p.Cg) {
    if (blocking.images == 0) return;
    bands_h = parts(rows.class_taps(), blocking.taps_h);
    bands_w = parts(parts(columns.class_taps(), kChunk), blocking.chunks);
    items = tiles_of(p.N, blocking.images) * bands_h * bands_w *
            (rows.classes / blocking.classes_h) * (columns.classes / blocking.classes_w);
    blocks = tiles_of(channels, blocking.channels) * blocks_of_plane(blocking, rows, columns);
    per_split = tiles_of(items, splits_of(items, blocks, bytes_of_split(p)));
    splits = tiles_of(items, per_split);
  }
  int64_t bytes_of_split(const Problem& p) const {
    return channels * p.R * p.S * static_cast<int64_t>(sizeof(Sum<T>));
  }
};

template <class T>
struct GradWeight final : Plan {
  const Problem p;
  const WeightBlocking<T> blocking;

  explicit GradWeight(const Problem& problem) : p(problem), blocking(p) {}
  int64_t workspace(int) const override { return blocking.splits * blocking.bytes_of_split(p); }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;

  Reason unsupported() const {
    if (blocking.blocking.images == 0) return Reason::shared_memory;
    return blocking.blocks * blocking.splits > kMostCount ? Reason::size : Reason::none;
  }
};

template <class T>
void GradWeight<T>::run(const Operands& ops, void* workspace, const Executor& executor) const {
  const ImageSizes x_sizes{p.C, p.H, p.W}, gy_sizes{p.O, p.OH(), p.OW()};
  PlaneSums<T> c{plane_work(p, blocking.rows, blocking.columns, blocking.blocking,
                            {small(blocking.channels), small(p.Og()), small(p.Cg)})};
  c.x = static_cast<const T*>(ops.x), c.gy = static_cast<const T*>(ops.gy);
  c.partial = static_cast<Sum<T>*>(workspace);
  c.x_planes = dense_planes(p, x_sizes, p.Cg, &Planes::column_channel);
  c.gy_planes = dense_planes(p, gy_sizes, p.Og(), &Planes::row_channel);
  c.channel_blocks = parts(c.channels.count, c.blocking.channels);
  c.bands_h = blocking.bands_h, c.bands_w = blocking.bands_w;
  c.items = blocking.items, c.per_split = blocking.per_split;
  launch(sum_planes<T>,
         {dim3(static_cast<unsigned>(blocking.blocks * blocking.splits)), c.blocking.threads,
          shared_bytes(c.blocking, sizeof(Sum<T>))},
         executor, c);
  const int64_t size = blocking.channels * p.R * p.S;
  launch_add_splits<T, Sum<T>>(c.partial, blocking.splits, size, p.R * p.S, p.Og(), p.Cg, ops.out,
                               executor);
}

template <class T>
constexpr DType kDType = DType::f32;
template <>
constexpr DType kDType<double> = DType::f64;
template <>
constexpr DType kDType<BFloat16> = DType::bf16;
template <>
constexpr DType kDType<Half> = DType::f16;

// The plan of forward or grad_input. It launches one kernel for each part.
template <class T>
struct Correlations final : Plan {
  const Problem p;
  const PartBlockings<T> blockings;

  explicit Correlations(const Problem& problem) : p(problem), blockings(p) {}
  void run(const Operands& ops, void*, const Executor& executor) const override {
    for_each_part(p, ops,
                  [&](const Part& part) { run_part<T>(p, ops, part, blockings, executor); });
  }

  Reason unsupported() const {
    Reason reason = Reason::none;
    for_each_part(p, {}, [&](const Part& part) {
      if (reason != Reason::none) return;
      if (blockings.of(part).images == 0) {
        reason = Reason::shared_memory;
      } else if (blockings.blocks(part) > kMostCount) {
        reason = Reason::size;
      }
    });
    return reason;
  }
};

template <class T, class PassPlan>
Planned plan_direct(const Problem& p) {
  if (p.dtype != kDType<T>) return Reason::dtype;
  Reason reason = beyond_plans(p);
  if (reason != Reason::none) return reason;
  // The kernels hold positions in images, and the numbers of images, channels and blocks, in ints.
  const double image = static_cast<double>(p.padded_h()) * static_cast<double>(p.padded_w());
  if (image > kMostCount || std::max({p.N, p.C, p.O * p.Cg}) > kMostCount) return Reason::size;
  auto plan = std::make_unique<const PassPlan>(p);
  reason = plan->unsupported();
  if (reason != Reason::none) return reason;
  return std::move(plan);
}

template <class T>
constexpr Algorithm algorithm() {
  return {"direct", plan_direct<T, Correlations<T>>, plan_direct<T, Correlations<T>>,
          plan_direct<T, GradWeight<T>>, choice::direct_declines};
}

}  // namespace

void add_direct(std::vector<Kernel>& kernels) {
  add_kernels(algorithm<float>(), KernelDType::f32, kernels);
  add_kernels(algorithm<double>(), KernelDType::f64, kernels);
  add_kernels(algorithm<BFloat16>(), KernelDType::bf16, kernels);
  add_kernels(algorithm<Half>(), KernelDType::f16, kernels);
}

}  // namespace convkern::cuda
