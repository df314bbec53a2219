// Operations on several integers modulo p, which take most of the time. They are compiled with
// optimisation. The algorithms are not, because optimising them would take minutes.
#pragma once

#include "mod.h"

namespace convkern {

void fill_lanes(Mod* to, Mod number, int lanes);
void add_lanes(Mod* sums, const Mod* a, int lanes);
void subtract_lanes(Mod* differences, const Mod* a, int lanes);
void multiply_lanes(Mod* products, const Mod* a, int lanes);
void add_products(Mod* sums, const Mod* a, const Mod* b, int lanes);
void subtract_products(Mod* differences, const Mod* a, const Mod* b, int lanes);

// Whether a comparison has depended on a number that was never written, and what sets it.
extern bool has_judged_unwritten;
void judge_lanes(const Mod* compared, int lanes);

}  // namespace convkern
