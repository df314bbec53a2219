"""convkern.fuse_training: training steps on fused blocks.

A graph of Dynamo is rewritten by fusions.py to call the functions of blocks.py, and is run by
Python, so that autograd records it as it records the model."""

from convkern.training.fused import FusedTraining, fuse_training, restore_training

__all__ = ["FusedTraining", "fuse_training", "restore_training"]
