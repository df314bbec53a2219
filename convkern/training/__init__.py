"""convkern.fuse_training: training steps on fused blocks.

fusions.py rewrites a graph of Dynamo to call the functions of blocks.py. Python runs it, so that
autograd records it as it records the model."""

from convkern.training.fused import FusedTraining, fuse_training, restore_training

__all__ = ["FusedTraining", "fuse_training", "restore_training"]
