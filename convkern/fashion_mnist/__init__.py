"""Convolutional networks on Fashion-MNIST: the data, four small models, and their training."""

from convkern.fashion_mnist.data import (
    DatasetCorruptError,
    DatasetError,
    DatasetNotFoundError,
    FashionMNISTData,
    load_fashion_mnist,
    make_loaders,
    read_fashion_mnist,
)
from convkern.fashion_mnist.models import (
    CONVS,
    MODELS,
    ConvNetPadding,
    ConvNetPaddingStride,
    ConvNetPlain,
    build_convnet,
)
from convkern.fashion_mnist.training import TrainResult, test_model, train_model

__all__ = [
    "CONVS",
    "MODELS",
    "ConvNetPadding",
    "ConvNetPaddingStride",
    "ConvNetPlain",
    "DatasetCorruptError",
    "DatasetError",
    "DatasetNotFoundError",
    "FashionMNISTData",
    "TrainResult",
    "build_convnet",
    "load_fashion_mnist",
    "make_loaders",
    "read_fashion_mnist",
    "test_model",
    "train_model",
]
