"""Export to ONNX: a fitted classifier by `to_onnx`, and within Pipelines by skl2onnx.

One walk through the network writes its nodes, by whatever adds them: a list for `to_onnx`, a
container for skl2onnx, with which `LeNetClassifier` is registered when this module is imported.
"""

from collections.abc import Iterator
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ._classifier import LeNetClassifier
from ._images import ImageLayout
from ._state import architecture_of, layout_of

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["to_onnx"]

# Of ONNX's operators, and of its files: what onnxruntime >= 1.12 reads
_OPSET, _IR_VERSION = 17, 8

_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
_POOLINGS = {"avg": "AveragePool", "max": "MaxPool"}


def to_onnx(model: LeNetClassifier) -> "ModelProto":
    """Write a fitted classifier down as a model of ONNX.

    It computes in float32, with the pixels' scaling, enlarging and padding. For a Pipeline, a
    search or a meta-estimator with a `LeNetClassifier` in it, take `skl2onnx.to_onnx`, which knows
    the class once this module is imported.

    Parameters
    ----------
    model : LeNetClassifier
        Fitted.

    Returns
    -------
    onnx_model : onnx.ModelProto
        Its input "X" is rows of features, of shape (n, `n_features_in_`); of float32, or of float64
        where float32 could not tell the pixels apart. Its outputs are "label", of shape (n,) and
        the type of `classes_`, and "probabilities", of shape (n, n_classes) and float32.

    Raises
    ------
    ImportError
        If onnx is not installed.
    TypeError
        If `model` is no `LeNetClassifier`.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    if not isinstance(model, LeNetClassifier):
        raise TypeError(
            f"model must be a LeNetClassifier. Got {type(model).__name__} instead. For Pipelines, "
            "searches and meta-estimators, use skl2onnx.to_onnx."
        )
    check_is_fitted(model)
    try:
        from onnx import TensorProto, helper
    except ImportError as error:
        raise ImportError(
            "to_onnx needs onnx, which cannot be imported. It comes with the extra 'onnx': "
            "python -m pip install '.[onnx]' in a clone of sklearn_lenet"
        ) from error
    layout, classes = layout_of(model), model.classes_
    is_text = classes.dtype.kind not in "biuf"
    of_labels = TensorProto.STRING if is_text else helper.np_dtype_to_tensor_dtype(classes.dtype)
    of_pixels = TensorProto.DOUBLE if _needs_float64(layout) else TensorProto.FLOAT
    graph = _Lists()
    label, proba = _write(graph, model, "X", False, classes)
    graph.add("Identity", label, output="label")
    graph.add("Identity", proba, output="probabilities")
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "LeNetClassifier",
            [helper.make_tensor_value_info("X", of_pixels, ["n", layout.n_features])],
            [
                helper.make_tensor_value_info("label", of_labels, ["n"]),
                helper.make_tensor_value_info(
                    "probabilities", TensorProto.FLOAT, ["n", len(classes)]
                ),
            ],
            graph.constants,
        ),
        producer_name="sklearn_lenet",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )


def _needs_float64(layout: ImageLayout) -> bool:
    """Tell whether float32 cannot hold the pixels, or tell them apart, so far are they from 0."""
    return layout.is_extreme or abs(layout.mean) * layout.scale > 50


class _Graph(Protocol):
    """What nodes are added to."""

    def add(
        self, operation: str, *inputs: str, output: str | None = None, **attributes: Any
    ) -> str:
        """Add a node; give the name of its output."""

    def constant(self, values: Any) -> str:
        """Add an array of numbers or strings; give its name."""


class _Lists:
    """A graph of its own, as lists of onnx's nodes and tensors."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(
        self, operation: str, *inputs: str, output: str | None = None, **attributes: Any
    ) -> str:
        from onnx import helper

        output = output or f"{operation}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [output], **attributes))
        return output

    def constant(self, values: Any) -> str:
        from onnx import numpy_helper

        array = np.asarray(values)
        if array.dtype.kind == "U":
            array = array.astype(object)
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


class _Container:
    """A part of skl2onnx's graph."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope, self._container = scope, container

    def add(
        self, operation: str, *inputs: str, output: str | None = None, **attributes: Any
    ) -> str:
        output = output or self._scope.get_unique_variable_name(operation)
        name = self._scope.get_unique_operator_name(operation)
        self._container.add_node(operation, list(inputs), [output], name=name, **attributes)
        return output

    def constant(self, values: Any) -> str:
        from onnx import TensorProto, helper

        array, name = np.asarray(values), self._scope.get_unique_variable_name("constant")
        if array.dtype.kind in "biuf":
            kind, content = helper.np_dtype_to_tensor_dtype(array.dtype), array.ravel()
        else:
            kind, content = TensorProto.STRING, np.char.encode(array.astype(str), "utf-8")
        self._container.add_initializer(name, kind, array.shape, content)
        return name


def _write(
    graph: _Graph, model: LeNetClassifier, x: str, is_wide: bool, classes: Any
) -> tuple[str, str]:
    """Add all nodes from the input `x` on; give the names of labels and probabilities.

    Parameters
    ----------
    graph : _Graph
    model : LeNetClassifier
    x : str
        Names the input: images or rows, of any type.
    is_wide : bool
        Whether the pixels are scaled in float64, even where float32 would do.
    classes : array-like of shape (n_classes,)
        What labels are called.
    """
    maps = _write_images(graph, layout_of(model), x, is_wide)
    logits = _write_layers(graph, model, maps)
    proba = graph.add("Softmax", logits, axis=1)
    place = graph.add("ArgMax", logits, axis=1, keepdims=0)
    return graph.add("Gather", graph.constant(classes), place), proba


def _write_images(graph: _Graph, layout: ImageLayout, x: str, is_wide: bool) -> str:
    """Scale pixels, fill up rows, enlarge images: as `ImageLoader`, but for the canvas around."""
    from onnx import TensorProto

    (C, H, W), zoom = layout.image_shape, layout.zoom
    is_wide = is_wide or _needs_float64(layout)
    dtype = np.dtype(np.float64 if is_wide else np.float32)
    x = graph.add("Flatten", x)
    x = graph.add("Cast", x, to=TensorProto.DOUBLE if is_wide else TensorProto.FLOAT)
    if layout.is_extreme:  # onnxruntime leaves out a difference to what is 0 as float32
        x = graph.add("Mul", x, graph.constant(layout.scale))
        x = graph.add("Sub", x, graph.constant(layout.mean * layout.scale))
    else:
        x = graph.add("Sub", x, graph.constant(dtype.type(layout.mean)))
        x = graph.add("Mul", x, graph.constant(dtype.type(layout.scale)))
    if is_wide:
        x = graph.add("Cast", x, to=TensorProto.FLOAT)
    n_missing = prod(layout.image_shape) - layout.n_features
    if n_missing:
        x = graph.add("Pad", x, graph.constant([0, 0, 0, n_missing]))
    if zoom > 1:
        x = graph.add("Reshape", x, graph.constant([0, C, H, 1, W, 1]))
        x = graph.add("Tile", x, graph.constant([1, 1, 1, zoom, 1, zoom]))
    return graph.add("Reshape", x, graph.constant([0, C, H * zoom, W * zoom]))


def _write_layers(graph: _Graph, model: LeNetClassifier, x: str) -> str:
    """Take images through all layers; give the name of the logits."""
    architecture = architecture_of(model)
    activation, pool = _ACTIVATIONS[architecture.activation], [architecture.pool_size] * 2
    layers = [
        [graph.constant(array.astype(np.float32)) for array in arrays]
        for arrays in zip(model.coefs_, model.intercepts_, strict=True)
    ]
    n_convolutions = len(architecture.conv_channels)
    for layer, stride, pads in zip(
        layers[:n_convolutions], architecture.stride, _paddings(model), strict=True
    ):
        x = graph.add("Conv", x, *layer, strides=[stride] * 2, pads=pads)
        x = graph.add(activation, x)
        x = graph.add(_POOLINGS[architecture.pooling], x, kernel_shape=pool, strides=pool)
    x = graph.add("Flatten", x)  # in the order (C, H, W)
    *hidden, last = layers[n_convolutions:]
    for layer in hidden:
        x = graph.add(activation, graph.add("Gemm", x, *layer, transB=1))
    return graph.add("Gemm", x, *last, transB=1)


def _paddings(model: LeNetClassifier) -> Iterator[list[int]]:
    """Yield each convolution's padding: top, left, bottom, right; the first has the canvas'."""
    layout = layout_of(model)
    missing = [
        canvas - side * layout.zoom
        for canvas, side in zip(layout.canvas_shape[1:], layout.image_shape[1:], strict=True)
    ]
    around = [*(n // 2 for n in missing), *(n - n // 2 for n in missing)]
    for padding in architecture_of(model).padding:
        yield [n + padding for n in around]
        around = [0, 0, 0, 0]


def _register() -> None:
    """Make `LeNetClassifier` known to skl2onnx."""
    from skl2onnx import update_registered_converter

    update_registered_converter(
        LeNetClassifier,
        "SklearnLenetLeNetClassifier",
        _set_output_types,
        _convert,
        options={
            "zipmap": [True, False, "columns"],
            "nocl": [True, False],
            "output_class_labels": [False, True],
        },
    )


def _set_output_types(operator: Any) -> None:
    """Tell skl2onnx shapes and types of labels and probabilities."""
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType, guess_tensor_type
    from skl2onnx.common.utils import check_input_and_output_numbers
    from skl2onnx.common.utils_classifier import get_label_classes

    check_input_and_output_numbers(operator, input_count_range=1, output_count_range=2)
    _refuse_steps_behind(operator)
    classes = get_label_classes(operator.scope_inst, operator.raw_operator)
    kind = Int64TensorType if classes.dtype.kind in "biuf" else StringTensorType
    (x,), (labels, proba) = operator.inputs, operator.outputs
    n = x.get_first_dimension()
    labels.set_type(kind([n]))
    proba.set_type(type(guess_tensor_type(x.type))([n, len(classes)]))


def _refuse_steps_behind(operator: Any) -> None:
    """Refuse a Pipeline with the classifier in its middle.

    skl2onnx takes it for a classifier there, too: the next step would get labels and probabilities.
    """
    found = {variable.full_name for variable in operator.outputs}
    for other in operator.scope_inst.operators.values():
        if found.isdisjoint(variable.full_name for variable in other.inputs):
            continue
        if not other.type.startswith("SklearnZipMap"):
            raise NotImplementedError(
                "A Pipeline with LeNetClassifier in its middle cannot be exported to ONNX: for "
                "skl2onnx, classifiers give labels and probabilities, not what transform gives."
            )
        found |= {variable.full_name for variable in other.outputs}


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Write the network into skl2onnx's graph; probabilities of float64 for input of that type."""
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType, Int32TensorType, Int64TensorType
    from skl2onnx.common.utils_classifier import get_label_classes

    model, (x,), (labels, proba) = operator.raw_operator, operator.inputs, operator.outputs
    is_wide = isinstance(x.type, DoubleTensorType | Int32TensorType | Int64TensorType)
    classes = get_label_classes(scope, model)
    if classes.dtype.kind in "biuf":
        integers = classes.astype(np.int64)
        if (integers != classes).any():
            raise ValueError(f"skl2onnx has labels of int64 alone. Got classes_={classes!r}.")
        classes = integers
    graph = _Container(scope, container)
    label, float32 = _write(graph, model, x.full_name, is_wide, classes)
    graph.add("Identity", label, output=labels.full_name)
    is_double = isinstance(proba.type, DoubleTensorType)
    to = TensorProto.DOUBLE if is_double else TensorProto.FLOAT
    graph.add("Cast", float32, output=proba.full_name, to=to)


with suppress(ImportError):  # without skl2onnx there is nothing to register with
    _register()
