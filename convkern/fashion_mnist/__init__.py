"""Convolutional networks on Fashion-MNIST: the data, four small models, and their training."""

from convkern.fashion_mnist.checkpoint import Checkpoint, Training
from convkern.fashion_mnist.files import (
    DatasetCorruptError,
    DatasetError,
    DatasetNotFoundError,
    FashionMNISTData,
)
from convkern.fashion_mnist.loaders import load_fashion_mnist, make_loaders
from convkern.fashion_mnist.models import (
    CONVS,
    MODELS,
    MODES,
    VARIANTS,
    ConvNetPadding,
    ConvNetPaddingStride,
    ConvNetPlain,
    build_convnet,
)
from convkern.fashion_mnist.parallel import Processes, torchrun_processes
from convkern.fashion_mnist.sources import read_fashion_mnist
from convkern.fashion_mnist.training import TrainResult, test_model, train_model

__all__ = [
    "CONVS",
    "MODELS",
    "MODES",
    "VARIANTS",
    "Checkpoint",
    "ConvNetPadding",
    "ConvNetPaddingStride",
    "ConvNetPlain",
    "DatasetCorruptError",
    "DatasetError",
    "DatasetNotFoundError",
    "FashionMNISTData",
    "Processes",
    "TrainResult",
    "Training",
    "build_convnet",
    "load_fashion_mnist",
    "make_loaders",
    "read_fashion_mnist",
    "test_model",
    "torchrun_processes",
    "train_model",
]
