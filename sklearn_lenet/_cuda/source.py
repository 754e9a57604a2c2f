"""The source of the CUDA kernels: what of it depends on the network.

`forward.cu` and `training.cu` have the kernels as templates over the layers' sizes. Here those
sizes are written, with what follows from them: where each array stands in a block's shared memory,
and how the work is cut among its threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from itertools import pairwise
from math import ceil, gcd
from typing import Any

import numpy as np

from .._images import ImageLayout
from .._layers import ConvPoolShape
from .._network import Architecture

# Types of `X`, in NumPy and in C
PIXEL_TYPES = {
    "bool": "bool",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long",
    "uint64": "unsigned long long",
    "float32": "float",
    "float64": "double",
}

WARP = 32

# Columns of a block of "update", and the parts that their sums are cut in
_UPDATED, _PARTS = 64, 4

# Samples that go through the dense layers at once in prediction, which read their weights once
_SAMPLES = 4

# Numbers that a thread keeps in registers: kernels times places of a window; channels times pixels
_MOST_SUMS, _TILE, _CHANNELS, _COLUMNS = 16, 8, 6, 14


@dataclass(frozen=True)
class Source:
    """Kernels of one network, to be compiled.

    Attributes
    ----------
    text : str
        CUDA C++.
    threads : dict of int
        By a kernel's name: threads of each block.
    shared_bytes : dict of int
        By a kernel's name: memory that a block's threads share.
    ranks : int
        Blocks of a cluster.
    """

    text: str
    threads: dict[str, int]
    shared_bytes: dict[str, int]
    ranks: int = 1


def wide_type(pixels: str) -> str:
    """Name the type in which the mean is taken off the pixels, as NumPy would choose it."""
    is_double = np.result_type(np.dtype(pixels), np.float32) == np.float64
    return "double" if is_double else "float"


def convolution_parameters(architecture: Architecture) -> tuple[int, int]:
    """Count the convolutions' weights and biases."""
    shapes = architecture.convolutions()
    n_weights = sum(s.out_channels * s.in_channels * s.kernel_size**2 for s in shapes)
    return n_weights, sum(s.out_channels for s in shapes)


def dense_sizes(architecture: Architecture) -> list[int]:
    """Sizes of the dense layers' input, and of their outputs."""
    last = architecture.convolutions()[-1]
    flat = last.out_channels * last.out_height * last.out_width
    return [flat, *architecture.hidden_layer_sizes, architecture.n_classes]


def row_lengths(architecture: Architecture) -> tuple[int, int]:
    """Count what a sample leaves for the dense layers' gradients: inputs, gradients of outputs."""
    sizes = dense_sizes(architecture)
    return sum(map(_in_fours, sizes[:-1])), sum(map(_in_fours, sizes[1:]))


def update_blocks(architecture: Architecture) -> int:
    """Count the blocks of the kernel "update"."""
    n_blocks = ceil(sum(convolution_parameters(architecture)) / _UPDATED)
    for n_inputs, n_outputs in pairwise(dense_sizes(architecture)):
        n_blocks += ceil((n_inputs + 1) / _UPDATED) * ceil(n_outputs / _PARTS)
    return n_blocks


@lru_cache(maxsize=32)
def prediction_source(architecture: Architecture, layout: ImageLayout, pixels: str) -> Source:
    """Write the kernel "predict".

    Parameters
    ----------
    architecture : Architecture
    layout : ImageLayout
    pixels : str
        Name of the type of `X`.
    """
    plan = _Plan(architecture, threads=256, ranks=1, samples=_SAMPLES, trains=False)
    text = [*_preamble(plan, layout, pixels), *map(_template, ("forward.cu", "prediction.cu"))]
    return Source("\n".join(text), {"predict": plan.threads}, {"predict": 4 * plan.size})


@lru_cache(maxsize=32)
def training_source(
    architecture: Architecture,
    layout: ImageLayout,
    pixels: str,
    solver: str,
    averages: bool,
    cuts: tuple[tuple[int, int], ...],
    most_shared: int,
) -> Source | None:
    """Write the kernels "gradients" and "update" of a training step.

    Parameters
    ----------
    architecture : Architecture
    layout : ImageLayout
    pixels : str
        Name of the type of `X`.
    solver : {"SGD", "NESTEROV", "ADAM"}
    averages : bool
        Whether the weights' moving average is kept.
    cuts : tuple of (threads, ranks)
        Threads of a block, a multiple of 32, and blocks that take a sample together, as a cluster;
        the best first.
    most_shared : int
        Bytes of shared memory that a block can have.

    Returns
    -------
    source : Source or None
        For the first cut that fits into the shared memory; None if none does.
    """
    plan = next((plan for plan in _plans(architecture, cuts) if 4 * plan.size <= most_shared), None)
    if plan is None:
        return None
    states, grads = row_lengths(architecture)
    n_weights, n_biases = convolution_parameters(architecture)
    parameters = {
        "WEIGHTS": architecture.n_weights,
        "CONVOLUTION_WEIGHTS": n_weights,
        "CONVOLUTIONS": n_weights + n_biases,
    }
    text = [
        *_preamble(plan, layout, pixels),
        "constexpr int SGD = 0, NESTEROV = 1, ADAM = 2;",
        f"constexpr int OPTIMIZER = {solver};",
        f"constexpr bool AVERAGES = {str(averages).lower()};",
        f"constexpr int UPDATED = {_UPDATED}, PARTS = {_PARTS};",
        _struct("Parameters", parameters),
        _struct("Rows", {"STATES": states, "GRADS": grads}),
        *map(_template, ("forward.cu", "training.cu")),
    ]
    if plan.ranks == 1:  # devices before compute capability 9.0 know no clusters
        text[-1] = text[-1].replace("__cluster_dims__(RANKS, 1, 1) ", "")
    return Source(
        "\n".join(text),
        {"gradients": plan.threads, "update": _PARTS * _UPDATED},
        {"gradients": 4 * plan.size, "update": 4 * _PARTS**2 * _UPDATED},
        plan.ranks,
    )


def _plans(architecture: Architecture, cuts: tuple[tuple[int, int], ...]) -> Iterator["_Plan"]:
    """Plan the training, for each cut with less and less shared memory."""
    for threads, ranks in cuts:
        for keeps_weights in (True, False) if ranks > 1 else (False,):
            for most_splits in (16, 2, 1):
                yield _Plan(
                    architecture,
                    threads,
                    ranks,
                    samples=1,
                    trains=True,
                    keeps_weights=keeps_weights,
                    most_splits=most_splits,
                )


class _Plan:
    """Where a network's arrays stand in shared memory, and how work is cut.

    Parameters
    ----------
    architecture : Architecture
    threads, ranks, samples : int
    trains : bool
    keeps_weights : bool, default=False
        Whether the dense layers' weights stay in shared memory between forward and back.
    most_splits : int, default=16
        Parts of the maps' rows in the gradient of the weights, at most: their sums take memory.

    Attributes
    ----------
    convolutions, dense : list of dict
        The constants of each layer.
    shared : dict
        Those of the block.
    size : int
        Numbers in shared memory.
    """

    def __init__(
        self,
        architecture: Architecture,
        threads: int,
        ranks: int,
        samples: int,
        trains: bool,
        keeps_weights: bool = False,
        most_splits: int = 16,
    ) -> None:
        self.threads, self.ranks, self.samples, self.trains = threads, ranks, samples, trains
        self.architecture, self.size = architecture, 0
        self._most_splits, self._n_exchanges = most_splits, 0
        self.convolutions = [self._convolution(s) for s in architecture.convolutions()]
        self.shared = {"CLEARED": self.size, "CLASSES": architecture.n_classes}
        self.dense = [self._dense(*sizes) for sizes in pairwise(dense_sizes(architecture))]
        self._connect_convolutions()
        self._connect_dense(keeps_weights)
        n_biases = architecture.n_parameters - architecture.n_weights
        self.shared |= {
            "KEEPS_WEIGHTS": int(keeps_weights),
            "LOGITS": self.dense[-1]["OUTPUT"],
            "BIASES": self._place(n_biases),
            "N_BIASES": n_biases,
            "FIRST_BIAS": architecture.n_weights,
        }
        n_barriers = self._n_exchanges if ranks > 1 else 0
        self.shared |= {"BARRIERS": self._place(2 * n_barriers), "N_BARRIERS": n_barriers}
        if trains:
            self._place_scratch()

    def _place(self, n_numbers: int) -> int:
        """Give an array its place; all begin at a multiple of 16 bytes."""
        begin = self.size
        self.size += _in_fours(n_numbers)
        return begin

    def _exchange(self, happens: bool = True) -> int:
        """Give a number to what the blocks of a cluster exchange; -1 where they don't."""
        self._n_exchanges += happens
        return self._n_exchanges - 1 if happens else -1

    def _convolution(self, shape: ConvPoolShape) -> dict[str, Any]:
        """Choose the cut of a convolution, and place its arrays."""
        k, p, stride = shape.kernel_size, shape.pool_size, shape.stride
        map_h, map_w = p * shape.out_height, p * shape.out_width
        group, splits, row_splits = _cheapest_cut(
            shape, self.ranks, self._most_splits if self.trains else 0
        )
        pitch, plane = _pitch_and_plane(shape)
        tile = ceil(shape.width / ceil(shape.width / _TILE))
        margin = _in_fours(max(k - 1 - shape.padding, 0))
        reach = shape.padding + ceil(shape.width / tile) * tile if stride == 1 else 0
        map_pitch = _in_twos(margin + max(map_w, reach))
        # Lanes that have neighbouring kernels read from neighbouring pairs of banks
        map_plane = map_h * map_pitch
        map_plane += (2 - map_plane) % WARP
        constants = {
            "C_IN": shape.in_channels,
            "H": shape.height,
            "W": shape.width,
            "C_OUT": shape.out_channels,
            "K": k,
            "STRIDE": stride,
            "PADDING": shape.padding,
            "POOL": p,
            "OUT_H": shape.out_height,
            "OUT_W": shape.out_width,
            "PITCH": pitch,
            "PLANE": plane,
            "GROUP": group,
            "SPLITS": splits,
            "ROW_SPLITS": row_splits,
            "COLUMNS": max(n for n in range(1, _COLUMNS + 1) if map_w % n == 0),
            "TILE": tile,
            "LANES": min(WARP, 1 << (shape.out_channels - 1).bit_length()),
            "MARGIN": margin,
            "MAP_PITCH": map_pitch,
            "MAP_PLANE": map_plane,
        }
        constants["IMAGE"] = self._place(shape.in_channels * constants["PLANE"])
        constants["MAPS"] = self._place(shape.out_channels * map_plane) if self.trains else 0
        return constants

    def _dense(self, n_inputs: int, n_outputs: int) -> dict[str, Any]:
        # Small layers take less time than the blocks' waiting for each other
        is_shared = self.ranks > 1 and n_inputs * n_outputs > 4096
        return {
            "IN": n_inputs,
            "OUT": n_outputs,
            "EXCHANGE": self._exchange(is_shared),
            "EXCHANGE_BACK": self._exchange(is_shared),
        }

    def _connect_convolutions(self) -> None:
        """Say where each convolution's parameters, output and gradients stand."""
        activation = self.architecture.activation.upper()
        n_weights, _ = convolution_parameters(self.architecture)
        weight, bias, features = 0, 0, self.dense[0]["IN"]
        input_grad, own_before = 0, 1
        following = [*self.convolutions[1:], None]
        for i, (layer, next_) in enumerate(zip(self.convolutions, following, strict=True)):
            vector = 4 if layer["GROUP"] == 3 else layer["GROUP"]
            n_of_group = layer["C_IN"] * layer["K"] ** 2 * vector
            layer |= {
                "IS_FIRST": int(i == 0),
                "IS_LAST": int(next_ is None),
                "EXCHANGE": self._exchange(),
                "EXCHANGE_BACK": self._exchange(i > 1),
                "WEIGHTS": self._place(n_of_group * ceil(layer["C_OUT"] / layer["GROUP"])),
                "MAX_POOLING": int(self.architecture.pooling == "max"),
                "ACTIVATION": activation,
                "WEIGHT": weight,
                "BIAS": bias,
                "PARTIAL_BIAS": n_weights + bias,
                "INPUT_GRAD": input_grad,
                "OUTPUT_SAMPLE": 0,
            }
            weight += layer["C_OUT"] * layer["C_IN"] * layer["K"] ** 2
            bias += layer["C_OUT"]
            if next_ is not None:
                inside = next_["PADDING"] * (next_["PITCH"] + 1)
                layer["OUTPUT"] = next_["IMAGE"] + inside
                layer["OUTPUT_PLANE"], layer["OUTPUT_PITCH"] = next_["PLANE"], next_["PITCH"]
            else:
                layer["OUTPUT"] = self._place(self.samples * features)
                layer["OUTPUT_PLANE"] = layer["OUT_H"] * layer["OUT_W"]
                layer["OUTPUT_PITCH"], layer["OUTPUT_SAMPLE"] = layer["OUT_W"], features
            # Channels that a rank has of the input's gradient: its kernels of the layer before
            layer["CHANNELS"] = ceil(own_before / ceil(own_before / _CHANNELS))
            own_before = ceil(ceil(layer["C_OUT"] / layer["GROUP"]) / self.ranks) * layer["GROUP"]
            n_outputs = layer["C_OUT"] * layer["OUT_H"] * layer["OUT_W"]
            input_grad = self._place(n_outputs) if self.trains else 0
            layer["OUTPUT_GRAD"] = input_grad

    def _connect_dense(self, keeps_weights: bool) -> None:
        """Say where each dense layer's parameters, input, output and gradients stand."""
        weight, n_biases = convolution_parameters(self.architecture)
        first_weight, bias = weight, n_biases
        last = self.convolutions[-1]
        place, input_grad, state, grad = last["OUTPUT"], last["OUTPUT_GRAD"], 0, 0
        activation = self.architecture.activation.upper()
        for i, layer in enumerate(self.dense):
            n_inputs, n_outputs = layer["IN"], layer["OUT"]
            is_last = i == len(self.dense) - 1
            n_own = ceil(n_outputs / self.ranks) if layer["EXCHANGE"] >= 0 else n_outputs
            vector = gcd(4, weight - first_weight, n_inputs)
            layer |= {
                "WEIGHT": weight,
                "BIAS": bias,
                "INPUT": place,
                "INPUT_GRAD": input_grad,
                "ACTIVATION": "NONE" if is_last else activation,
                "INPUT_ACTIVATION": "NONE" if i == 0 else activation,
                "STATE": state,
                "GRAD": grad,
                # Numbers that a load takes: rows begin at a multiple of them
                "VECTOR": vector,
                # Parts of the outputs in the input's gradient
                "SPLITS": max(min(self.threads * vector // n_inputs, ceil(n_own / 4), 8), 1),
                "IS_KEPT": int(keeps_weights),
                "WEIGHTS": self._place(n_own * n_inputs) if keeps_weights else 0,
            }
            place = layer["OUTPUT"] = self._place(self.samples * n_outputs)
            input_grad = self._place(n_outputs) if self.trains and not is_last else place
            layer["OUTPUT_GRAD"] = input_grad
            weight, bias = weight + n_inputs * n_outputs, bias + n_outputs
            state, grad = state + _in_fours(n_inputs), grad + _in_fours(n_outputs)

    def _place_scratch(self) -> None:
        """Place what the parts of sums are written to.

        A block may be a layer ahead of another of its cluster, and write to it: every second of the
        layers that they share has the same memory, and those that they don't share have their own.
        """
        sizes, uses, n_shared = [0, 0, 0], [], 0
        for layer in reversed(self.dense):
            uses.append(n_shared % 2 if layer["EXCHANGE"] >= 0 else 2)
            n_shared += layer["EXCHANGE"] >= 0
            n_parts = layer["SPLITS"] * (self.ranks if layer["EXCHANGE"] >= 0 else 1)
            sizes[uses[-1]] = max(sizes[uses[-1]], _in_fours(n_parts * layer["IN"]))
        of_warps = max(map(_input_gradient_tile, self.convolutions[1:]), default=0)
        of_warps = _in_fours(of_warps * self.threads // WARP)
        scratch = self.size
        of_weights = scratch + of_warps
        for layer in self.convolutions:
            n_pairs, group = layer["C_IN"] * layer["K"], layer["GROUP"]
            n_own = ceil(ceil(layer["C_OUT"] / group) / self.ranks) * group * n_pairs * layer["K"]
            layer["SCRATCH"] = of_weights
            of_weights += _in_fours(n_own * layer["ROW_SPLITS"] * max(WARP // n_pairs, 1))
        self._place(max(sum(sizes), of_weights - scratch))
        for layer, use in zip(reversed(self.dense), uses, strict=True):
            layer["SCRATCH"] = scratch + sum(sizes[:use])
        self.shared["SCRATCH"] = scratch


def _cheapest_cut(shape: ConvPoolShape, ranks: int, most_splits: int) -> tuple[int, int, int]:
    """Choose how a convolution is cut, by a count of a multiprocessor's cycles.

    Its four schedulers start one multiplication of a warp in a cycle each, and all of them together
    one load from shared memory. By itself, a warp waits some eight cycles for each of its loads.

    Returns
    -------
    group : int
        Kernels that a thread computes at once.
    splits : int
        Parts of the input's channels in the forward pass, added up by neighbouring lanes.
    row_splits : int
        Parts of the maps' rows in the gradient of the weights, added up in shared memory.
    """
    k, p, n_inputs = shape.kernel_size, shape.pool_size, shape.in_channels
    n_places = shape.out_height * shape.out_width
    map_h, map_w = p * shape.out_height, p * shape.out_width
    window = (p - 1) * shape.stride + k
    per_warp = max(WARP // (n_inputs * k), 1)

    def cycles(n_warps: int, n_products: int, n_loads: int) -> int:
        of_scheduler = ceil(n_warps / 4) * (n_products + n_loads)
        return max(of_scheduler, n_warps * n_loads, n_products + 8 * n_loads)

    def forward(group: int, splits: int) -> float:
        own = ceil(ceil(shape.out_channels / group) / ranks)
        channels, n_shuffled = ceil(n_inputs / splits), group * p**2 * (splits.bit_length() - 1)
        return cycles(
            ceil(n_places * own * splits / WARP),
            channels * (k * p) ** 2 * group + 2 * n_shuffled,
            channels * (window**2 + k**2 // 2) + n_shuffled,
        )

    def weight_gradient(group: int, row_splits: int) -> float:
        own = ceil(ceil(shape.out_channels / group) / ranks)
        rows = ceil(map_h / (row_splits * per_warp))
        time = cycles(
            own * ceil(n_inputs * k / WARP) * row_splits,
            rows * map_w * k * group,
            rows * (map_w + k + map_w * group // 2),
        )
        sums = own * group * n_inputs * k**2
        return time + 4 * row_splits * per_warp * sums // WARP

    cuts = []
    for group in (1, 2, 3, 4):
        if group > shape.out_channels or (group > 1 and group * p**2 > _MOST_SUMS):
            continue
        splits = min(
            (n for n in (1, 2, 4, 8) if n <= n_inputs),
            key=lambda n: forward(group, n),
        )
        row_splits, time = 1, forward(group, splits)
        if most_splits:  # 0: there is no way back
            row_splits = min(
                range(1, min(map_h, most_splits) + 1),
                key=lambda n: weight_gradient(group, n),
            )
            time += weight_gradient(group, row_splits)
        cuts.append((time, group, splits, row_splits))
    return min(cuts)[1:]


def _pitch_and_plane(shape: ConvPoolShape) -> tuple[int, int]:
    """Choose the length of an image's rows in shared memory, and of a channel.

    They are the shortest even ones at which fewest threads of a half warp read from the same pair
    of banks: threads with a pooling window each, or with a row of a kernel each.
    """
    p, k, half = shape.pool_size, shape.kernel_size, WARP // 2
    y, x = np.divmod(np.arange(half), shape.out_width)
    c, u = np.divmod(np.arange(min(half, shape.in_channels * k)), k)

    def conflicts(lengths: tuple[int, int]) -> int:
        pitch, plane = lengths
        reads = (y * pitch + x) * p * shape.stride, c * plane + u * pitch
        return sum(int(np.bincount(places // 2 % half).max()) for places in reads)

    width, height = (n + 2 * shape.padding for n in (shape.width, shape.height))
    pitches = range(_in_twos(width), _in_twos(width) + 16, 2)
    lengths = ((n, height * n + more) for n in pitches for more in range(0, WARP, 2))
    return min(lengths, key=conflicts)


def _input_gradient_tile(constants: dict[str, int]) -> int:
    """Count the numbers that a warp of the input's gradient has in scratch memory."""
    return constants["CHANNELS"] * constants["TILE"] * WARP // constants["LANES"]


def _in_fours(n: int) -> int:
    return n + -n % 4


def _in_twos(n: int) -> int:
    return n + n % 2


def _preamble(plan: _Plan, layout: ImageLayout, pixels: str) -> list[str]:
    """Write the constants that both sources begin with."""
    C, H, W = layout.image_shape
    _, height, width = layout.canvas_shape
    images = {
        "C": C,
        "H": H,
        "W": W,
        "ZOOM": layout.zoom,
        "TOP": (height - H * layout.zoom) // 2,
        "LEFT": (width - W * layout.zoom) // 2,
        "N_FEATURES": layout.n_features,
    }
    convolutions = [f"Conv{i}" for i in range(len(plan.convolutions))]
    dense = [f"Dense{i}" for i in range(len(plan.dense))]
    lists = {
        "Convolutions": convolutions,
        "ConvolutionsBackwards": convolutions[::-1],
        "DenseLayers": dense,
        "DenseLayersBackwards": dense[::-1],
    }
    return [
        "constexpr int NONE = 0, RELU = 1, TANH = 2, SIGMOID = 3;",
        f"constexpr int WARP = {WARP};",
        f"constexpr int THREADS = {plan.threads};",
        f"constexpr int RANKS = {plan.ranks};",
        f"constexpr int SAMPLES = {plan.samples};",
        f"constexpr bool TRAINS = {str(plan.trains).lower()};",
        f"typedef {PIXEL_TYPES[pixels]} Pixel;",
        f"typedef {wide_type(pixels)} Wide;",
        _struct("Images", images),
        _struct("Shared", plan.shared),
        *map(_struct, convolutions, plan.convolutions),
        *map(_struct, dense, plan.dense),
        "template <class... Layers> struct List {};",
        *(f"typedef List<{', '.join(names)}> {name};" for name, names in lists.items()),
    ]


@cache
def _template(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _struct(name: str, constants: dict[str, Any]) -> str:
    values = ", ".join(f"{key} = {value}" for key, value in constants.items())
    return f"struct {name} {{ static constexpr int {values}; }};"
