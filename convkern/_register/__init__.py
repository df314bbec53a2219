"""Rules of the three ops that torch asks for: batching, FLOPs, sharding, ONNX. Importing a file of
this folder registers its rules, but for those of ONNX, which the user hands to torch.

The kernels, their fakes, autograd and autocast are registered by the extension, in C++.
"""
