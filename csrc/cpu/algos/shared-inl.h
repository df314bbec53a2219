// What the algorithms share.
#pragma once

#include "cpu/algos/lane_transpose-inl.h"
#include "cpu/algos/correlation_tile-inl.h"
#include "cpu/algos/lane_images-inl.h"
#include "cpu/algos/matmul_tile-inl.h"
#include "cpu/algos/tasks-inl.h"
#include "cpu/algos/pixels-inl.h"
#include "cpu/algos/residues-inl.h"
#include "cpu/algos/weight_reduction-inl.h"
#include "cpu/algos/rows-inl.h"
