#include "cpu/norm/batch_norm.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/scalar_types.h"
#include "cpu/norm/loops.h"

namespace convkern::cpu {
namespace {

constexpr int64_t kLeastWidth = 256;  // numbers in a row: shorter rows cost more loops
constexpr int64_t kMostParts = 32;    // with sums of their own
constexpr int64_t kPartUnits = 32;    // in a part at least, in channels_last
constexpr int64_t kGrain = 1 << 14;   // fewest numbers worth handing to a thread
constexpr int64_t kSamples = 16;      // pixels whose mean is near the mean of the channel
constexpr double kFar = 64;           // variances: a square this far from the mean, which cancels

const NormLoops& loops_of(DType dtype, [[maybe_unused]] Isa isa) {
  const NormTables* tables = &norm_f32_baseline;
  const NormLoops* f64 = &norm_f64_baseline;
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)
  if (isa >= Isa::avx512) {
    tables = &norm_f32_avx512;
    f64 = &norm_f64_avx512;
  } else if (isa >= Isa::avx2) {
    tables = &norm_f32_avx2;
    f64 = &norm_f64_avx2;
  }
#endif
  switch (dtype) {
    case DType::f64:
      return *f64;
    case DType::bf16:
      return tables->bf16;
    case DType::f16:
      return tables->f16;
    default:
      return tables->f32;
  }
}

// Rows of numbers, each aligned to a cache line.
template <class Real>
class Rows {
 public:
  Rows(int64_t rows, int64_t columns)
      : stride_((columns + kLine - 1) / kLine), lines_(rows * stride_) {}
  Real* operator[](int64_t row) { return reinterpret_cast<Real*>(lines_.data() + row * stride_); }

 private:
  static constexpr int64_t kLine = 64 / sizeof(Real);
  struct alignas(64) Line {
    char bytes[64] = {};
  };
  int64_t stride_;
  std::vector<Line> lines_;
};

// Computes with numbers of channels in Real, float or double.
template <class Real>
class Passes {
 public:
  Passes(const BatchNorm& norm, Isa isa, const Executor& executor)
      : norm_(norm),
        loops_(loops_of(norm.dtype, isa)),
        executor_(executor),
        count_(norm.images * norm.pixels),
        rows_(NormLoop::kRows, columns()) {
    loop_.channels = norm.channels;
    loop_.layout = norm.layout;
    loop_.activation = norm.activation;
    loop_.given_statistics = norm.given_statistics;
    loop_.width = norm.layout == Layout::nchw ? norm.pixels : columns();
    const bool merged = norm.layout == Layout::nhwc && norm.gy_images == nullptr;
    loop_.image_size = norm.channels * norm.pixels * (merged ? norm.images : 1);
    const int64_t images = merged ? 1 : norm.images;
    loop_.units = images * ((loop_.image_size + loop_.width - 1) / loop_.width);
    loop_.x = norm.x;
    loop_.residual = norm.residual;
    loop_.gy[0] = norm.gy[0];
    loop_.gy[1] = norm.gy[1];
    loop_.y = norm.y;
    loop_.gx = norm.gx;
    if (norm.writes_gresidual()) loop_.gresidual = norm.gresidual;
    loop_.kept = norm.kept;
    for (int row = 0; row < NormLoop::kRows; ++row) loop_.rows[row] = rows_[row];
  }

  void forward() {
    if (!norm_.given_statistics) find_statistics();
    set_affine();
    run_units(loops_.normalise);
  }

  void backward() {
    set_affine();
    Rows<Real> of_images(1, norm_.gy_images == nullptr ? 0 : norm_.images * columns());
    if (norm_.gy_images != nullptr) set_images(of_images[0]);
    const std::vector<double> sums = run_sums(loops_.gradient_sums);
    const auto count = static_cast<double>(count_);
    for (int64_t c = 0; c < norm_.channels; ++c) {
      const double sum = sums[c], product = sums[norm_.channels + c];
      if (norm_.gbias != nullptr) numbers(norm_.gbias)[c] = static_cast<Real>(sum);
      if (norm_.gweight != nullptr) {
        numbers(norm_.gweight)[c] = static_cast<Real>(product * invstd(c));
      }
      const double scale = rows_[NormLoop::kScale][c];
      rows_[NormLoop::kSlope][c] =
          static_cast<Real>(-scale * invstd(c) * invstd(c) * product / count);
      rows_[NormLoop::kShift][c] = static_cast<Real>(-scale * sum / count);
    }
    repeat(NormLoop::kSlope);
    repeat(NormLoop::kShift);
    if (norm_.gx != nullptr) run_units(loops_.gradient);
  }

 private:
  using Loop = void (*)(const NormLoop&, int64_t, int64_t, const NormSums&);

  static Real* numbers(void* p) { return static_cast<Real*>(p); }
  double invstd(int64_t c) const { return numbers(norm_.invstd)[c]; }

  // The numbers in a row, which are whole pixels and whole vectors.
  int64_t columns() const {
    if (norm_.layout == Layout::nchw) return norm_.channels;
    int64_t width = std::lcm(norm_.channels, int64_t{loops_.lanes});
    while (width < kLeastWidth) width *= 2;
    return width;
  }

  void repeat(NormLoop::Row row) {
    Real* at = rows_[row];
    for (int64_t i = norm_.channels; i < loop_.columns(); ++i) at[i] = at[i - norm_.channels];
  }

  // Repeats the numbers of an image in a row of columns, if it is walked in rows.
  void set_images(Real* row) {
    const auto* numbers = static_cast<const Real*>(norm_.gy_images);
    loop_.gy_images = norm_.layout == Layout::nchw ? numbers : row;
    if (norm_.layout == Layout::nchw) return;
    for (int64_t image = 0; image < norm_.images; ++image) {
      for (int64_t i = 0; i < columns(); ++i) {
        *row++ = numbers[image * norm_.channels + i % norm_.channels];
      }
    }
  }

  void set_affine() {
    const auto *weight = static_cast<const Real*>(norm_.weight),
               *bias = static_cast<const Real*>(norm_.bias);
    for (int64_t c = 0; c < norm_.channels; ++c) {
      const Real scale = numbers(norm_.invstd)[c];
      rows_[NormLoop::kMean][c] = numbers(norm_.mean)[c];
      rows_[NormLoop::kScale][c] = weight == nullptr ? scale : weight[c] * scale;
      rows_[NormLoop::kBias][c] = bias == nullptr ? 0 : bias[c];
    }
    for (const auto row : {NormLoop::kMean, NormLoop::kScale, NormLoop::kBias}) repeat(row);
  }

  void run_units(Loop loop) {
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, loop_.width));
    executor_.run(loop_.units, grain,
                  [&](int64_t begin, int64_t end, int) { loop(loop_, begin, end, {}); });
  }

  // Returns the two sums of each channel.
  std::vector<double> run_sums(Loop loop) {
    const int64_t least = loop_.layout == Layout::nchw ? 1 : kPartUnits;
    const int64_t parts = std::max<int64_t>(
        1, std::min({kMostParts, loop_.units / least, count_ * norm_.channels / kGrain}));
    const int64_t columns = loop_.columns(), size = NormSums::kRows * columns;
    std::vector<double> partial(parts * size);
    Rows<Real> blocks(executor_.threads(), size);
    executor_.run(parts, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t part = begin; part < end; ++part) {
        loop(loop_, loop_.units * part / parts, loop_.units * (part + 1) / parts,
             {partial.data() + part * size, blocks[thread]});
      }
    });
    std::vector<double> sums(NormSums::kRows * norm_.channels);
    const double* row = partial.data();
    for (int64_t i = 0; i < parts * NormSums::kRows; ++i) {
      double* to = sums.data() + i % NormSums::kRows * norm_.channels;
      for (int64_t column = 0; column < columns; column += norm_.channels) {
        for (int64_t c = 0; c < norm_.channels; ++c) to[c] += *row++;
      }
    }
    return sums;
  }

  // A number near the mean of a channel: sums about it do not cancel where the mean is large.
  template <class Number>
  void sample_means() {
    const auto* x = static_cast<const Number*>(norm_.x);
    const int64_t samples = std::min(kSamples, count_);
    const bool nchw = norm_.layout == Layout::nchw;
    const int64_t step = nchw ? norm_.pixels : 1;  // from channel to channel
    std::vector<double> totals(norm_.channels);
    for (int64_t sample = 0; sample < samples; ++sample) {
      const int64_t at = count_ * sample / samples;
      const Number* pixel =
          x + (nchw ? at / norm_.pixels * norm_.channels * norm_.pixels + at % norm_.pixels
                    : at * norm_.channels);
      for (int64_t c = 0; c < norm_.channels; ++c) totals[c] += to_double(pixel[c * step]);
    }
    for (int64_t c = 0; c < norm_.channels; ++c) {
      const auto mean = static_cast<Real>(totals[c] / static_cast<double>(samples));
      rows_[NormLoop::kMean][c] = std::isfinite(mean) ? mean : 0;
    }
    repeat(NormLoop::kMean);
  }

  // Returns the sums of the moments about numbers near the means, which are those of samples unless
  // these turn out to be far from the means of their channels.
  std::vector<double> moments() {
    std::vector<double> sums = run_sums(loops_.moments);
    const auto count = static_cast<double>(count_);
    bool far = false;
    for (int64_t c = 0; c < norm_.channels; ++c) {
      const double offset = sums[c] / count, square = offset * offset;
      const double variance = std::max(0.0, sums[norm_.channels + c] / count - square);
      if (!(square > kFar * (variance + norm_.eps)) || !std::isfinite(square)) continue;
      rows_[NormLoop::kMean][c] += static_cast<Real>(offset);
      far = true;
    }
    if (!far) return sums;
    repeat(NormLoop::kMean);
    return run_sums(loops_.moments);
  }

  void find_statistics() {
    switch (norm_.dtype) {
      case DType::f64:
        sample_means<double>();
        break;
      case DType::bf16:
        sample_means<BFloat16>();
        break;
      case DType::f16:
        sample_means<Half>();
        break;
      default:
        sample_means<float>();
    }
    const std::vector<double> sums = moments();
    const auto count = static_cast<double>(count_);
    for (int64_t c = 0; c < norm_.channels; ++c) {
      const double offset = sums[c] / count, mean = rows_[NormLoop::kMean][c] + offset;
      const double squares = sums[norm_.channels + c] / count - offset * offset;
      const double variance = squares < 0 ? 0 : squares;  // NaN stays
      numbers(norm_.mean)[c] = static_cast<Real>(mean);
      numbers(norm_.invstd)[c] = static_cast<Real>(1 / std::sqrt(variance + norm_.eps));
      move(norm_.running_mean, c, mean);
      move(norm_.running_var, c, variance * count / (count - 1));
    }
  }

  void move(void* running, int64_t c, double value) const {
    if (running == nullptr) return;
    Real& at = numbers(running)[c];
    at = static_cast<Real>((1 - norm_.momentum) * at + norm_.momentum * value);
  }

  const BatchNorm& norm_;
  const NormLoops& loops_;
  const Executor& executor_;
  const int64_t count_;  // pixels of a channel
  Rows<Real> rows_;
  NormLoop loop_{};
};

template <class Call>
void with_numbers(DType dtype, const Call& call) {
  if (dtype == DType::f64) {
    call(double{});
  } else {
    call(float{});
  }
}

}  // namespace

void BatchNorm::forward(Isa isa, const Executor& executor) const {
  with_numbers(dtype,
               [&](auto number) { Passes<decltype(number)>(*this, isa, executor).forward(); });
}

void BatchNorm::backward(Isa isa, const Executor& executor) const {
  with_numbers(dtype,
               [&](auto number) { Passes<decltype(number)>(*this, isa, executor).backward(); });
}

bool BatchNorm::has_slope(const Activation& activation) {
  switch (activation.kind) {
    case ActivationKind::none:
    case ActivationKind::leaky_relu:
    case ActivationKind::hardswish:
    case ActivationKind::silu:
      return true;
    default:
      return activation.bounds();
  }
}

int64_t BatchNorm::kept_bytes(Isa isa) const {
  const int64_t lanes = loops_of(dtype, isa).lanes;
  const auto vectors = [lanes](int64_t numbers) { return (numbers + lanes - 1) / lanes; };
  const int64_t count = layout == Layout::nchw ? images * channels * vectors(pixels)
                                               : vectors(images * channels * pixels);
  return count * static_cast<int64_t>(sizeof(*kept));
}

}  // namespace convkern::cpu
