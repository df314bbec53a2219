// What the choice of tiles knows of a device.
#pragma once

namespace convkern::cuda {

struct DeviceProperties {
  int multiprocessors;
};

}  // namespace convkern::cuda
