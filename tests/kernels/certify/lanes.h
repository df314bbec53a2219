// Operations on several integers modulo p, which take most of the time. They are compiled with
// optimisation. The algorithms are not, because optimising them would take minutes.
#pragma once

#include "mod.h"

namespace convkern {

void add_lanes(Mod* sums, const Mod* a, int lanes);
void subtract_lanes(Mod* differences, const Mod* a, int lanes);
void add_products(Mod* sums, const Mod* a, const Mod* b, int lanes);

}  // namespace convkern
