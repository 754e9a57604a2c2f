"""The loaders: where the data comes from, what it is, and every refusal."""

import gzip
import os
import struct
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

import sklearn_lenet
from sklearn_lenet.datasets import (
    load_idx,
    load_image_folder,
    load_mnist,
    load_mnist_sample,
)

PLAIN = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}
DOTTED = {kind: name.replace("-idx", ".idx") for kind, name in PLAIN.items()}


def idx(array, *, dtype=8, shape=None):
    """The bytes of an IDX file; dtype and shape replace what its header should say."""
    shape = array.shape if shape is None else shape
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, dtype, len(shape), *shape)
    return header + array.astype(np.uint8).tobytes()


def make_arrays(seed=0):
    """A small MNIST: 5 training and 3 test images."""
    rng = np.random.default_rng(seed)
    return {
        "train images": rng.integers(0, 256, (5, 28, 28), dtype=np.uint8),
        "train labels": np.array([3, 1, 4, 1, 5], dtype=np.uint8),
        "test images": rng.integers(0, 256, (3, 28, 28), dtype=np.uint8),
        "test labels": np.array([9, 2, 6], dtype=np.uint8),
    }


def write(directory, arrays, names=PLAIN, gz=False):
    """Write the arrays as IDX files, and return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for kind, array in arrays.items():
        path = directory / (names[kind] + ".gz" * gz)
        path.write_bytes(gzip.compress(idx(array)) if gz else idx(array))
    return directory


@contextmanager
def memory_below(n_bytes):
    """Fail if Python and NumPy take more than that inside."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < n_bytes


def rows(images):
    """The set of the images, as bytes."""
    return {image.tobytes() for image in images}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """A developer's own data must not answer for a missing file, nor OpenML be asked."""

    def fetch_openml(*args, **kwargs):
        raise AssertionError("fetch_openml was called")

    monkeypatch.delenv("SKLEARN_LENET_DATA", raising=False)
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch_openml)


@pytest.fixture
def arrays():
    return make_arrays()


@pytest.fixture(scope="session")
def mnist_directory():
    """The directory of the real MNIST (read before no_environment hides it)."""
    directory = os.environ.get("SKLEARN_LENET_DATA")
    if not directory:
        pytest.skip("needs the real MNIST: set SKLEARN_LENET_DATA to the directory of its files")
    return directory


# load_mnist: what it returns


@pytest.mark.parametrize("names", [PLAIN, DOTTED], ids=["dash", "dot"])
@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("below", [".", "MNIST/raw"])
def test_finds_and_reads_the_files(tmp_path, arrays, names, gz, below):
    write(tmp_path / below, arrays, names, gz)
    mnist = load_mnist(tmp_path)
    images = np.concatenate([arrays["train images"], arrays["test images"]])
    np.testing.assert_array_equal(mnist.images, images)
    np.testing.assert_array_equal(mnist.data, images.reshape(8, 784))
    np.testing.assert_array_equal(mnist.target, [3, 1, 4, 1, 5, 9, 2, 6])


def test_bunch(tmp_path, arrays):
    mnist = load_mnist(str(write(tmp_path, arrays)))
    assert mnist.data.dtype == np.uint8
    assert mnist.target.dtype == np.int64
    assert np.shares_memory(mnist.data, mnist.images)
    np.testing.assert_array_equal(mnist.target_names, range(10))
    assert len(mnist.feature_names) == 784
    row, column = 20, 7
    feature = mnist.feature_names.index(f"pixel_{row}_{column}")
    np.testing.assert_array_equal(mnist.data[:, feature], mnist.images[:, row, column])
    assert "LeCun" in mnist.DESCR
    assert "CC BY-SA 3.0" in mnist.DESCR


@pytest.mark.parametrize("subset", ["train", "test"])
def test_subset(tmp_path, arrays, subset):
    mnist = load_mnist(write(tmp_path, arrays), subset=subset)
    np.testing.assert_array_equal(mnist.images, arrays[f"{subset} images"])
    np.testing.assert_array_equal(mnist.target, arrays[f"{subset} labels"])


def test_subset_needs_no_files_of_the_other(tmp_path, arrays):
    test_files = {kind: array for kind, array in arrays.items() if kind.startswith("test")}
    write(tmp_path, test_files)
    assert load_mnist(tmp_path, subset="test").data.shape == (3, 784)


@pytest.mark.parametrize("subset", ["all", "train", "test"])
def test_return_X_y(tmp_path, arrays, subset):
    write(tmp_path, arrays)
    X, y = load_mnist(tmp_path, subset=subset, return_X_y=True)
    mnist = load_mnist(tmp_path, subset=subset)
    np.testing.assert_array_equal(X, mnist.data)
    np.testing.assert_array_equal(y, mnist.target)


@pytest.mark.parametrize("subset", ["all", "train", "test"])
def test_the_arrays_can_be_written_to(tmp_path, arrays, subset):
    X, y = load_mnist(write(tmp_path, arrays), subset=subset, return_X_y=True)
    assert X.flags.writeable
    assert y.flags.writeable


# load_mnist: where it looks


def test_environment_variable(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv("SKLEARN_LENET_DATA", str(write(tmp_path, arrays)))
    np.testing.assert_array_equal(load_mnist(subset="test").images, arrays["test images"])


def test_data_home_comes_before_the_environment_variable(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv("SKLEARN_LENET_DATA", str(write(tmp_path / "other", make_arrays(seed=1))))
    mnist = load_mnist(write(tmp_path / "mine", arrays), subset="test")
    np.testing.assert_array_equal(mnist.images, arrays["test images"])


def test_home_directory_is_expanded(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path / "mnist", arrays)
    assert load_mnist("~/mnist").data.shape == (8, 784)


def test_plain_and_gzipped_side_by_side(tmp_path, arrays):
    write(tmp_path / "raw", arrays)
    write(tmp_path / "raw", arrays, gz=True)
    np.testing.assert_array_equal(
        load_mnist(tmp_path, subset="train").images, arrays["train images"]
    )


def test_directory_itself_comes_before_those_below(tmp_path, arrays):
    write(tmp_path, arrays)
    write(tmp_path / "Fashion", make_arrays(seed=1))
    np.testing.assert_array_equal(load_mnist(tmp_path, subset="test").images, arrays["test images"])


def test_each_file_in_a_directory_of_its_own_name(tmp_path, arrays):
    for kind, array in arrays.items():
        write(tmp_path / PLAIN[kind], {kind: array})
    assert load_mnist(tmp_path).data.shape == (8, 784)
    # They count as lying in the directory itself, before those of a set below it.
    write(tmp_path / "Fashion", make_arrays(seed=1))
    np.testing.assert_array_equal(load_mnist(tmp_path, subset="test").images, arrays["test images"])


def test_upper_case_names(tmp_path, arrays):
    names = {kind: name.upper() + ".GZ" for kind, name in PLAIN.items()}
    write(tmp_path, arrays, names)
    assert load_mnist(tmp_path).data.shape == (8, 784)


def test_empty_data_home_is_none(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv("SKLEARN_LENET_DATA", str(write(tmp_path, arrays)))
    assert load_mnist("", subset="test").data.shape == (3, 784)


def test_images_and_labels_of_one_directory(tmp_path, arrays):
    """Where one has all files, those that lie alone elsewhere are not taken for a part of it."""
    write(tmp_path / "complete", arrays)
    write(tmp_path, {"test labels": np.zeros(3, np.uint8)})
    np.testing.assert_array_equal(load_mnist(tmp_path, subset="test").target, arrays["test labels"])


def test_images_and_labels_of_two_directories(tmp_path, arrays):
    """Those of two half downloads, which may well be of two data sets, are not put together."""
    write(tmp_path / "one", {kind: arrays[kind] for kind in arrays if "images" in kind})
    write(tmp_path / "other", {kind: arrays[kind] for kind in arrays if "labels" in kind})
    with pytest.raises(FileNotFoundError, match=r"none has all of t10k.*one, .*other") as error:
        load_mnist(tmp_path, subset="test")
    assert "Images and labels have to come from one" in str(error.value)


def test_two_data_sets_below_the_directory(tmp_path, arrays):
    write(tmp_path / "FashionMNIST" / "raw", make_arrays(seed=1))
    write(tmp_path / "MNIST" / "raw", arrays)
    with pytest.raises(ValueError, match=r"Expected one directory .*FashionMNIST.*MNIST") as error:
        load_mnist(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_unpacked_file_that_kept_its_gz(tmp_path, arrays):
    names = {kind: name + ".gz" for kind, name in PLAIN.items()}
    write(tmp_path, arrays, names)
    assert load_mnist(tmp_path).data.shape == (8, 784)


@pytest.mark.parametrize(
    ("subset", "expected"),
    [("all", slice(None)), ("train", slice(60_000)), ("test", slice(60_000, None))],
)
@pytest.mark.parametrize("environment", [None, ""], ids=["unset", "empty"])
def test_falls_back_to_openml(monkeypatch, subset, expected, environment):
    digits = np.repeat([5, 8], [60_000, 10_000])

    def fetch_openml(name, *, version, as_frame, parser, return_X_y):
        assert (name, version) == ("mnist_784", 1)
        # "auto" and "pandas" would need pandas
        assert (as_frame, parser, return_X_y) == (False, "liac-arff", True)
        X = np.broadcast_to(digits[:, np.newaxis].astype(np.float64), (70_000, 784))
        return X, digits.astype(str).astype(object)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch_openml)
    if environment is not None:
        monkeypatch.setenv("SKLEARN_LENET_DATA", environment)
    X, y = load_mnist(subset=subset, return_X_y=True)
    assert X.dtype == np.uint8
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, digits[expected])
    assert X.shape == (len(y), 784)
    np.testing.assert_array_equal(X[:, 300], digits[expected])


# load_mnist: what it refuses


@pytest.mark.parametrize("load", [load_mnist, load_mnist_sample])
@pytest.mark.parametrize("subset", ["validation", None, ["train"]])
def test_bad_subset(load, subset):
    with pytest.raises(ValueError, match=rf"The 'subset' parameter of {load.__name__} must be"):
        load(subset=subset)


def test_bad_data_home():
    with pytest.raises(TypeError, match=r"data_home must be an instance of .* not int"):
        load_mnist(60_000)


@pytest.mark.parametrize("from_environment", [False, True])
def test_missing_files(tmp_path, arrays, monkeypatch, from_environment):
    del arrays["train labels"], arrays["test images"]
    write(tmp_path, arrays)
    data_home = tmp_path
    if from_environment:
        monkeypatch.setenv("SKLEARN_LENET_DATA", str(tmp_path))
        data_home = None
    with pytest.raises(FileNotFoundError) as error:
        load_mnist(data_home)
    message = str(error.value)
    assert repr(str(tmp_path)) in message
    assert "SKLEARN_LENET_DATA" in message
    assert "train*1-ubyte" in message
    assert "t10k*3-ubyte" in message
    assert "train*3-ubyte" not in message
    assert "t10k*1-ubyte" not in message


def test_missing_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_home='.*nowhere': there is no such dir"):
        load_mnist(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"data_home='~nosuchuser/mnist': this user's home"):
        load_mnist("~nosuchuser/mnist")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"data_home='.*file' is a file"):
        load_mnist(tmp_path / "file")


def test_missing_directory_in_the_environment(monkeypatch):
    monkeypatch.setenv("SKLEARN_LENET_DATA", "~nosuchuser/mnist")
    with pytest.raises(FileNotFoundError, match=r"^SKLEARN_LENET_DATA='~nosuchuser/mnist': "):
        load_mnist()


@pytest.mark.parametrize("name", ["archive.zip", "MNIST.tar.gz", "mnist.TAR"])
def test_archive_that_is_not_unpacked(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=rf"{name}' is an archive: unpack it, and give"):
        load_mnist(path)
    with pytest.raises(FileNotFoundError, match=rf"Unpack the archive .*{name}, or give"):
        load_mnist(tmp_path)


def test_labels_that_are_no_digits(tmp_path, arrays):
    arrays["test labels"][1] = 10
    path = write(tmp_path, arrays) / PLAIN["test labels"]
    with pytest.raises(ValueError, match="expected labels from 0 to 9, got 10, at 1") as error:
        load_mnist(tmp_path)
    assert str(path) in str(error.value)


IMAGES = np.zeros((5, 28, 28), dtype=np.uint8)
BAD_IMAGES = {
    "nothing": (b"", "is not an IDX file .* expected it to start with 00 00 08 03, got nothing"),
    "a web page": (b"<html>", "is not an IDX file .* 00 00 08 03, got 3c 68 74 6d"),
    "floats": (idx(IMAGES, dtype=13), "is not an IDX file .* 00 00 08 03, got 00 00 0d 03"),
    "labels": (idx(IMAGES.ravel()), "is not an IDX file .* in 3 dim.* 08 03, got 00 00 08 01"),
    "half a header": (idx(IMAGES)[:10], "is truncated: expected a header of 16 bytes, got 10"),
    "truncated": (
        idx(IMAGES)[:-1],
        r"is truncated: expected 3920 bytes of data for the shape \(5, 28, 28\).* got 3919",
    ),
    "trailing bytes": (idx(IMAGES) + b"\n", "has trailing bytes: expected 3920 bytes.* got more"),
    "a page": (b"\n<!DOCTYPE html><html>", "is not an IDX file .* It is a web page"),
    "a page with a mark": ("\ufeff<!DOCTYPE html>".encode(), "got ef bb .* It is a web page"),
    "a zip archive": (b"PK\x03\x04" + bytes(99), "It is a zip archive: unpack it first"),
    "a tar archive": (bytes(257) + b"ustar" + bytes(99), "It is a tar archive: unpack it first"),
    "no images": (idx(IMAGES[:0]), r"is empty: .* got shape \(0, 28, 28\)"),
    "an impossible shape": (idx(IMAGES[:0], shape=(0, 2**32 - 1, 2**32 - 1)), "is empty"),
    "other pixels": (idx(np.zeros((5, 32, 16))), "expected images of 28 x 28 pixels, got 32 x 16"),
}


@pytest.mark.parametrize(("content", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gz"])
def test_bad_images(tmp_path, arrays, content, message, gz):
    write(tmp_path, arrays, gz=gz)
    path = tmp_path / (PLAIN["train images"] + ".gz" * gz)
    path.write_bytes(gzip.compress(content) if gz else content)
    with pytest.raises(ValueError, match=message) as error:
        load_mnist(tmp_path)
    assert str(path) in str(error.value)


def test_images_in_place_of_labels(tmp_path, arrays):
    write(tmp_path, arrays)
    path = tmp_path / PLAIN["test labels"]
    path.write_bytes(idx(arrays["test images"]))
    with pytest.raises(ValueError, match=r"in 1 dim.* 00 00 08 01, got 00 00 08 03") as error:
        load_mnist(tmp_path)
    assert str(path) in str(error.value)


def test_numbers_of_images_and_labels_differ(tmp_path, arrays):
    arrays["test labels"] = arrays["test labels"][:2]
    write(tmp_path, arrays)
    with pytest.raises(ValueError, match=r"got 3 images in .* and 2 labels in") as error:
        load_mnist(tmp_path)
    assert str(tmp_path / PLAIN["test images"]) in str(error.value)
    assert str(tmp_path / PLAIN["test labels"]) in str(error.value)


def flip_a_bit(packed):
    middle = len(packed) // 2
    return packed[:middle] + bytes([packed[middle] ^ 1]) + packed[middle + 1 :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[:-20],
        flip_a_bit,
        lambda packed: packed[:10] + b"\xff" * 50,
        lambda packed: packed + b"more",
    ],
    ids=["truncated", "wrong checksum", "not deflated", "trailing bytes"],
)
def test_corrupt_gzip(tmp_path, arrays, spoil):
    write(tmp_path, arrays, gz=True)
    path = tmp_path / (PLAIN["train images"] + ".gz")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match="is a corrupt gzip file") as error:
        load_mnist(tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gz"])
def test_memory_does_not_follow_a_hostile_header(tmp_path, arrays, gz):
    write(tmp_path, arrays, gz=gz)
    content = idx(IMAGES, shape=(2**32 - 1, 28, 28))
    path = tmp_path / (PLAIN["train images"] + ".gz" * gz)
    path.write_bytes(gzip.compress(content) if gz else content)
    message = "is truncated: expected 3367254359280 bytes"
    with memory_below(2**20), pytest.raises(ValueError, match=message):
        load_mnist(tmp_path)


# load_mnist_sample


@pytest.mark.parametrize(("subset", "n_samples"), [("all", 6000), ("train", 5000), ("test", 1000)])
def test_sample(subset, n_samples):
    sample = load_mnist_sample(subset=subset)
    assert sample.data.shape == (n_samples, 784)
    assert sample.data.dtype == np.uint8
    assert sample.images.shape == (n_samples, 28, 28)
    assert sample.target.shape == (n_samples,)
    assert sample.target.dtype == np.int64
    np.testing.assert_array_equal(sample.target_names, np.unique(sample.target))
    assert len(sample.feature_names) == 784
    X, y = load_mnist_sample(subset=subset, return_X_y=True)
    np.testing.assert_array_equal(X, sample.data)
    np.testing.assert_array_equal(y, sample.target)


def test_sample_attribution():
    description = load_mnist_sample().DESCR
    for word in ("LeCun", "Cortes", "Burges", "Attribution-ShareAlike 3.0", "subset"):
        assert word in description


def test_sample_of_all_is_train_then_test():
    X, y = load_mnist_sample(return_X_y=True)
    for subset, part in (("train", slice(5000)), ("test", slice(5000, None))):
        X_part, y_part = load_mnist_sample(subset=subset, return_X_y=True)
        np.testing.assert_array_equal(X[part], X_part)
        np.testing.assert_array_equal(y[part], y_part)


def test_sample_repeats_no_image():
    assert len(rows(load_mnist_sample().images)) == 6000


# How often each digit stands in the 60,000 and the 10,000 of MNIST
N_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
N_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize(
    ("subset", "counts", "part"), [("train", N_TRAIN, 12), ("test", N_TEST, 10)]
)
def test_sample_has_the_class_balance_of_mnist(subset, counts, part):
    y = load_mnist_sample(subset=subset).target
    assert np.abs(np.bincount(y) - np.array(counts) / part).max() < 1


@pytest.mark.parametrize("subset", ["train", "test"])
def test_sample_is_in_random_order(subset):
    # Each tenth of the rows is then about as mixed as the whole.
    for labels in np.split(load_mnist_sample(subset=subset).target, 10):
        assert len(np.unique(labels)) == 10


def test_real_mnist(mnist_directory):
    mnist = load_mnist(mnist_directory)
    assert mnist.data.shape == (70_000, 784)
    np.testing.assert_array_equal(np.bincount(mnist.target[:60_000]), N_TRAIN)
    np.testing.assert_array_equal(np.bincount(mnist.target[60_000:]), N_TEST)
    # The mean and the standard deviation by which MNIST is commonly standardized
    pixels = mnist.data[:60_000] / np.float32(255)
    np.testing.assert_allclose([pixels.mean(), pixels.std()], [0.1307, 0.3081], atol=1e-4)


@pytest.mark.parametrize(("subset", "other"), [("train", "test"), ("test", "train")])
def test_sample_rows_are_of_the_same_set_of_mnist(mnist_directory, subset, other):
    def labelled(X, y):
        return {(image.tobytes(), digit) for image, digit in zip(X, y.tolist(), strict=True)}

    sample = labelled(*load_mnist_sample(subset=subset, return_X_y=True))
    assert sample <= labelled(*load_mnist(mnist_directory, subset=subset, return_X_y=True))
    assert not sample & labelled(*load_mnist(mnist_directory, subset=other, return_X_y=True))


def test_sample_is_what_its_script_makes(mnist_directory, tmp_path, monkeypatch):
    from sklearn_lenet.datasets._make_sample import make_sample

    monkeypatch.setenv("SKLEARN_LENET_DATA", mnist_directory)
    once, again = tmp_path / "once", tmp_path / "again"
    for directory in (once, again):
        directory.mkdir()
        make_sample(directory)
    shipped = Path(str(resources.files("sklearn_lenet.datasets"))) / "data"
    names = sorted(path.name for path in shipped.glob("*.gz"))
    assert names == sorted(path.name for path in once.iterdir())
    for name in names:
        assert (once / name).read_bytes() == (again / name).read_bytes()
        # Unpacked: another build of zlib may pack the same bytes otherwise.
        assert gzip.decompress((once / name).read_bytes()) == gzip.decompress(
            (shipped / name).read_bytes()
        )


@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gz"])
def test_memory_does_not_follow_what_lies_behind_the_end(tmp_path, arrays, gz):
    """A small file may unpack to a large one; a sparse one takes no room on the disk."""
    write(tmp_path, arrays, gz=gz)
    path = tmp_path / (PLAIN["train images"] + ".gz" * gz)
    if gz:
        path.write_bytes(gzip.compress(idx(IMAGES) + bytes(100 * 2**20), 1))
    else:
        with path.open("ab") as file:
            file.truncate(2**30)
    with memory_below(4 * 2**20), pytest.raises(ValueError, match="has trailing bytes"):
        load_mnist(tmp_path)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("train images", (1, 8000, 8000), "expected images of 28 x 28 pixels, got 8000 x 8000"),
        ("train labels", (64_000_000,), "got 5 images in .* and 64000000 labels in"),
    ],
)
def test_no_more_than_the_header_is_read_where_it_does_not_fit(
    tmp_path, arrays, kind, shape, message
):
    write(tmp_path, arrays)
    content = gzip.compress(idx(IMAGES[:0], shape=shape) + bytes(64_000_000), 1)
    (tmp_path / PLAIN[kind]).write_bytes(content)
    with memory_below(4 * 2**20), pytest.raises(ValueError, match=message):
        load_mnist(tmp_path)


# load_idx

TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 2), (2, 3, 4), (1, 2, 1, 2), (1,) * 63 + (2,)])
@pytest.mark.parametrize("code", TYPES)
def test_any_array(tmp_path, code, shape, gz):
    # From below zero where the type goes there, and of more than a byte where it has more
    low, high = (0, 256) if code == 8 else (-128, 128) if code == 9 else (-30_000, 30_000)
    expected = np.asarray(np.random.default_rng(0).integers(low, high, shape)).astype(TYPES[code])
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)
    content = header + expected.tobytes()
    path = tmp_path / "array"
    path.write_bytes(gzip.compress(content) if gz else content)
    actual = load_idx(str(path))
    np.testing.assert_array_equal(actual, expected)
    assert actual.dtype == expected.dtype.newbyteorder("=")
    assert actual.dtype.isnative
    actual[...] = 0  # it can be written to


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file: .* got nothing"),
        (b"\0\0\x0a\x01" + bytes(8), "is not an IDX file: .* got 00 00 0a 01"),
        (b"PK\x03\x04", "It is a zip archive"),
        (gzip.compress(gzip.compress(idx(IMAGES), mtime=0), mtime=0), "It is gzipped twice"),
        (gzip.compress(idx(IMAGES), mtime=0)[:-9], "is a corrupt gzip file, cut off"),
        (idx(IMAGES)[:-1], "is truncated: expected 3920 bytes"),
        (idx(IMAGES) + b"x", "has trailing bytes: expected 3920 bytes"),
        (idx(IMAGES[:1, :1, :1], shape=(1,) * 65), "dimension for an ndarray .* found 65"),
    ],
)
def test_what_is_no_idx_file(tmp_path, content, message):
    path = tmp_path / "array.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_idx(path)
    assert str(path) in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_idx(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"path='~nosuchuser/array': this user's home"):
        load_idx("~nosuchuser/array")


@pytest.mark.parametrize("load", [load_idx, load_image_folder])
def test_bad_path(load):
    with pytest.raises(TypeError, match=r"path must be an instance of .* not int"):
        load(5)
    with pytest.raises(FileNotFoundError, match=r"path='' is no path"):
        load("")


def test_home_directory_is_expanded_for_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "array").write_bytes(idx(IMAGES))
    assert load_idx("~/array").shape == (5, 28, 28)


def test_memory_of_a_large_array(tmp_path):
    """It is taken once, also where the bytes of numbers change places."""
    path = tmp_path / "array.gz"
    path.write_bytes(gzip.compress(idx(IMAGES[:0], dtype=12, shape=(2**22,)) + bytes(2**24), 1))
    with memory_below(1.3 * 2**24):
        assert load_idx(path).nbytes == 2**24


def test_memory_of_a_bomb(tmp_path):
    path = tmp_path / "array.gz"
    path.write_bytes(gzip.compress(idx(IMAGES) + bytes(100 * 2**20), 1))
    with memory_below(4 * 2**20), pytest.raises(ValueError, match="has trailing bytes"):
        load_idx(path)


# load_image_folder


@pytest.fixture
def pictures(tmp_path):
    """Give a function that writes a picture: of pixels, into the folder of a class."""
    Image = pytest.importorskip("PIL.Image", reason="needs Pillow")

    def write(name, pixels, mode=None, **parameters):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels)
        (picture if mode is None else picture.convert(mode)).save(path, **parameters)

    return write


def test_grey_pictures(tmp_path, pictures):
    expected = np.random.default_rng(0).integers(0, 256, (4, 6, 5)).astype(np.uint8)
    for name, pixels in zip(["b/2.png", "a/9.png", "a/10.png", "b/1.png"], expected, strict=True):
        pictures(name, pixels)
    pictures(".hidden/1.png", expected[0])
    (tmp_path / "a" / ".DS_Store").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture, and in no class's folder")
    found = load_image_folder(str(tmp_path))
    np.testing.assert_array_equal(found.images, expected[[2, 1, 3, 0]])
    np.testing.assert_array_equal(found.target, [0, 0, 1, 1])
    assert found.images.dtype == np.uint8
    assert found.target.dtype == np.int64
    np.testing.assert_array_equal(found.data, found.images.reshape(4, 30))
    assert np.shares_memory(found.data, found.images)
    assert found.target_names == ["a", "b"]
    assert [Path(name).name for name in found.filenames] == ["10.png", "9.png", "1.png", "2.png"]
    images, target = load_image_folder(tmp_path, return_X_y=True)
    np.testing.assert_array_equal(images, found.images)
    np.testing.assert_array_equal(target, found.target)


def test_pictures_in_colour(tmp_path, pictures):
    """Channels come first; one picture in colour is enough."""
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    pictures("a/1.png", colours)
    pictures("a/2.png", colours, "RGBA")
    pictures("b/1.png", colours[..., 0])
    images = load_image_folder(tmp_path).images
    assert images.shape == (3, 3, 6, 5)
    assert images.flags.c_contiguous
    for image in images[:2]:
        np.testing.assert_array_equal(image, colours.transpose(2, 0, 1))
    np.testing.assert_array_equal(images[2], np.stack([colours[..., 0]] * 3))


def test_sizes_of_pictures(tmp_path, pictures):
    pictures("a/1.png", np.zeros((6, 5), np.uint8))
    pictures("b/1.png", np.full((8, 9), 200, np.uint8))
    message = r"b.1.png has 8 x 9 pixels, and .*a.1.png has 6 x 5: .* Pass size=\(height, width\)"
    with pytest.raises(ValueError, match=message):
        load_image_folder(tmp_path)
    images = load_image_folder(tmp_path, size=(4, 7)).images
    assert images.shape == (2, 4, 7)
    assert [set(image.ravel()) for image in images] == [{0}, {200}]


@pytest.mark.parametrize("size", [32, (32,), (0, 5), (5, 10_001), (5.5, 5), (True, 5), "55"])
def test_bad_size(tmp_path, size):
    message = r"The 'size' parameter of load_image_folder must be a tuple \(height, width\) of two"
    with pytest.raises(ValueError, match=message) as error:
        load_image_folder(tmp_path, size=size)
    assert f"Got {size!r}" in str(error.value)


def test_the_first_picture_of_another_size_ends_the_reading(tmp_path, pictures):
    pictures("a/1.png", np.zeros((6, 5), np.uint8))
    pictures("a/2.png", np.zeros((6, 6), np.uint8))
    (tmp_path / "a" / "3.png").write_bytes(b"never looked at")
    with pytest.raises(ValueError, match=r"2.png has 6 x 6 pixels, and .*1.png has 6 x 5"):
        load_image_folder(tmp_path)


def test_sizes_from_numpy(tmp_path, pictures):
    pictures("a/1.png", np.zeros((6, 5), np.uint8))
    assert load_image_folder(tmp_path, size=tuple(np.array([4, 7]))).images.shape == (1, 4, 7)


def test_transparent_pixels_are_white(tmp_path, pictures):
    """What is drawn in black on nothing shows: there, too, the pixels are black."""
    ink = np.zeros((6, 5), np.uint8)
    ink[2:4, 1] = 255
    black = np.zeros((6, 5), np.uint8)
    pictures("a/1.png", np.stack([black, black, black, ink], axis=-1))
    pictures("a/2.png", np.stack([black, ink], axis=-1))
    pictures("a/3.png", ink, "P", transparency=bytes([0] + [255] * 255))  # a palette's entry
    pictures("a/4.png", ink, transparency=0)  # a grey value
    images = load_image_folder(tmp_path).images
    for image in images[:2]:
        np.testing.assert_array_equal(image, np.stack([255 - ink] * 3))
    for image in images[2:]:
        assert (image == 255).all()
    for name in ("1.png", "3.png"):
        (tmp_path / "a" / name).unlink()
    images = load_image_folder(tmp_path).images
    np.testing.assert_array_equal(images[0], 255 - ink)  # grey pictures stay grey


def test_pictures_of_one_bit(tmp_path, pictures):
    pictures("a/1.png", np.eye(5, dtype=bool))
    np.testing.assert_array_equal(load_image_folder(tmp_path).images[0], 255 * np.eye(5))


def test_pictures_stand_as_the_camera_notes(tmp_path, pictures):
    from PIL import Image

    pixels = np.arange(30, dtype=np.uint8).reshape(6, 5)
    turned = Image.Exif()
    turned[0x0112] = 6  # Orientation: to be turned by 90 degrees, clockwise
    pictures("a/1.png", pixels, exif=turned)
    np.testing.assert_array_equal(load_image_folder(tmp_path).images[0], np.rot90(pixels, -1))


def test_what_are_no_pictures(tmp_path, pictures):
    pictures("a/1.png", np.zeros((6, 5), np.uint8))
    other = tmp_path / "a" / "2.png"
    other.write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"2.png is no picture that Pillow can read"):
        load_image_folder(tmp_path)
    pictures("a/2.png", np.random.default_rng(0).integers(0, 256, (60, 50)).astype(np.uint8))
    other.write_bytes(other.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"2.png cannot be read as a picture: "):
        load_image_folder(tmp_path)
    pictures("a/2.png", np.zeros((6, 5), np.uint16))
    with pytest.raises(ValueError, match=r"2.png has pixels of more than 8 bits"):
        load_image_folder(tmp_path)


def test_a_picture_too_large_for_pillow(tmp_path, pictures, monkeypatch):
    from PIL import Image

    pictures("a/1.png", np.zeros((60, 50), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"1.png cannot be read as a picture: .*3000 pixels"):
        load_image_folder(tmp_path)


def test_folders_without_pictures(tmp_path, pictures):
    with pytest.raises(FileNotFoundError, match=r"path='.*nowhere': there is no such directory"):
        load_image_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"path='~nosuchuser/pictures': this user's home"):
        load_image_folder("~nosuchuser/pictures")
    pictures("1.png", np.zeros((6, 5), np.uint8))
    with pytest.raises(FileNotFoundError, match=r"expected a folder for each class"):
        load_image_folder(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"path='.*1.png' is a file: give the folder"):
        load_image_folder(tmp_path / "1.png")
    (tmp_path / "pictures.zip").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"pictures.zip' is an archive: unpack it"):
        load_image_folder(tmp_path / "pictures.zip")


def test_a_class_without_pictures(tmp_path, pictures):
    pictures("a/1.png", np.zeros((6, 5), np.uint8))
    (tmp_path / "b").mkdir()
    with pytest.raises(FileNotFoundError, match=r"b has no picture for its class"):
        load_image_folder(tmp_path)


def test_a_folder_too_high(tmp_path, pictures):
    """The folders of classes lie a level below, or lie in one another."""
    pictures("train/a/1.png", np.zeros((6, 5), np.uint8))
    with pytest.raises(
        ValueError, match=r"Expected pictures in .*train, got the folder .*a\. path"
    ):
        load_image_folder(tmp_path)


def test_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"needs Pillow: python -m pip install '\.\[images\]'"):
        load_image_folder(tmp_path)


def test_pillow_is_imported_only_for_pictures():
    code = "import sys, sklearn_lenet.datasets; assert 'PIL' not in sys.modules"
    directory = Path(sklearn_lenet.__file__).parents[1]
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=directory, check=True)
