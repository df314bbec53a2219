// When to leave a problem to direct_columnlane and direct_batchlane: estimates of the share of the
// peak that each reaches, fitted to measurements (AVX-512, Zen 4 and 5) of some 40 layers of 1 to
// 2048 channels and both layouts. They need only be right where the kernels are far apart.
#pragma once

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

double share_of_vectors(int64_t n) { return static_cast<double>(n) / whole_vectors(n); }

// The share of useful lanes; a tile of one vector a row is bound by its loads; and a sum starts
// anew with every run of products whose factors are adjacent in memory.
double estimate(const Problem& p) {
  const int64_t columns = p.pass == Pass::grad_input ? p.Cg : p.Og();
  const double lanes = share_of_vectors(columns) * (columns <= kLanes ? 0.65 : 1);
  if (p.pass == Pass::grad_weight) return lanes * p.Cg / (p.Cg + 1);
  const int64_t terms = p.pass == Pass::grad_input ? p.Og() : p.Cg;
  const bool adjacent =
      p.dilation_w == 1 && (p.layout == Layout::nchw ? terms <= kLanes : p.groups == 1);
  const double run = static_cast<double>(adjacent ? terms * p.S : terms);
  return lanes * run / (run + 6);
}

double estimate_columnlane(const Problem& p) {
  const int64_t columns = p.pass == Pass::grad_input ? ceil_div(p.W, p.stride_w) : p.OW();
  double share = share_of_vectors(columns) * (columns <= kLanes       ? 0.6
                                              : columns <= 2 * kLanes ? 0.7
                                                                      : 0.9);
  if (p.stride_w > 1) share *= 0.65;
  if (p.layout == Layout::nhwc) share *= p.groups > 1 ? 0.3 : 0.6;
  const int64_t taps = p.R * p.S;
  if (p.pass == Pass::grad_weight) return share * (taps >= 25 ? 0.9 : taps > 1 ? 0.5 : 0.2);
  return share * (taps > 1 ? 1 : 0.5);
}

double estimate_batchlane(const Problem& p) {
  double share = share_of_vectors(p.N) * (p.pass == Pass::grad_weight ? 0.6 : 0.85);
  if (p.layout == Layout::nhwc && p.groups > 1) share *= 0.5;
  if (p.R * p.S > 1) return share;
  return share * (p.layout == Layout::nhwc ? 0.35 : 0.5);
}

Reason declines(const Problem& p) {
  const double here = estimate(p);
  const bool leave = (here < estimate_columnlane(p) && columnlane::computes(p)) ||
                     (here < estimate_batchlane(p) && batchlane::computes(p));
  return leave ? Reason::empty_lanes : Reason::none;
}

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
