#include "lanes.h"

#include <algorithm>

namespace convkern {

void fill_lanes(Mod* to, Mod number, int lanes) { std::fill_n(to, lanes, number); }
void add_lanes(Mod* sums, const Mod* a, int lanes) {
  for (int i = 0; i < lanes; ++i) sums[i] += a[i];
}
void subtract_lanes(Mod* differences, const Mod* a, int lanes) {
  for (int i = 0; i < lanes; ++i) differences[i] = differences[i] - a[i];
}
void multiply_lanes(Mod* products, const Mod* a, int lanes) {
  for (int i = 0; i < lanes; ++i) products[i] = products[i] * a[i];
}
void add_products(Mod* sums, const Mod* a, const Mod* b, int lanes) {
  for (int i = 0; i < lanes; ++i) sums[i] = fma(a[i], b[i], sums[i]);
}
void subtract_products(Mod* differences, const Mod* a, const Mod* b, int lanes) {
  for (int i = 0; i < lanes; ++i) differences[i] = differences[i] - a[i] * b[i];
}

bool has_judged_unwritten = false;

void judge_lanes(const Mod* compared, int lanes) {
  for (int i = 0; i < lanes; ++i) {
    has_judged_unwritten |= (compared[i].value & Mod::kUnwritten) != 0;
  }
}

}  // namespace convkern
