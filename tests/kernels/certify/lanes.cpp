#include "lanes.h"

namespace convkern {

void add_lanes(Mod* sums, const Mod* a, int lanes) {
  for (int i = 0; i < lanes; ++i) sums[i] += a[i];
}
void subtract_lanes(Mod* differences, const Mod* a, int lanes) {
  for (int i = 0; i < lanes; ++i) differences[i] = differences[i] - a[i];
}
void add_products(Mod* sums, const Mod* a, const Mod* b, int lanes) {
  for (int i = 0; i < lanes; ++i) sums[i] = fma(a[i], b[i], sums[i]);
}

}  // namespace convkern
