"""What can be told of the real CuPy without a GPU: its names and keywords, and the compiler.

The stand-in (stand_in.py) is checked here as well: it may not offer what CuPy does not have.
"""

import ast
import inspect
import re
from functools import reduce
from pathlib import Path

import pytest

import sklearn_lenet
from sklearn_lenet._cuda.source import PIXEL_TYPES, prediction_source, training_source
from sklearn_lenet._cuda.steps import OPTIONS
from sklearn_lenet._images import ImageLayout

from . import stand_in
from .helpers import LENET, small_architecture

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")

UFUNC_KEYWORDS = {"out", "dtype", "casting"}


def find(name):
    """Look up a dotted name in CuPy; fails where it is missing."""
    return reduce(getattr, name.split("."), cupy)


def takes(function, keyword):
    """Tell whether one of CuPy's functions has a parameter of this name."""
    if isinstance(function, cupy.ufunc):
        return keyword in UFUNC_KEYWORDS
    try:
        return keyword in inspect.signature(function).parameters
    except ValueError:  # compiled: its documentation begins with its signature
        signature = "\n".join(function.__doc__.split("\n")[:3])
        return re.search(rf"\b{keyword}\b", signature) is not None


def dotted(node):
    """Give an expression like a.b.c as a list of names; None for any other."""
    names = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else None


def name_in_cupy(node):
    """Give the name in CuPy that `xp.name`, `self.xp.name` or `cuda.name` is; None for others."""
    names = dotted(node)
    if names is None:
        return None
    if "xp" in names[:-1]:
        return ".".join(names[names.index("xp") + 1 :])
    if names[0] in ("cuda", "runtime") and len(names) > 1:
        return ".".join(["cuda", *([] if names[0] == "cuda" else ["runtime"]), *names[1:]])
    return None


def uses():
    """Collect the names in CuPy that the package uses, with the keywords of its calls."""
    found = {}
    for path in Path(sklearn_lenet.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = name_in_cupy(node)
            if name:
                found.setdefault(name, set())
            if isinstance(node, ast.Call) and (name := name_in_cupy(node.func)):
                found.setdefault(name, set()).update(
                    keyword.arg for keyword in node.keywords if keyword.arg
                )
    return found


def test_uses_are_found():
    found = uses()
    assert {"matmul", "copyto", "lib.stride_tricks.as_strided", "RawModule"} <= found.keys()
    assert {"cuda.MemoryPool", "cuda.runtime.getDeviceCount"} <= found.keys()
    assert {"cuda.Device", "cuda.compiler.CompileException"} <= found.keys()
    assert found["RawModule"] == {"code", "options"}
    assert "out" in found["matmul"]


def test_every_name_and_keyword_that_is_used_exists():
    for name, keywords in uses().items():
        function = find(name)
        for keyword in keywords:
            assert takes(function, keyword), f"cupy.{name} has no {keyword!r}"


def test_stand_in_has_no_functions_of_its_own():
    for name, keywords in {**stand_in.FUNCTIONS, **stand_in.CREATORS}.items():
        for keyword in keywords:
            assert takes(find(name), keyword), f"cupy.{name} has no {keyword!r}"


def test_stand_in_has_no_cuda_of_its_own():
    """What is in modules here may be in classes there: `find` doesn't tell."""
    ours = stand_in.make_modules()[0].cuda
    modules = [("", ours), *((f"{key}.", getattr(ours, key)) for key in ("compiler", "runtime"))]
    names = {
        prefix + name
        for prefix, module in modules
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert names == set(stand_in.CUDA_NAMES)
    for name in names:
        find(f"cuda.{name}")


def device_attributes():
    """Collect the names of a device's attributes that the package uses."""
    return {
        node.slice.value
        for path in Path(sklearn_lenet.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "attributes"
    }


def test_attributes_of_devices_exist():
    """CuPy has them by their names in CUDA; what they are, only a device can tell."""
    names = device_attributes()
    assert names == {"MaxSharedMemoryPerBlockOptin", "MultiProcessorCount"}
    assert names == stand_in.Device(0).attributes.keys()
    for name in names:
        find(f"cuda.runtime.cudaDevAttr{name}")


def test_failing_compilations_have_an_error_of_their_own():
    """It is no RuntimeError, which the driver's errors and the runtime's are."""
    failed = cupy.cuda.compiler.CompileException
    assert issubclass(failed, Exception)
    assert not issubclass(failed, RuntimeError)
    assert not issubclass(stand_in.CompileException, RuntimeError)
    assert issubclass(cupy.cuda.driver.CUDADriverError, RuntimeError)


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (stand_in.ndarray, "ndarray"),
        (stand_in.Device, "cuda.Device"),
        (stand_in.Stream, "cuda.Stream"),
        (stand_in.Event, "cuda.Event"),
        (stand_in.Graph, "cuda.Graph"),
        (stand_in.MemoryPool, "cuda.MemoryPool"),
        (stand_in.RawModule, "RawModule"),
    ],
)
def test_stand_in_has_no_methods_of_its_own(ours, name):
    methods = {method for method in vars(ours) if not method.startswith("_")}
    assert methods
    assert methods <= set(dir(find(name)))


def test_import_needs_no_gpu():
    """What `device="auto"` relies on."""
    assert isinstance(cupy.cuda.is_available(), bool)
    assert issubclass(cupy.cuda.runtime.CUDARuntimeError, RuntimeError)


LAYOUT = ImageLayout((1, 28, 28), 784, 1, (1, 28, 28), 33.3, 0.01)
SMALL = small_architecture(image_shape=(3, 17, 19), stride=(2, 1), activation="sigmoid")
SMALL_LAYOUT = ImageLayout((3, 8, 9), 210, 2, (3, 17, 19), 0.5, 1.0)
SHARED = 227 * 1024  # bytes that a block can have, from compute capability 9.0 on

PREDICTIONS = {
    "LeNet": lambda: prediction_source(LENET, LAYOUT, "uint8"),
    "another": lambda: prediction_source(SMALL, SMALL_LAYOUT, "float64"),
}
TRAININGS = {
    "LeNet": lambda *cut: training_source(LENET, LAYOUT, "uint8", "NESTEROV", False, *cut),
    "another": lambda *cut: training_source(SMALL, SMALL_LAYOUT, "float64", "ADAM", True, *cut),
}


@pytest.fixture(scope="module")
def nvrtc():
    from cupy.cuda import nvrtc

    try:
        nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"NVIDIA's compiler is not installed: {error}")
    return nvrtc


def assert_compiles(nvrtc, source, architecture):
    """Compile kernels, to what a device runs."""
    program = nvrtc.createProgram(source.text, "kernels.cu", [], [])
    try:
        nvrtc.compileProgram(program, [f"--gpu-architecture={architecture}", *OPTIONS])
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    binary = nvrtc.getCUBIN(program)
    assert binary.startswith(b"\x7fELF")
    for name in source.threads:
        assert f".text.{name}\0".encode() in binary


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param("sm_75", marks=pytest.mark.slow),
        pytest.param("sm_80", marks=pytest.mark.slow),
        "sm_90",
        pytest.param("sm_100", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", PREDICTIONS)
def test_predictions_compile(nvrtc, name, architecture):
    assert_compiles(nvrtc, PREDICTIONS[name](), architecture)


@pytest.mark.parametrize(
    ("architecture", "threads"),
    [
        pytest.param("sm_75", 256, marks=pytest.mark.slow),
        pytest.param("sm_80", 512, marks=pytest.mark.slow),
        pytest.param("sm_90", 256, marks=pytest.mark.slow),
        pytest.param("sm_100", 512, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_compile(nvrtc, name, architecture, threads):
    """A block for each sample: any device can do that."""
    assert_compiles(nvrtc, TRAININGS[name](((threads, 1),), SHARED), architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_90", "sm_100"])
@pytest.mark.parametrize("most_shared", [100 * 1024, SHARED])
@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_in_clusters_compile(nvrtc, name, architecture, most_shared):
    """Two blocks for each sample, which have the dense layers' weights in shared memory, or not."""
    assert_compiles(nvrtc, TRAININGS[name](((512, 2),), most_shared), architecture)


@pytest.mark.slow
@pytest.mark.parametrize("pixels", PIXEL_TYPES)
def test_kernels_compile_for_every_type_of_pixels(nvrtc, pixels):
    sources = (
        prediction_source(LENET, LAYOUT, pixels),
        training_source(LENET, LAYOUT, pixels, "NESTEROV", False, ((512, 2),), SHARED),
    )
    for source in sources:
        assert_compiles(nvrtc, source, "sm_90")
