#include "cpu/choice.h"

#include <algorithm>

#include "core/axis.h"
#include "cpu/fft_size.h"

namespace convkern::cpu::choice {

double used_lanes(int64_t n, int lanes) {
  return static_cast<double>(n) / static_cast<double>(ceil_div(n, lanes) * lanes);
}

namespace {

// Returns the columns that direct_columnlane computes as one row. For gx these are the columns of
// one residue of the stride.
int64_t columns_of_row(const Problem& p) {
  return p.pass == Pass::grad_input ? ceil_div(p.W, p.stride_w) : p.OW();
}

// Returns the share of the time that is left for products where images are copied to lanes and
// back. Copying a number takes as long as about 8 products, and in channels_last 14.
double share_of_products(const Problem& p) {
  const auto taps = static_cast<double>(p.R * p.S);
  const double steps = static_cast<double>(p.stride_h) * p.stride_w;
  const double of_x = static_cast<double>(p.Og()) * taps / steps;  // products of a number of x
  const double of_y = static_cast<double>(p.Cg) * taps;
  const double copy = p.layout == Layout::nhwc ? 14 : 8;
  return 1 / (1 + copy / of_x + copy / of_y);
}

// Returns whether the numbers that are copied to lanes lie far apart in channels_last: there are
// many channels in a pixel, or only those of one group are copied.
bool has_wide_pixels(const Problem& p) {
  constexpr int64_t kManyChannels = 64;
  return p.groups > 1 || std::max(p.C, p.O) > kManyChannels;
}

// Returns whether a problem of 1x1 kernels in channels_last has pixels of so few numbers that whole
// images are copied to lanes as fast as they are read.
bool has_narrow_pixels(const Problem& p) {
  constexpr int64_t kFewChannels = 12;
  return p.layout == Layout::nhwc && p.R * p.S == 1 && p.groups == 1 &&
         p.pass != Pass::grad_weight && std::max(p.C, p.O) <= kFewChannels;
}

// Returns the share of the time that is left for products in grad_weight. Each weight's vector of
// sums is read and written once for every `vectors` vectors of products. That takes as long as
// `overhead` vectors of products.
double share_beside_sums(double vectors, double overhead) { return vectors / (vectors + overhead); }

}  // namespace

// The estimate is the share of useful lanes, less the costs below. Tiles with one vector in a row
// are bound by their loads. In grad_weight a vector of gy is loaded for the Cg products that it
// has, which takes as long as 1.5 of them, and 3 in tiles of one vector. And a sum starts anew with
// every run of products whose factors are adjacent in memory, which costs about as much as 9
// products, and 14 if the products are those of one channel.
double estimate_implicit_gemm(const Problem& p, int lanes) {
  const int64_t columns = p.pass == Pass::grad_input ? p.Cg : p.Og();
  const bool one_vector = columns <= lanes;
  const double used = used_lanes(columns, lanes) * (one_vector ? 0.65 : 1);
  const auto channels = static_cast<double>(p.Cg);
  if (p.pass == Pass::grad_weight) return used * channels / (channels + (one_vector ? 3 : 1.5));
  const int64_t terms = p.pass == Pass::grad_input ? p.Og() : p.Cg;
  const bool adjacent =
      p.dilation_w == 1 && (p.layout == Layout::nchw ? terms <= lanes : p.groups == 1);
  const double run = static_cast<double>(adjacent ? terms * p.S : terms);
  return used * run / (run + (terms == 1 ? 14 : 9));
}

// The estimate is the share of useful lanes, less what copying takes and further costs, each fitted
// to measurements: rows of one or two vectors fill small tiles; a stride takes numbers apart;
// channels_last is transposed; in grad_weight tiles are smaller, the fewer taps there are; and 1x1
// kernels have too few products for a load.
double estimate_columnlane(const Problem& p, int lanes) {
  const int64_t columns = columns_of_row(p);
  double share = used_lanes(columns, lanes) * share_of_products(p) *
                 (columns <= lanes       ? 0.6
                  : columns <= 2 * lanes ? 0.7
                                         : 0.9);
  if (p.stride_w > 1) share *= 0.65;
  if (p.layout == Layout::nhwc) share *= has_wide_pixels(p) ? 0.3 : 0.7;
  const int64_t taps = p.R * p.S;
  if (p.pass != Pass::grad_weight) return share * (taps > 1 ? 1 : 0.5);
  constexpr double kBandFloats = 96 << 10;  // of the x rows of a band, in float32
  const double rows = kBandFloats / static_cast<double>(p.Cg * p.W * p.stride_h);
  const double vectors = std::clamp<double>(rows, 1, p.OH()) * p.OW() / lanes;
  return share * (taps >= 25 ? 1 : taps > 1 ? 0.55 : 0.22) * share_beside_sums(vectors, 40);
}

// The estimate is likewise the share of useful lanes, less what copying, channels_last and 1x1
// kernels cost. Where windows do not overlap, each vector of x is loaded anew for each output, and
// with many outputs from beyond the L1 cache.
double estimate_batchlane(const Problem& p, int lanes) {
  double share = used_lanes(p.N, lanes) * share_of_products(p);
  if (p.pass == Pass::grad_weight) {
    const auto vectors = static_cast<double>(ceil_div(p.N, lanes) * p.OH() * p.OW());
    share *= 0.7 * share_beside_sums(vectors, 50);
  } else {
    share *= 0.85;
  }
  if (p.layout == Layout::nhwc && has_wide_pixels(p)) share *= 0.7;
  constexpr int64_t kManyOutputs = 64;
  if (p.pass == Pass::forward && p.stride_w >= p.S && p.Og() > kManyOutputs) share *= 0.6;
  if (p.R * p.S > 1 || has_narrow_pixels(p)) return share;
  return share * (p.layout == Layout::nhwc ? 0.35 : 0.6);
}

// With more channels in a group the products of spectra take most of the time. They are no matrix
// products, and the spectra of all channels do not fit the cache. Few taps are summed directly
// sooner than the image is transformed, and so is every small problem.
Reason fft_declines(const Candidate& candidate) {
  constexpr int64_t kMostChannels = 16, kFewTaps = 16;
  const Problem& p = candidate.problem;
  if (std::max(p.Cg, p.Og()) > kMostChannels || p.R * p.S < kFewTaps) return Reason::slower;
  const double directly = direct_cycles(p, candidate.lanes);
  const bool is_faster = directly > kFftCallCycles && fft_cycles(p, candidate.lanes) < directly;
  return is_faster ? Reason::none : Reason::slower;
}

// Returns whether direct_batchlane is faster than direct_channellane: the images fill its lanes,
// and in NCHW short rows of few channels take long to copy to the lanes of direct_channellane. This
// was measured with strides in forward, and with groups of 16 channels if rows are not too short.
static bool prefers_batchlane(const Candidate& candidate) {
  constexpr double kFullLanes = 0.9;
  constexpr int64_t kShortRow = 16, kLeastRow = 8, kGroup = 16;
  const Problem& p = candidate.problem;
  const int64_t row = columns_of_row(p);
  if (p.layout != Layout::nchw || p.C == p.groups || row > kShortRow) return false;
  if (used_lanes(p.N, candidate.lanes) < kFullLanes) return false;
  const bool strided = p.pass == Pass::forward && p.stride_w > 1;
  const bool full = p.Cg == kGroup && p.Og() == kGroup && row >= kLeastRow;
  return (strided || full) && candidate.supported_by(kBatchlane);
}

// Other kernels are faster if all channels fill less than half a vector. They also are if one group
// fills a whole vector and implicit_gemm then reads less for each product: in grad_weight, and
// where the residues of a stride leave so few columns that register tiles are not full.
Reason channellane_declines(const Candidate& candidate) {
  const Problem& p = candidate.problem;
  const int lanes = candidate.lanes;
  const int64_t columns = p.pass == Pass::grad_input ? p.Cg : p.Og();
  if (2 * p.groups * columns < lanes) return Reason::empty_lanes;
  constexpr int64_t kLeastColumns = 9, kOfLanes = 16;  // fewer columns with fewer lanes
  const bool short_rows = p.pass == Pass::grad_input && p.stride_w > 1 &&
                          kOfLanes * columns_of_row(p) < kLeastColumns * lanes;
  const bool slower = columns == lanes && (p.pass == Pass::grad_weight || short_rows);
  if (slower) return Reason::slower;
  return p.pass != Pass::grad_weight && prefers_batchlane(candidate) ? Reason::slower
                                                                     : Reason::none;
}

// Returns Reason::slower in three cases. The outputs may fill so little of their tiles that 2x2
// tiles or the direct sum need fewer products. There may be so few channels that the transforms
// take longer than the products. And in grad_weight there may be so few tiles that transforming the
// sums to gw does.
static Reason winograd_declines(const Problem& p, int64_t tile) {
  constexpr int64_t kFewChannels = 8, kFewTiles = 16;
  if (std::min(p.Cg, p.Og()) < kFewChannels) return Reason::slower;
  const bool input = p.pass == Pass::grad_input;
  const int64_t height = input ? p.H : p.OH(), width = input ? p.W : p.OW();
  // Returns the products for one plane of outputs and one pair of channels, in n x n tiles.
  auto products = [&](int64_t n) {
    return ceil_div(height, n) * ceil_div(width, n) * (n + 2) * (n + 2);
  };
  const int64_t of_image = products(tile);
  const int64_t least = std::min(products(2), 9 * height * width);
  const bool few_tiles = p.N * of_image < kFewTiles * (tile + 2) * (tile + 2);
  const bool slower = of_image > least || (p.pass == Pass::grad_weight && few_tiles);
  return slower ? Reason::slower : Reason::none;
}

Reason winograd_4x4_declines(const Candidate& candidate) {
  return winograd_declines(candidate.problem, 4);
}

// 2x2 tiles save less, so that they need more channels for their transforms to pay. The cost of the
// transforms for each product is proportional to 1/Cg + 1/Og. The limits are on the inverse of this
// sum, so equal Cg and Og must be twice as large. The weight gradient needs fewer channels, and 7x7
// outputs, of which the last tiles are half empty, need many more.
Reason winograd_2x2_declines(const Candidate& candidate) {
  constexpr double kFewChannels = 12, kFewChannelsOfWeights = 7.5, kFewChannelsOfOdd = 64;
  constexpr int64_t kSmall = 8;
  const Problem& p = candidate.problem;
  const int64_t side = std::max(p.OH(), p.OW());
  const bool half_empty = side < kSmall && side % 2 != 0;
  const double few = half_empty                    ? kFewChannelsOfOdd
                     : p.pass == Pass::grad_weight ? kFewChannelsOfWeights
                                                   : kFewChannels;
  const auto products = static_cast<double>(p.Cg * p.Og());
  return products < few * static_cast<double>(p.Cg + p.Og()) ? Reason::slower
                                                             : winograd_declines(p, 2);
}

// Returns whether skinny_gemm takes a problem of 1x1 kernels. It takes those with so few channels
// on one side that packed panels would be mostly empty. Dot products also need many channels on the
// other side, since the lanes of each are added up.
static bool takes_pixels(const Problem& p) {
  constexpr int64_t kFewSums = 24, kFewTerms = 16, kFewDots = 4, kDotLength = 64;
  const bool turned = p.C < p.O;  // x has fewer channels than y
  const int64_t few = std::min(p.C, p.O), many = std::max(p.C, p.O);
  if (p.pass == Pass::grad_weight) return few <= (turned ? kFewTerms : kFewSums);
  if ((p.pass == Pass::forward) == turned) return few <= kFewTerms;
  return few <= kFewDots && many >= kDotLength;
}

// Returns whether skinny_gemm takes a problem whose windows are patches. Forward copies each patch.
// In channels_last this pays if a patch has more numbers, the more outputs there are. In NCHW its
// rows must be very long, or there must be few channels and few outputs. grad_input pays unless
// there are many channels, of which implicit_gemm fills whole vectors. grad_weight pays if there
// are few channels, and in channels_last also if there are few outputs, not many of either, or very
// long patches, unless the kernel is small or the rows of a patch are short.
static bool takes_patches(const Problem& p) {
  constexpr int64_t kFewDots = 8, kSomeDots = 32;
  constexpr int64_t kLength = 512, kSomeLength = 1024, kGreatLength = 4096;
  constexpr int64_t kManyChannelsOfX = 32, kFewChannels = 3, kSomeChannels = 16;
  constexpr int64_t kFewTaps = 9, kShortRun = 8, kLongRun = 32;
  const int64_t taps = p.R * p.S, length = p.C * taps;  // numbers of a patch
  const bool nhwc = p.layout == Layout::nhwc;
  const bool is_long = nhwc && length >= kGreatLength;
  if (p.pass == Pass::forward) {
    if (nhwc) {
      if (p.O <= kFewDots) return length >= kLength;
      return p.O <= kSomeDots ? length >= kSomeLength : is_long;
    }
    if (p.S >= kLongRun) return true;
    const bool few = p.O <= kFewDots && p.C <= kFewChannels;
    return few && p.S >= kShortRun && length >= kLength / 2;
  }
  if (p.pass == Pass::grad_input) {
    return p.C <= kManyChannelsOfX && (taps >= kFewTaps || p.O > kFewDots);
  }
  const int64_t run = nhwc ? p.S * p.C : p.S;  // adjacent numbers of a patch
  const bool few_in_nhwc = p.O <= kFewDots || std::max(p.C, p.O) <= kSomeChannels;
  const bool few = p.C <= kFewChannels || (nhwc && few_in_nhwc) || is_long;
  return few && taps >= kFewTaps && (run >= kShortRun || p.O > kFewDots);
}

// skinny_gemm also takes all images of one output pixel, each of which implicit_gemm would copy. It
// leaves narrow pixels to direct_batchlane if the images fill most of its lanes.
Reason skinny_gemm_declines(const Candidate& candidate) {
  constexpr double kFullLanes = 0.8;
  const Problem& p = candidate.problem;
  if (p.OH() * p.OW() == 1) return Reason::none;
  if (has_narrow_pixels(p) && used_lanes(p.N, candidate.lanes) >= kFullLanes &&
      candidate.supported_by(kBatchlane)) {
    return Reason::slower;
  }
  const bool takes = p.R * p.S == 1 ? takes_pixels(p) : takes_patches(p);
  return takes ? Reason::none : Reason::slower;
}

// The margin was fitted to measurements of problems for which both estimates are close.
Reason implicit_gemm_declines(const Candidate& candidate) {
  constexpr double kMargin = 0.85;
  const Problem& p = candidate.problem;
  const double here = estimate_implicit_gemm(p, candidate.lanes);
  const double of_columnlane = kMargin * estimate_columnlane(p, candidate.lanes);
  const bool leaves =
      (here < of_columnlane && candidate.supported_by(kColumnlane)) ||
      (here < estimate_batchlane(p, candidate.lanes) && candidate.supported_by(kBatchlane));
  return leaves ? Reason::slower : Reason::none;
}

// direct_columnlane leaves a problem to direct_batchlane if that should be at least as fast.
Reason columnlane_declines(const Candidate& candidate) {
  const Problem& p = candidate.problem;
  const bool leaves =
      estimate_batchlane(p, candidate.lanes) >= estimate_columnlane(p, candidate.lanes) &&
      candidate.supported_by(kBatchlane);
  return leaves ? Reason::slower : Reason::none;
}

// The problem counts pairs of numbers. Groups of few channels have kernels of their own. Pairs are
// compared with the kernels that copy to lanes as implicit_gemm is, but compute 1.7 times as many
// products in a time. Where each weight is read once, skinny_gemm converts it to float32 sooner
// than implicit_gemm packs it, unless the weights are so many that they leave the cache in between.
Reason pairs_decline(const Candidate& candidate) {
  constexpr int64_t kFewChannels = 8, kManyWeights = 1 << 21;
  constexpr double kSpeed = 1.7;
  const Problem& p = candidate.problem;
  if (p.groups > 1) {
    return std::min(p.Cg, p.Og()) < kFewChannels ? Reason::empty_lanes : Reason::none;
  }
  const double lanes_in_use =
      std::max(estimate_columnlane(p, candidate.lanes), estimate_batchlane(p, candidate.lanes));
  if (kSpeed * estimate_implicit_gemm(p, candidate.lanes) < lanes_in_use) {
    return Reason::empty_lanes;
  }
  const bool one_pixel = p.OH() * p.OW() == 1 && p.windows_tile_image();
  return one_pixel && p.O * p.C * p.R * p.S < kManyWeights ? Reason::slower : Reason::none;
}

}  // namespace convkern::cpu::choice
