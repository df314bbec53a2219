"""The rules that torch asks of the three ops: batching, FLOPs, sharding and ONNX. Importing a file
of this folder registers its rules. The exception is ONNX, whose rules the user hands to torch.

The extension, in C++, registers the kernels, their fakes, autograd and autocast.
"""
