"""Reads, verifies and serves Fashion-MNIST from an explicit directory, with tiny files."""

import gzip
import hashlib
import tracemalloc
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

from convkern import fashion_mnist
from convkern.fashion_mnist import loaders as loaders_module
from convkern.fashion_mnist import sources
from convkern.fashion_mnist.files import (
    SHA256,
    SIZES,
    DatasetCorruptError,
    DatasetError,
    DatasetNotFoundError,
)
from convkern.fashion_mnist.loaders import Loader
from fashion_mnist_files import (
    TEST,
    TRAIN,
    TRAIN_IMAGES,
    arrays_fixture,  # noqa: F401
    cache_fixture,  # noqa: F401
    files_fixture,  # noqa: F401
    write,
)

# --- an explicit directory -----------------------------------------------------------------


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("layout", [".", "FashionMNIST/raw"])
def test_explicit_directory_is_read(
    tmp_path: Path, arrays: dict[str, Tensor], files: dict[str, bytes], layout: str, gz: bool
) -> None:
    write(tmp_path / "mine" / layout, files, gz=gz)
    found = sources.read_fashion_mnist(tmp_path / "mine")
    assert found.source == str(tmp_path / "mine")
    for split, name, count in ((found.train, "train", TRAIN), (found.test, "t10k", TEST)):
        images, labels = split.tensors
        assert images.shape == (count, 1, 28, 28)
        assert torch.equal(images[:, 0], arrays[f"{name}-images-idx3-ubyte"] / 255)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, arrays[f"{name}-labels-idx1-ubyte"].long())


def test_plain_files_are_preferred_to_gzipped_ones(tmp_path: Path, files: dict[str, bytes]) -> None:
    write(tmp_path, dict.fromkeys(files, b"rubbish"), gz=True)
    write(tmp_path, files)
    assert len(sources.read_fashion_mnist(tmp_path).train) == TRAIN


def test_samples_equal_those_of_torchvision(tmp_path: Path, files: dict[str, bytes]) -> None:
    write(tmp_path / "FashionMNIST" / "raw", files)
    ours = sources.read_fashion_mnist(tmp_path).train
    theirs = FashionMNIST(tmp_path, transform=ToTensor())
    assert len(ours) == len(theirs)
    for (image, label), (their_image, their_label) in zip(ours, theirs, strict=True):
        assert torch.equal(image, their_image)
        assert label == their_label


def test_home_is_expanded(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine", files)
    assert sources.read_fashion_mnist("~/mine").source == str(tmp_path / "mine")


def test_a_home_of_no_user_is_not_found() -> None:
    with pytest.raises(DatasetError, match="~nosuchuser"):
        sources.read_fashion_mnist("~nosuchuser/x")


def test_explicit_directory_without_data_is_an_error_though_other_sources_have_it(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    write(sources.DEBIAN_DIRECTORY, files)
    with pytest.raises(DatasetNotFoundError) as error:
        sources.read_fashion_mnist(tmp_path / "empty")
    for part in (str(tmp_path / "empty"), "FashionMNIST/raw", ".gz", *files):
        assert part in str(error.value)


def test_error_names_only_the_missing_file(tmp_path: Path, files: dict[str, bytes]) -> None:
    write(tmp_path, files)
    (tmp_path / TRAIN_IMAGES).unlink()
    with pytest.raises(DatasetNotFoundError, match=TRAIN_IMAGES) as error:
        sources.read_fashion_mnist(tmp_path)
    assert "labels" not in str(error.value)


@pytest.mark.parametrize("gz", [False, True])
def test_wrong_content_is_named_with_both_digests(
    tmp_path: Path, files: dict[str, bytes], gz: bool
) -> None:
    wrong = files[TRAIN_IMAGES][:-1] + bytes([files[TRAIN_IMAGES][-1] ^ 1])
    write(tmp_path, files | {TRAIN_IMAGES: wrong}, gz=gz)
    with pytest.raises(DatasetCorruptError) as error:
        sources.read_fashion_mnist(tmp_path)
    path = tmp_path / (TRAIN_IMAGES + ".gz" * gz)
    found = hashlib.sha256(wrong).hexdigest()
    for part in (str(path), SHA256[TRAIN_IMAGES], found):
        assert part in str(error.value)


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "bad block", "bit flip"])
def test_broken_gzip_is_named(tmp_path: Path, files: dict[str, bytes], damage: str) -> None:
    write(tmp_path, files, gz=True)
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    whole = path.read_bytes()
    middle = len(whole) // 2
    broken = {
        "truncated": whole[:middle],
        "not gzip": b"<html>" + whole,
        "bad block": whole[:10] + b"\xff" + whole[11:],
        "bit flip": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
    }
    path.write_bytes(broken[damage])
    with pytest.raises(DatasetCorruptError, match="broken gzip") as error:
        sources.read_fashion_mnist(tmp_path)
    assert str(path) in str(error.value)
    assert SHA256[TRAIN_IMAGES] in str(error.value)


def bomb(path: Path, name: str, size: int) -> None:
    """Writes a gzip file of zeros."""
    with gzip.open(path / f"{name}.gz", "wb", compresslevel=1) as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))


@pytest.mark.parametrize("name", SHA256)
def test_a_gzip_bomb_is_not_unpacked(
    tmp_path: Path, files: dict[str, bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit on memory shows that nothing beyond the size of the data is unpacked."""
    for each in SIZES:
        monkeypatch.setitem(SIZES, each, 1 << 20)
    write(tmp_path, files, gz=True)
    bomb(tmp_path, name, 100 << 20)
    tracemalloc.start()
    with pytest.raises(DatasetCorruptError, match="found more than the data's size") as error:
        sources.read_fashion_mnist(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    assert f"{name}.gz is not the Fashion-MNIST file" in str(error.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_huge_file_is_not_read(tmp_path: Path, files: dict[str, bytes], suffix: str) -> None:
    """The file has 100 GB that take no space on the disk. gzip files may end in any number of
    zeros."""
    write(tmp_path, files, gz=bool(suffix))
    with (tmp_path / f"{TRAIN_IMAGES}{suffix}").open("r+b") as file:
        file.truncate(100 * 10**9)
    with pytest.raises(DatasetCorruptError, match="found more than the data's size"):
        sources.read_fashion_mnist(tmp_path)


def test_the_sizes_are_those_of_the_data() -> None:
    assert SIZES == {
        "train-images-idx3-ubyte": 47_040_016,
        "train-labels-idx1-ubyte": 60_008,
        "t10k-images-idx3-ubyte": 7_840_016,
        "t10k-labels-idx1-ubyte": 10_008,
    }
    assert SIZES.keys() == SHA256.keys()


# --- loaders -------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path, files: dict[str, bytes]) -> Path:
    return write(tmp_path / "tiny", files)


def order(loader: Loader) -> list[float]:
    """Identifies each sample of one epoch by its picture."""
    return [image.sum().item() for images, _ in loader for image in images]


def test_batches_have_the_promised_shapes(tiny: Path) -> None:
    train, test = fashion_mnist.load_fashion_mnist(8, 0, data_dir=tiny)
    assert [len(labels) for _, labels in train] == [8, 8, 4]
    images, labels = next(iter(test))
    assert images.shape == (TEST, 1, 28, 28)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert labels.shape == (TEST,)
    assert labels.dtype == torch.int64


def test_pictures_keep_their_labels_when_shuffled(tiny: Path) -> None:
    found = sources.read_fashion_mnist(tiny)
    label_of = {image.sum().item(): label for image, label in found.train}
    assert len(label_of) == TRAIN
    train, _ = fashion_mnist.make_loaders(found, 8, 0)
    for images, labels in train:
        assert [label_of[image.sum().item()] for image in images] == labels.tolist()


def test_test_split_keeps_its_order(tiny: Path) -> None:
    found = sources.read_fashion_mnist(tiny)
    _, test = fashion_mnist.make_loaders(found, 3, 0)
    assert order(test) == [image.sum().item() for image, _ in found.test]


def test_the_data_of_a_loader_are_the_samples(tiny: Path) -> None:
    found = sources.read_fashion_mnist(tiny)
    samples = fashion_mnist.make_loaders(found, 3, 0)[1].dataset
    for index in (2, -1, slice(1, 4), [3, 0, 3]):
        for got, expected in zip(samples[index], found.test[index], strict=True):
            assert torch.equal(got, expected), index


def test_order_depends_on_the_seed_alone(tiny: Path) -> None:
    def two_epochs(seed: int, workers: int) -> tuple[list[float], list[float]]:
        train, _ = fashion_mnist.load_fashion_mnist(8, workers, data_dir=tiny, seed=seed)
        return order(train), order(train)

    first, second = two_epochs(seed=0, workers=0)
    assert first != second
    assert sorted(first) == sorted(second)
    torch.manual_seed(99)
    assert two_epochs(seed=0, workers=1) == (first, second)
    assert two_epochs(seed=1, workers=0) != (first, second)


def test_order_without_a_seed_follows_torch(tiny: Path) -> None:
    def epoch() -> list[float]:
        train, _ = fashion_mnist.load_fashion_mnist(8, 0, data_dir=tiny)
        return order(train)

    torch.manual_seed(3)
    first = epoch()
    assert epoch() != first
    torch.manual_seed(3)
    assert epoch() == first


def test_workers_are_capped_without_a_warning(tiny: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaders = fashion_mnist.load_fashion_mnist(8, 10_000, data_dir=tiny)
    assert [loader.num_workers for loader in loaders] == [loaders_module._usable_cpus()] * 2


@pytest.mark.parametrize(("batch_size", "workers"), [(0, 0), (8, -1)])
def test_impossible_loader_settings_are_refused(tiny: Path, batch_size: int, workers: int) -> None:
    with pytest.raises(ValueError, match=r"batch_size|num_workers"):
        fashion_mnist.load_fashion_mnist(batch_size, workers, data_dir=tiny)
