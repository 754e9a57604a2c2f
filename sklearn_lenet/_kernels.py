"""The source of the CUDA kernels: what of it depends on the network.

`_kernels.cu` has the kernels as templates. Here are written the sizes that they are templates of,
and the entry points, whose names and arguments `_cuda.py` uses.
"""

from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

import numpy as np

from ._images import ImageLayout
from ._layers import ConvPoolShape
from ._network import Architecture

# Threads of each block
THREADS = 256

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


def wide_type(pixels: str) -> str:
    """Name the type in which the mean is taken off the pixels, as NumPy would choose it."""
    is_double = np.result_type(np.dtype(pixels), np.float32) == np.float64
    return "double" if is_double else "float"


def convolution_parameters(architecture: Architecture) -> tuple[int, int]:
    """Count the convolutions' weights and biases."""
    shapes = architecture.convolutions()
    n_weights = sum(s.out_channels * s.in_channels * s.kernel_size**2 for s in shapes)
    return n_weights, sum(s.out_channels for s in shapes)


def _dense_sizes(architecture: Architecture) -> list[int]:
    """Sizes of the dense layers' input, and of their outputs."""
    last = architecture.convolutions()[-1]
    flat = last.out_channels * last.out_height * last.out_width
    return [flat, *architecture.hidden_layer_sizes, architecture.n_classes]


def shared_memory(architecture: Architecture, samples: int) -> dict[str, int]:
    """Count the numbers that each kernel's blocks share, as `_kernels.cu` has it."""
    sizes, shared = _dense_sizes(architecture), {}
    for i, shape in enumerate(architecture.convolutions()):
        s, k, p = shape.stride, shape.kernel_size, shape.padding
        image = shape.in_channels * (shape.height + 2 * p) * (shape.width + 2 * p)
        map_sides = [shape.pool_size * side for side in (shape.out_height, shape.out_width)]
        framed = shape.out_channels
        for side, map_side in zip((shape.height, shape.width), map_sides, strict=True):
            framed *= max(k - 1 - p, 0) // s + max((side - 1 + p) // s, map_side - 1) + 1
        shared[f"conv{i}_forward"] = image
        shared[f"conv{i}_input_gradient"] = framed
        shared[f"conv{i}_weight_gradient"] = image + map_sides[0] * map_sides[1] + THREADS
    shared["dense"] = samples * (sum(sizes) + sum(sizes[:-1]) + 1)
    shared["dense_predict"] = samples * sum(sizes)
    shared["optimize"] = THREADS
    return shared


def kernel_source(
    architecture: Architecture,
    layout: ImageLayout,
    pixels: str,
    solver: str,
    averages: bool,
    samples: int,
) -> str:
    """Write the CUDA C++ source of a network's kernels.

    Parameters
    ----------
    architecture : Architecture
    layout : ImageLayout
    pixels : str
        Name of the type of `X`.
    solver : {"SGD", "NESTEROV", "ADAM"}
    averages : bool
        Whether the weights' moving average is kept.
    samples : int
        Samples of one block of the dense layers.
    """
    activation = architecture.activation.upper()
    n_weights, n_biases = convolution_parameters(architecture)
    C, H, W = layout.image_shape
    _, height, width = layout.canvas_shape
    images: dict[str, Any] = {
        "C": C,
        "H": H,
        "W": W,
        "ZOOM": layout.zoom,
        "TOP": (height - H * layout.zoom) // 2,
        "LEFT": (width - W * layout.zoom) // 2,
        "N_FEATURES": layout.n_features,
    }
    parameters = {
        "ALL": architecture.n_parameters,
        "WEIGHTS": architecture.n_weights,
        "CONVOLUTION_WEIGHTS": n_weights,
        "CONVOLUTION_BIASES": n_biases,
        "CONVOLUTIONS": n_weights + n_biases,
    }
    parts = [
        "constexpr int NONE = 0, RELU = 1, TANH = 2, SIGMOID = 3, SGD = 0, NESTEROV = 1, ADAM = 2;",
        f"constexpr int THREADS = {THREADS}, SAMPLES = {samples}, OPTIMIZER = {solver};",
        f"constexpr bool AVERAGES = {str(averages).lower()};",
        f"typedef {PIXEL_TYPES[pixels]} Pixel;",
        f"typedef {wide_type(pixels)} Wide;",
        _struct("Images", images),
        _struct("Parameters", parameters),
    ]
    weight, bias = 0, 0
    for i, shape in enumerate(architecture.convolutions()):
        constants = {
            **_convolution_constants(shape),
            "MAX_POOLING": int(architecture.pooling == "max"),
            "ACTIVATION": activation,
            "WEIGHT": weight,
            "BIAS": architecture.n_weights + bias,
            "PARTIAL_BIAS": n_weights + bias,
        }
        parts.append(_struct(f"Conv{i}", constants))
        weight += shape.out_channels * shape.in_channels * shape.kernel_size**2
        bias += shape.out_channels
    parts.append(_templates())
    parts += entry_points(architecture, activation).values()
    return "\n".join(parts)


@cache
def _templates() -> str:
    return files(__package__).joinpath("_kernels.cu").read_text(encoding="utf-8")


def _struct(name: str, constants: dict[str, Any]) -> str:
    values = ", ".join(f"{key} = {value}" for key, value in constants.items())
    return f"struct {name} {{ static constexpr int {values}; }};"


def _convolution_constants(shape: ConvPoolShape) -> dict[str, int]:
    return {
        "C_IN": shape.in_channels,
        "H": shape.height,
        "W": shape.width,
        "C_OUT": shape.out_channels,
        "K": shape.kernel_size,
        "STRIDE": shape.stride,
        "PADDING": shape.padding,
        "POOL": shape.pool_size,
        "OUT_H": shape.out_height,
        "OUT_W": shape.out_width,
    }


def _entry_point(name: str, parameters: str, body: str) -> str:
    return (
        f'extern "C" __global__ void __launch_bounds__(THREADS)\n'
        f"{name}({parameters})\n{{\n{body}\n}}\n"
    )


def entry_points(architecture: Architecture, activation: str) -> dict[str, str]:
    """Write the kernels' entry points: name and source of each."""
    entries: dict[str, str] = {}

    def add(name: str, parameters: str, body: str) -> None:
        entries[name] = _entry_point(name, parameters, body)

    rows = (
        "const Pixel* X, const int* rows, const int* step, long long begin, int batch_size, "
        "Wide mean, float scale"
    )
    from_rows = "FromPixels{X, rows, begin + (long long)*step * batch_size, mean, scale}"
    for i in range(len(architecture.conv_channels)):
        source = rows if i == 0 else "const float* images"
        read = from_rows if i == 0 else f"FromLayer<Conv{i}>{{images}}"
        add(
            f"conv{i}_forward",
            f"{source}, const float* parameters, float* maps, float* output",
            f"    conv_pool_forward<Conv{i}>({read}, parameters, maps, output);",
        )
        add(
            f"conv{i}_weight_gradient",
            f"{source}, const float* maps, const float* output_grad, int n_samples, "
            "float* partials",
            f"    conv_pool_weight_gradient<Conv{i}>(\n"
            f"        {read}, maps, output_grad, n_samples, partials);",
        )
        if i > 0:
            add(
                f"conv{i}_input_gradient",
                "const float* parameters, const float* maps, const float* output_grad, "
                "float* input_grad",
                f"    conv_pool_input_gradient<Conv{i}>(\n"
                "        parameters, maps, output_grad, input_grad);",
            )
    for name, parameters, body in _dense_entry_points(architecture, activation):
        add(name, parameters, body)
    add(
        "optimize",
        "const Schedule* schedule, const int* step, float momentum, const float* partials, "
        "int n_groups, const float* gradient, float* parameters, float* moment, "
        "float* second_moment, float* average, double* squares",
        # dense_gradients has counted this step already
        "    optimizer_step(schedule[*step - 1], momentum, partials, n_groups, gradient,\n"
        "                   parameters, moment, second_moment, average, squares);",
    )
    return entries


def _dense_entry_points(architecture: Architecture, activation: str) -> list[tuple[str, str, str]]:
    """Write the dense layers' entry points: name, parameters and body of each."""
    sizes = _dense_sizes(architecture)
    n_layers, n_classes = len(sizes) - 1, sizes[-1]
    hidden = sum(sizes[1:-1])
    weight, bias = convolution_parameters(architecture)
    bias += architecture.n_weights
    weights, biases = [], []
    for n_inputs, n_outputs in pairwise(sizes):
        weights.append(weight)
        biases.append(bias)
        weight, bias = weight + n_inputs * n_outputs, bias + n_outputs
    places = np.cumsum([0, *sizes[1:]]).tolist()  # of the layers' outputs in a row of `grads`

    forward = ["    float* state0 = shared;"]
    for i, size in enumerate(sizes[:-1]):
        forward.append(f"    float* state{i + 1} = state{i} + SAMPLES * {size};")
    forward.append(f"    load_vectors<{sizes[0]}>(features, n_samples, state0);")
    for i in range(n_layers):
        function = activation if i < n_layers - 1 else "NONE"
        forward.append(
            f"    dense_forward<{sizes[i]}, {sizes[i + 1]}, {function}>(\n"
            f"        parameters + {weights[i]}, parameters + {biases[i]}, state{i}, state{i + 1});"
        )
    forward.append(f"    log_softmax<{n_classes}>(state{n_layers});")

    train = [
        *forward,
        f"    float* grad{n_layers} = state{n_layers};",
        f"    float* grad0 = state{n_layers} + SAMPLES * {n_classes};",
        *(
            f"    float* grad{i} = grad{i - 1} + SAMPLES * {sizes[i - 1]};"
            for i in range(1, n_layers)
        ),
        f"    float* losses = grad{n_layers - 1} + SAMPLES * {sizes[n_layers - 1]};",
        "    const long long first = (long long)*step * batch_size;",
        f"    cross_entropy<{n_classes}>(labels + first, shares + first, n_samples, smoothing,\n"
        f"        grad{n_layers}, losses);",
    ]
    for i in range(n_layers - 1, -1, -1):
        function = activation if i > 0 else "NONE"  # the convolution's kernels have their own
        train.append(
            f"    dense_backward<{sizes[i]}, {sizes[i + 1]}, {function}>(\n"
            f"        parameters + {weights[i]}, grad{i + 1}, state{i}, grad{i});"
        )
    for i in range(1, n_layers):
        train.append(
            f"    store_vectors<{sizes[i]}, {hidden}>(state{i}, n_samples, "
            f"states + {places[i - 1]});"
        )
    for i in range(1, n_layers + 1):
        train.append(
            f"    store_vectors<{sizes[i]}, {places[-1]}>(grad{i}, n_samples, "
            f"grads + {places[i - 1]});"
        )
    train += [
        f"    store_vectors<{sizes[0]}, {sizes[0]}>(grad0, n_samples, features_grad);",
        "    if (threadIdx.x == 0) {",
        "        float loss = 0.0f;",
        "        for (int s = 0; s < SAMPLES; s++) loss += losses[s];",
        "        sum_of_losses[blockIdx.x] += (double)schedule[*step].total * loss;",
        "    }",
    ]
    predict = [
        *forward,
        f"    store_vectors<{n_classes}, {n_classes}>(state{n_layers}, n_samples, log_proba);",
    ]

    gradients = [
        "    int index = blockIdx.x * THREADS + threadIdx.x;",
        "    if (index == 0) *step += 1;  // every kernel but the optimizer's has read it",
    ]
    for i in range(n_layers):
        size, n_outputs = sizes[i] * sizes[i + 1], sizes[i + 1]
        row = sizes[0] if i == 0 else hidden
        states = "features" if i == 0 else f"states + {places[i - 1]}"
        gradients.append(
            f"    if (index < {size}) {{\n"
            f"        gradient[{weights[i]} + index] = dense_gradient(\n"
            f"            {states} + index % {sizes[i]}, {row},\n"
            f"            grads + {places[i]} + index / {sizes[i]}, {places[-1]}, n_samples);\n"
            f"        return;\n    }}\n    index -= {size};"
        )
    gradients.append(
        f"    if (index < {places[-1]})\n"
        f"        gradient[{biases[0]} + index] =\n"
        f"            dense_bias_gradient(grads + index, {places[-1]}, n_samples);"
    )
    return [
        (
            "dense",
            "const float* parameters, const float* features, const int* labels, "
            "const float* shares, const Schedule* schedule, const int* step, int batch_size, "
            "int n_samples, float smoothing, float* states, float* grads, float* features_grad, "
            "double* sum_of_losses",
            "\n".join(train),
        ),
        (
            "dense_predict",
            "const float* parameters, const float* features, int n_samples, float* log_proba",
            "\n".join(predict),
        ),
        (
            "dense_gradients",
            "const float* features, const float* states, const float* grads, int n_samples, "
            "float* gradient, int* step",
            "\n".join(gradients),
        ),
    ]
