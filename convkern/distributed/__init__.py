"""Convolutions whose tensors are spread over several processes.

Importing this package tells DTensor how convkern's ops may be sharded
(:mod:`convkern.distributed.sharding`); `convkern.conv2d` and `convkern.Conv2d` import it when the
first DTensor comes by, so only calls of `torch.ops.convkern` and compiled functions need it done by
hand. DistributedDataParallel and fully_shard give the layers plain tensors and need nothing here.
"""

from convkern.distributed.rows import conv2d_sharded_rows
from convkern.distributed.sharding import register_sharding

__all__ = ["conv2d_sharded_rows", "register_sharding"]

register_sharding()
