"""A stand-in for CuPy, on NumPy's arrays, that refuses what CuPy refuses.

It has the names that the package uses, with the keywords that CuPy takes, and no others. Its arrays
turn into NumPy's by `get` alone, and mix with none. What reads a value on the host behind a user's
back (`float(array)`, `if array:`) is recorded in `hidden_reads`. While a stream captures, copies
from and to the host, matrix products, random numbers and waiting are refused. Arrays are refused
where another device than theirs is the current one.

It says nothing about speed, nor about CUDA itself: work is done when it is asked for. Copies by
`set` alone are looked at until somebody waits for them: if what they read changes or goes before,
that is recorded in `torn`. That work waits for other streams' work, or that a stream belongs to the
current device, it can't show.
"""

import operator
import sys
import threading
import weakref
from contextlib import contextmanager
from functools import partial
from types import ModuleType

import numpy as np

from .emulation import Emulation

SCALARS = (bool, int, float, complex, np.generic)

UFUNCS = [
    "absolute",
    "add",
    "bitwise_and",
    "divide",
    "equal",
    "exp",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "isfinite",
    "left_shift",
    "less",
    "log",
    "logical_and",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "sqrt",
    "square",
    "subtract",
    "tanh",
]

# Names, and the keywords that CuPy has for them
FUNCTIONS = {
    **{name: {"out", "dtype", "casting"} for name in UFUNCS},
    "clip": {"out"},
    "concatenate": {"axis", "out"},
    "copyto": {"casting"},
    "matmul": {"out"},
    "max": {"axis", "out"},
    "result_type": set(),
    "sum": {"axis", "dtype", "out"},
    "take": {"axis", "out"},
}
CREATORS = {
    "arange": {"dtype"},
    "array": {"dtype"},
    "asarray": {"dtype"},
    "ascontiguousarray": {"dtype"},
    "empty": {"dtype"},
    "empty_like": {"dtype"},
    "full": {"dtype"},
    "ones": {"dtype"},
    "ones_like": {"dtype"},
    "zeros": {"dtype"},
    "zeros_like": {"dtype"},
}
METHODS = [
    "all",
    "any",
    "argmax",
    "astype",
    "copy",
    "fill",
    "get",
    "item",
    "max",
    "min",
    "ravel",
    "reshape",
    "set",
    "squeeze",
    "sum",
    "swapaxes",
    "transpose",
    "view",
]

# What real code must have that runs on this stand-in: see test_cupy.py
CUDA_NAMES = [
    "Device",
    "Event",
    "MemoryPool",
    "Stream",
    "compiler.CompileException",
    "get_current_stream",
    "runtime.CUDARuntimeError",
    "runtime.getDevice",
    "runtime.getDeviceCount",
    "runtime.memGetInfo",
    "using_allocator",
]


class CUDARuntimeError(RuntimeError):
    pass


class CompileException(Exception):
    pass


class Capturing(RuntimeError):
    pass


class Memory:
    """What an allocator gives, on the current device; counted while anything refers to it."""

    def __init__(self, pool, n_bytes):
        self.n_bytes, self.device = n_bytes, STATE.current.devices[-1]
        pool._remember(self)


class MemoryPool:
    """A pool; it needs no callback at an array's end, in which an interrupt would be lost."""

    def __init__(self):
        self._references, self._enough = [], 1000

    @property
    def _in_use(self):
        return [memory for reference in self._references if (memory := reference()) is not None]

    def _remember(self, memory):
        if len(self._references) > self._enough:
            self._references = [weakref.ref(memory) for memory in self._in_use]
            self._enough = 2 * len(self._references) + 1000
        self._references.append(weakref.ref(memory))

    def malloc(self, n_bytes):
        return Memory(self, n_bytes)

    def used_bytes(self):
        return sum(memory.n_bytes for memory in self._in_use)

    def free_all_blocks(self):
        pass


class Pointer:
    def __init__(self, ptr):
        self.ptr = ptr


class Copy:
    """A copy from the host that is under way until somebody waits for it."""

    def __init__(self, source):
        while isinstance(source.base, np.ndarray):
            source = source.base
        self.source, self.content = weakref.ref(source), source.tobytes()

    def finish(self):
        """See whether the source, or what it is a part of, still is what it was."""
        source = self.source()
        if self.content is not None and (source is None or source.tobytes() != self.content):
            STATE.torn.append("gone" if source is None else "changed")
        self.content = None


class Event:
    def __init__(self):
        self.copies = []

    def record(self, stream=None):
        self.copies = list((stream or STATE.current.streams[-1]).copies)

    def synchronize(self):
        STATE.refuse_while_capturing("waiting for an event")
        for copy in self.copies:
            copy.finish()


class Graph:
    """The launches that a stream captured."""

    def __init__(self, launches):
        self.launches = launches

    def launch(self, stream=None):
        STATE.graph_launches += 1
        for launch in self.launches:
            launch()

    def upload(self, stream=None):
        pass


class Stream:
    def __init__(self, non_blocking=False):
        self.non_blocking, self.captured, self.ptr = non_blocking, None, id(self)
        self.copies = []

    def __enter__(self):
        STATE.current.streams.append(self)
        return self

    def __exit__(self, *exception):
        assert STATE.current.streams.pop() is self

    def synchronize(self):
        STATE.refuse_while_capturing("waiting for a stream")
        self._finish()

    def _finish(self):
        while self.copies:
            self.copies.pop(0).finish()

    def is_capturing(self):
        return self.captured is not None

    def begin_capture(self, mode=None):
        assert self.non_blocking
        if STATE.capture_fails:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported")
        self.captured = []

    def end_capture(self):
        captured, self.captured = self.captured, None
        STATE.graphs.append(Graph(captured))
        return STATE.graphs[-1]


class Device:
    compute_capability = "90"

    def __init__(self, device):
        self.id = device

    @property
    def attributes(self):
        return {
            "MaxSharedMemoryPerBlockOptin": STATE.shared_bytes,
            "MultiProcessorCount": STATE.n_multiprocessors,
        }

    def __enter__(self):
        STATE.current.devices.append(self.id)
        return self

    def __exit__(self, *exception):
        STATE.current.devices.pop()


class Current(threading.local):
    """What is current, in each thread."""

    def __init__(self, allocator):
        self.devices, self.allocators, self.streams = [0], [allocator], [Stream()]


class State:
    """What has been seen, and what is to be seen."""

    def __init__(self):
        self.n_devices, self.free_bytes = 2, 2**33
        self.default_pool = MemoryPool()
        self.current = Current(self.default_pool.malloc)
        self.hidden_reads, self.downloads, self.pools = [], [], []
        # Copies that went wrong, and sizes of what copies from the host leave pinned for good
        self.torn, self.left_pinned = [], []
        self.graph_launches = self.launches = 0
        self.capture_fails, self.compilation_fails = False, None
        self.shared_bytes, self.n_multiprocessors = 227 * 1024, 132
        self.graphs = []

    def refuse_while_capturing(self, what):
        if self.current.streams[-1].is_capturing():
            raise Capturing(f"{what} is not allowed while capturing")

    def read_behind_the_back(self, how):
        self.refuse_while_capturing(how)
        self.hidden_reads.append(how)


STATE = State()


def wrap(result, memory=None):
    """Make an array of the stand-in's; 0-d results stay arrays, as CuPy's do."""
    if isinstance(result, tuple):
        return tuple(map(wrap, result))
    if isinstance(result, np.ndarray | np.generic):
        return ndarray(np.asarray(result), memory)
    return result


def unwrap(value):
    if isinstance(value, ndarray):
        value._check_device()
        return value._array
    if value is None or isinstance(value, SCALARS):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def unwrap_index(index):
    if isinstance(index, tuple):
        return tuple(map(unwrap_index, index))
    if isinstance(index, range | list):
        STATE.refuse_while_capturing("an index from the host")
        return list(index)
    if index is None or index is Ellipsis or isinstance(index, slice | int | np.integer):
        return index
    return unwrap(index)


class ndarray:
    """An array on the device."""

    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, array, memory=None):
        self._array = array
        self._memory = memory or STATE.current.allocators[-1](array.nbytes)

    def __array__(self, *arguments, **keywords):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct "
            "a NumPy array explicitly."
        )

    def __array_function__(self, *arguments, **keywords):
        raise TypeError("a function of NumPy's got an array of CuPy's")

    for _name in ("shape", "dtype", "size", "ndim", "nbytes", "itemsize", "strides", "flags"):
        locals()[_name] = property(lambda self, name=_name: getattr(self._array, name))

    @property
    def T(self):
        return self._view(self._array.T)

    @property
    def device(self):
        return Device(self._memory.device)

    @property
    def data(self):
        return Pointer(self._array.ctypes.data)

    def _view(self, array):
        """Wrap an array that may or may not share this one's memory."""
        if np.may_share_memory(array, self._array):
            return ndarray(array, self._memory)
        self._check_device()
        return ndarray(array)

    def _check_device(self):
        """Refuse what CuPy refuses, or warns of, as the devices have access to each other or not.

        It does neither for `get`, `item` and `set`, but has them wait for the wrong stream.
        """
        current = STATE.current.devices[-1]
        if self._memory.device != current:
            raise ValueError(
                f"The device where the array resides ({self._memory.device}) is different from the "
                f"current device ({current})."
            )

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"<stand-in {self._array!r}>"

    def __getitem__(self, index):
        array = self._array[unwrap_index(index)]
        if array.ndim == 0 and not isinstance(array, np.ndarray):
            index = index if isinstance(index, tuple) else (index,)
            array = self._array[(*unwrap_index(index), ...)]
        return self._view(array)

    def __setitem__(self, index, value):
        unwrap(self)[unwrap_index(index)] = unwrap(value)

    def __float__(self):
        STATE.read_behind_the_back("float")
        return float(self._array)

    def __int__(self):
        STATE.read_behind_the_back("int")
        return int(self._array)

    __index__ = __int__

    def __bool__(self):
        STATE.read_behind_the_back("bool")
        return bool(self._array)

    def get(self):
        STATE.refuse_while_capturing("get")
        STATE.downloads.append(self.nbytes)
        STATE.current.streams[-1]._finish()
        return unwrap(self).copy()

    def item(self):
        STATE.refuse_while_capturing("item")
        STATE.downloads.append(self.itemsize)
        STATE.current.streams[-1]._finish()
        return unwrap(self).item()

    def set(self, array, stream=None):
        STATE.refuse_while_capturing("set")
        assert type(array) is np.ndarray
        assert (array.shape, array.dtype) == (self.shape, self.dtype)
        assert array.flags.c_contiguous
        assert self.flags.c_contiguous
        unwrap(self)[...] = array
        (stream or STATE.current.streams[-1]).copies.append(Copy(array))

    def fill(self, value):
        unwrap(self).fill(unwrap(value))

    def copy(self):
        return ndarray(unwrap(self).copy())

    def astype(self, dtype, copy=True):
        return self._view(self._array.astype(dtype, copy=copy))


def _method(name):
    allowed = {"axis", "dtype", "out", "keepdims"}

    def method(self, *arguments, **keywords):
        assert keywords.keys() <= allowed, keywords
        out = keywords.get("out")
        keywords = {key: unwrap(v) if key == "out" else v for key, v in keywords.items()}
        with np.errstate(all="ignore"):
            result = getattr(self._array, name)(*arguments, **keywords)
        return out if out is not None else self._view(np.asarray(result))

    return method


for _name in METHODS:
    if _name not in vars(ndarray):
        setattr(ndarray, _name, _method(_name))


def _operator(name, reflected=False, in_place=False):
    function = np.errstate(all="ignore")(getattr(operator, name))

    def binary(self, other):
        if not isinstance(other, (ndarray, *SCALARS)):
            raise TypeError(f"Unsupported type {type(other)}")
        if name == "matmul":
            STATE.refuse_while_capturing("matmul")
        if in_place:
            function(unwrap(self), unwrap(other))
            return self
        a, b = unwrap(self), unwrap(other)
        return wrap(function(b, a) if reflected else function(a, b))

    return binary


_COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge"]
_ARITHMETIC = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_"]
for _name in _COMPARISONS + _ARITHMETIC:
    _dunder = _name.strip("_")
    setattr(ndarray, f"__{_dunder}__", _operator(_name))
    if _name in _ARITHMETIC:
        setattr(ndarray, f"__r{_dunder}__", _operator(_name, reflected=True))
        if _name != "matmul":
            setattr(ndarray, f"__i{_dunder}__", _operator(f"i{_dunder}", in_place=True))
ndarray.__neg__ = lambda self: wrap(-unwrap(self))


def _call(name, *arguments, **keywords):
    """Call NumPy's function of this name."""
    if not keywords.keys() <= FUNCTIONS[name]:
        raise TypeError(f"{name} takes no {keywords.keys() - FUNCTIONS[name]}")
    if name == "matmul":
        STATE.refuse_while_capturing("matmul")
    if name == "concatenate":
        return wrap(np.concatenate(list(map(unwrap, arguments[0])), **keywords))
    if name == "result_type":
        return np.result_type(*arguments)
    out = keywords.get("out")
    keywords = {key: unwrap(v) if key == "out" else v for key, v in keywords.items()}
    if name == "take":  # no index that CuPy would wrap is an accident
        assert unwrap(arguments[1]).min(initial=0) >= 0
    if name in ("sum", "max"):
        arguments = [*map(unwrap, arguments[:1]), *arguments[1:]]
    else:
        arguments = list(map(unwrap, arguments))
    with np.errstate(all="ignore"):  # a GPU knows no such warnings
        result = getattr(np, name)(*arguments, **keywords)
    return out if out is not None else wrap(result)


def _create(name, *arguments, **keywords):
    """Make an array; from one of NumPy's or a list, that is a copy from the host."""
    assert keywords.keys() <= CREATORS[name], keywords
    first, *others = arguments
    if isinstance(first, ndarray):
        result = getattr(np, name)(first._array, *others, **keywords)
        return first if result is first._array else first._view(result)
    if name in ("array", "asarray", "ascontiguousarray"):
        STATE.refuse_while_capturing("a copy from the host")
        array = np.array(first, *others, **keywords)
        STATE.left_pinned.append(1 << (array.nbytes - 1).bit_length())
    else:
        assert not name.endswith("_like"), type(first)
        array = getattr(np, name)(*arguments, **keywords)
    if array.dtype.kind not in "?biufc" or not array.dtype.isnative or array.itemsize > 16:
        raise ValueError(f"Unsupported dtype {array.dtype}")
    if name.startswith("empty") and array.dtype.kind == "f":
        array.fill(np.nan)  # nobody may rely on what is there
    return ndarray(array)


def _as_strided(x, shape=None, strides=None):
    return x._view(np.lib.stride_tricks.as_strided(x._array, shape, strides))


@contextmanager
def _using_allocator(allocator=None):
    STATE.current.allocators.append(allocator)
    try:
        yield
    finally:
        STATE.current.allocators.pop()


def _new_pool():
    pool = MemoryPool()
    STATE.pools.append(pool)
    return pool


class RawModule:
    """Kernels, compiled for the host."""

    def __init__(self, *, code, options=()):
        self.code = code

    def compile(self):
        if STATE.compilation_fails:
            raise STATE.compilation_fails
        self.emulation = Emulation.of(self.code)

    def get_function(self, name):
        if not hasattr(self, "emulation"):
            self.compile()
        return Function(self.emulation, name)


class Function:
    """A kernel. Without leave, a block gets no more shared memory than any device has."""

    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, emulation, name):
        self.emulation, self.name = emulation, name

    def __call__(self, grid, block, arguments, shared_mem=0):
        assert shared_mem <= self.max_dynamic_shared_size_bytes <= STATE.shared_bytes, self.name
        pointers = []
        for argument in arguments:
            assert isinstance(argument, ndarray | np.generic), (self.name, type(argument))
            if isinstance(argument, ndarray):
                assert argument.flags.c_contiguous, self.name
                argument = np.uintp(argument.data.ptr)
            pointers.append(argument)
        launch = partial(self.emulation.launch, self.name, grid, block, pointers, shared_mem)
        captured = STATE.current.streams[-1].captured
        if captured is not None:
            captured.append(launch)
        else:
            STATE.launches += 1
            launch()


def make_modules():
    """Make the modules cupy and cupyx, with a state of their own."""
    global STATE
    STATE = State()
    cupy, cupyx = ModuleType("cupy"), ModuleType("cupyx")
    for name in FUNCTIONS:
        setattr(cupy, name, partial(_call, name))
    for name in CREATORS:
        setattr(cupy, name, partial(_create, name))
    cupy.ndarray, cupy.inf, cupy.RawModule = ndarray, np.inf, RawModule
    cupy.lib = ModuleType("cupy.lib")
    cupy.lib.stride_tricks = ModuleType("cupy.lib.stride_tricks")
    cupy.lib.stride_tricks.as_strided = _as_strided
    cupy.cuda = ModuleType("cupy.cuda")
    cupy.cuda.runtime = ModuleType("cupy.cuda.runtime")
    cupy.cuda.compiler = ModuleType("cupy.cuda.compiler")
    cupy.cuda.compiler.CompileException = CompileException
    cupy.cuda.runtime.CUDARuntimeError = CUDARuntimeError
    cupy.cuda.runtime.getDeviceCount = lambda: STATE.n_devices
    cupy.cuda.runtime.getDevice = lambda: STATE.current.devices[-1]
    cupy.cuda.runtime.memGetInfo = lambda: (STATE.free_bytes, 2**34)
    cupy.cuda.MemoryPool, cupy.cuda.using_allocator = _new_pool, _using_allocator
    cupy.cuda.Device, cupy.cuda.Stream, cupy.cuda.Event = Device, Stream, Event
    cupy.cuda.get_current_stream = lambda: STATE.current.streams[-1]
    cupy.state = STATE
    cupyx.empty_pinned = np.empty
    return cupy, cupyx


def install(monkeypatch):
    """Have the stand-in take CuPy's place; returns it."""
    cupy, cupyx = make_modules()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", cupyx)
    return cupy
