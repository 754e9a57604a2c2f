"""The same network elsewhere: the same sizes and the weights of an estimator of ours.

Each function imports its library itself: none is needed for the others.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

LR, MOMENTUM = 0.005, 0.9


def torch_network(model: Any) -> Any:
    """Make a fitted LeNetClassifier's network, with its weights, in PyTorch."""
    import torch

    shapes = [weight.shape for weight in model.coefs_]
    network = torch.nn.Sequential(*torch_layers(shapes, model.pooling, model.padding))
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), _parameters(model), strict=True):
            parameter.copy_(torch.from_numpy(value))
    return network


def torch_layers(
    shapes: Sequence[tuple[int, ...]], pooling: str = "avg", padding: int | tuple[int, ...] = (2, 0)
) -> list[Any]:
    """Make LeNet's layers for weights of these shapes, as PyTorch draws them."""
    from torch import nn

    kernels = [shape for shape in shapes if len(shape) == 4]
    paddings = (padding,) * len(kernels) if isinstance(padding, int) else padding
    pool = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}[pooling]
    layers: list[Any] = []
    for (n_outputs, n_inputs, k, _), margin in zip(kernels, paddings, strict=True):
        layers += [nn.Conv2d(n_inputs, n_outputs, k, padding=margin), nn.ReLU(), pool(2)]
    layers.append(nn.Flatten())
    for n_outputs, n_inputs in shapes[len(kernels) :]:
        layers += [nn.Linear(n_inputs, n_outputs), nn.ReLU()]
    return layers[:-1]


def _parameters(model: Any) -> list[np.ndarray]:
    """List the weights and biases, layer by layer."""
    return [array for layer in zip(model.coefs_, model.intercepts_, strict=True) for array in layer]


def torch_images(X: np.ndarray) -> Any:
    """View rows of 784 pixels, or arrays of images, as a tensor of shape (n, C, H, W)."""
    import torch

    return torch.from_numpy(X if X.ndim == 4 else X.reshape(-1, 1, 28, 28))


def torch_sgd(network: Any) -> Any:
    """Make the optimizer that ours is compared with."""
    import torch

    return torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM)


def torch_epoch(
    network: Any,
    optimizer: Any,
    X: Any,
    y: Any,
    order: Any,
    batch_size: int,
    rates: Sequence[float] = (),
    label_smoothing: float = 0.0,
) -> None:
    """Train for an epoch by the plainest loop: no data loader, and no loss is read.

    `rates` has the learning rate of each batch; the optimizer's own serves where there are none.
    """
    import torch

    for rows, rate in zip_longest(order.split(batch_size), rates):
        if rate is not None:
            optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(
            network(X[rows]), y[rows], label_smoothing=label_smoothing
        ).backward()
        optimizer.step()


def torch_predict(network: Any, X: Any, batch_size: int) -> Any:
    """Predict classes in batches."""
    import torch

    with torch.inference_mode():
        return torch.cat([network(batch).argmax(1) for batch in X.split(batch_size)])


def skorch_classifier(network: Any, epochs: int, optimizer: Any, **parameters: Any) -> Any:
    """Wrap a network of PyTorch's with skorch, its validation and its printing switched off."""
    import torch
    from skorch import NeuralNetClassifier

    return NeuralNetClassifier(
        network,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=optimizer,
        batch_size=64,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        **parameters,
    )


def torch_proba(network: Any, X: np.ndarray) -> np.ndarray:
    """Compute the probabilities of rows of 784 pixels, from array to array."""
    import torch

    with torch.inference_mode():
        return torch.softmax(network(torch_images(X)), 1).numpy()


def onnx_session(model: Any, threads: int) -> Any:
    """Load the network into onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(
        _onnx_model(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def onnx_predict(model: Any, threads: int) -> Callable[[np.ndarray, int], np.ndarray]:
    """Make a function that predicts classes in batches with onnxruntime."""
    session = onnx_session(model, threads)

    def predict(X: np.ndarray, batch_size: int) -> np.ndarray:
        images = X.reshape(-1, 1, 28, 28)
        batches = range(0, len(images), batch_size)
        return np.concatenate(
            [
                session.run(None, {"x0": images[begin : begin + batch_size]})[0].argmax(axis=1)
                for begin in batches
            ]
        )

    return predict


def _onnx_model(model: Any) -> Any:
    """Write the network down as ONNX, its input being called x0."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []

    def add(operation: str, *inputs: str, **attributes: Any) -> None:
        n = len(nodes)
        nodes.append(helper.make_node(operation, [f"x{n}", *inputs], [f"x{n + 1}"], **attributes))

    for layer in range(5):
        parameters = f"weight{layer}", f"bias{layer}"
        if layer < 2:
            add("Conv", *parameters, pads=[2 * (layer == 0)] * 4)
            add("Relu")
            add("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
        else:
            add("Flatten" if layer == 2 else "Relu")
            add("Gemm", *parameters, transB=1)
    names = [f"{kind}{layer}" for layer in range(5) for kind in ("weight", "bias")]
    graph = helper.make_graph(
        nodes,
        "lenet",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", 1, 28, 28])],
        [helper.make_tensor_value_info(f"x{len(nodes)}", TensorProto.FLOAT, ["n", 10])],
        [
            numpy_helper.from_array(np.ascontiguousarray(array), name)
            for name, array in zip(names, _parameters(model), strict=True)
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def jax_network(model: Any) -> tuple[Any, Callable[[Any, Any, Any], Any]]:
    """Make the network's parameters, and its loss as a function of them, images and labels."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    (k1, b1), (k2, b2), *dense = zip(model.coefs_, model.intercepts_, strict=True)
    # JAX is fastest on a CPU with the channels last
    w3 = dense[0][0].reshape(-1, 16, 5, 5).transpose(0, 2, 3, 1).reshape(-1, 400)
    kernels = [(k.transpose(2, 3, 1, 0), b) for k, b in ((k1, b1), (k2, b2))]
    matrices = [(w3.T, dense[0][1]), *((w.T, b) for w, b in dense[1:])]
    parameters = jax.tree.map(jnp.asarray, (kernels, matrices))

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        kernels, matrices = parameters
        for (kernel, bias), padding in zip(kernels, ("SAME", "VALID"), strict=True):
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + bias)
            x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        x = x.reshape(len(x), -1)
        for matrix, bias in matrices[:-1]:
            x = jax.nn.relu(x @ matrix + bias)
        x = x @ matrices[-1][0] + matrices[-1][1]
        return -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1).mean()

    return parameters, loss


def jax_update(loss: Any, state: Any, x: Any, y: Any) -> Any:
    """Take a step of SGD; the state is parameters and velocity."""
    import jax

    parameters, velocity = state
    gradient = jax.grad(loss)(parameters, x, y)
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)
    return jax.tree.map(lambda p, v: p - LR * v, parameters, velocity), velocity


def jax_epoch(model: Any, X: np.ndarray, y: np.ndarray, batch_size: int) -> Callable[[], None]:
    """Make a function that trains for an epoch with JAX, by jitted steps on all its threads."""
    import jax
    from jax import numpy as jnp

    parameters, loss = jax_network(model)
    step = jax.jit(partial(jax_update, loss))

    images = X.reshape(-1, 28, 28, 1)
    state = parameters, jax.tree.map(jnp.zeros_like, parameters)

    def epoch() -> None:
        nonlocal state
        for begin in range(0, len(images), batch_size):
            batch = slice(begin, begin + batch_size)
            state = step(state, images[batch], y[batch])
        jax.block_until_ready(state)

    return epoch


def keras_layers() -> list[Any]:
    """Make LeNet's layers in Keras, without the last."""
    from keras import layers

    return [
        layers.Conv2D(6, 5, padding="same", activation="relu"),
        layers.AveragePooling2D(2),
        layers.Conv2D(16, 5, activation="relu"),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(120, activation="relu"),
        layers.Dense(84, activation="relu"),
    ]


def keras_epoch(X: np.ndarray, y: np.ndarray, batch_size: int) -> Callable[[], Any]:
    """Make a function that trains for an epoch with Keras' own `fit`."""
    import keras
    from keras import layers

    network = keras.Sequential([layers.Input((28, 28, 1)), *keras_layers(), layers.Dense(10)])
    network.compile(
        keras.optimizers.SGD(LR, MOMENTUM), keras.losses.SparseCategoricalCrossentropy(True)
    )
    images = X.reshape(-1, 28, 28, 1)
    return lambda: network.fit(images, y, batch_size=batch_size, shuffle=False, verbose=0)


def mantissa_epoch(X: np.ndarray, y: np.ndarray, batch_size: int) -> Callable[[], Any]:
    """Make a function that trains for an epoch with mantissa-cnn: C, max pooling, plain SGD."""
    from mantissa_cnn import Conv2D, Dense, Flatten, MaxPool2D, Sequential

    convolutions = [Conv2D(6, 5, pad=2, act="relu"), MaxPool2D(2), Conv2D(16, 5, act="relu")]
    dense = [Dense(120, act="relu"), Dense(84, act="relu"), Dense(10)]
    network = Sequential([*convolutions, MaxPool2D(2), Flatten(), *dense])
    images = X.reshape(-1, 1, 28, 28)
    return lambda: network.fit(images, y, epochs=1, batch_size=batch_size, lr=LR)


def neuralnetlib_epoch(X: np.ndarray, y: np.ndarray, batch_size: int) -> Callable[[], Any]:
    """Make a function that trains for an epoch with neuralnetlib: NumPy alone, SGD."""
    from neuralnetlib import layers
    from neuralnetlib.models import Sequential

    network = Sequential(random_state=0)
    network.add(layers.Input((28, 28, 1)))
    for filters, padding in ((6, "same"), (16, "valid")):
        network.add(layers.Conv2D(filters, 5, padding=padding))
        network.add(layers.Activation("relu"))
        network.add(layers.AveragePooling2D(2))
    network.add(layers.Flatten())
    for units, activation in ((120, "relu"), (84, "relu"), (10, "softmax")):
        network.add(layers.Dense(units))
        network.add(layers.Activation(activation))
    network.compile("sparse_categorical_crossentropy", "sgd")
    images = X.reshape(-1, 28, 28, 1)
    return lambda: network.fit(images, y, epochs=1, batch_size=batch_size, verbose=False)
