// Padding with values of the image: which cell of the image a cell around it repeats, and plans
// that pad some images at a time in workspace.
//
// Kernels compute zeros around images as they load them. For the other modes (PaddingMode) the
// batch is cut into parts of some images. forward and grad_weight copy the images of a part, with
// what is around them, to workspace, where a kernel of any algorithm reads them as images without
// padding. grad_input computes the gradients of padded images there, and adds those of the cells
// around an image to those of the cells that they repeat. A part stays in the cache of a core
// between the two steps, unless a single image or the weights are larger. Each thread has parts of
// its own if there are enough. The gradient of weights in 16 bits has one part, the whole batch.
#pragma once

#include <cstdint>

#include "core/executor.h"
#include "core/kernel.h"
#include "core/padded_axis.h"

namespace convkern {

// Some images of a tensor that is dense in its layout. A plane is `rows` by `columns` units, and a
// unit `unit` elements: in NCHW the planes are those of the channels and a unit is one element, in
// NHWC the planes are the images and a unit has all channels of a pixel.
struct PaddedPlanes {
  DType dtype;
  int64_t planes, unit;
  PaddedAxis rows, columns;

  PaddedPlanes(const Problem& p, int64_t images);
  CONVKERN_HOST_DEVICE int64_t elements() const { return planes * rows.size * columns.size * unit; }
  CONVKERN_HOST_DEVICE int64_t padded_elements() const {
    return planes * rows.padded() * columns.padded() * unit;
  }
};

// What a device does with padded images. The first two write each element of `to`.
struct PaddingFunctions {
  void (*pad)(const PaddedPlanes&, const void* from, void* to, const Executor&);
  // Adds the gradients of cells that repeat each other.
  void (*fold)(const PaddedPlanes&, const void* from, void* to, const Executor&);
  // Adds n numbers of float32 or float64 to a sum.
  void (*add)(DType dtype, const void* from, int64_t n, void* sum, const Executor&);
  int64_t part_bytes;  // target for the bytes of a part's padded images
};

// The parts of a problem whose padding is not of zeros, as problems of padded images. All have as
// many images as `largest` but the last, which has the rest.
struct PaddedParts {
  Problem largest;
  int64_t count;

  PaddedParts(const Problem& p, const PaddingFunctions* functions);
};

// Makes the plan of a kernel for a problem with any mode of padding, or says why it has none.
Planned plan_with_padding(MakePlan make_plan, const Problem& p, const PaddingFunctions* functions);

}  // namespace convkern
