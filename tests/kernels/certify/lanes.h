// What takes the time: operations on several integers modulo p. They are compiled with
// optimisation, the algorithms, of which that would take minutes, without.
#pragma once

#include "mod.h"

namespace convkern {

void add_lanes(Mod* sums, const Mod* a, int lanes);
void subtract_lanes(Mod* differences, const Mod* a, int lanes);
void add_products(Mod* sums, const Mod* a, const Mod* b, int lanes);

}  // namespace convkern
