"""LeNet in plain loops, straight from the formulas: the oracle of the other tests.

The notation is that of LeCun, Bottou, Bengio and Haffner (1998): ``a`` is a unit's weighted sum of
its inputs, ``x = F(a)`` its state, ``w`` and ``b`` are weights and bias. ``g_z`` stands for dE/dz,
the derivative of the loss E with respect to z. Images have the shape (N, C, H, W), vectors (N, D);
everything is float64.
"""

from itertools import count, pairwise, product
from math import exp, log, prod, tanh

import numpy as np


def relu(a):
    return max(a, 0.0)


def relu_derivative(a):
    return 1.0 if a > 0 else 0.0


def tanh_derivative(a):
    return 1 - tanh(a) ** 2


def sigmoid(a):
    return 1 / (1 + exp(-a))


def sigmoid_derivative(a):
    return sigmoid(a) * (1 - sigmoid(a))


FUNCTIONS = {"relu": relu, "tanh": tanh, "sigmoid": sigmoid}
DERIVATIVES = {"relu": relu_derivative, "tanh": tanh_derivative, "sigmoid": sigmoid_derivative}


def each(function, a):
    """Apply a function of one number to each number of an array."""
    values = [function(value) for value in np.ravel(a).tolist()]
    return np.array(values, np.float64).reshape(np.shape(a))


def convolved_size(size, kernel_size, stride, padding):
    """Count the places of a kernel along one axis."""
    return (size + 2 * padding - kernel_size) // stride + 1


def zero_padded(x, padding):
    N, C, H, W = x.shape
    padded = np.zeros((N, C, H + 2 * padding, W + 2 * padding))
    padded[:, :, padding : padding + H, padding : padding + W] = x
    return padded


def convolution(x, w, b, stride, padding):
    """``a[n, o, i, j] = b[o] + sum_cuv w[o, c, u, v] * x[n, c, s i + u, s j + v]``, x padded."""
    k = w.shape[2]
    padded = zero_padded(x, padding)
    rows = convolved_size(x.shape[2], k, stride, padding)
    columns = convolved_size(x.shape[3], k, stride, padding)
    a = np.zeros((len(x), len(w), rows, columns))
    for n, o, i, j in np.ndindex(a.shape):
        top, left = stride * i, stride * j
        a[n, o, i, j] = b[o] + np.sum(w[o] * padded[n, :, top : top + k, left : left + k])
    return a


def convolution_backward(x, w, stride, padding, g_a):
    """Return dE/dw, dE/db and dE/dx: each product of the sum above hands g_a on to its factors."""
    k = w.shape[2]
    padded = zero_padded(x, padding)
    g_w, g_b, g_padded = np.zeros(w.shape), np.zeros(len(w)), np.zeros(padded.shape)
    for n, o, i, j in np.ndindex(g_a.shape):
        top, left = stride * i, stride * j
        g_w[o] += g_a[n, o, i, j] * padded[n, :, top : top + k, left : left + k]
        g_b[o] += g_a[n, o, i, j]
        g_padded[n, :, top : top + k, left : left + k] += g_a[n, o, i, j] * w[o]
    return g_w, g_b, g_padded[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]


def pooling(kind, x, size):
    """Average or maximum of size x size windows side by side; what fills no window is dropped."""
    N, C, H, W = x.shape
    pooled = np.zeros((N, C, H // size, W // size))
    for n, c, i, j in np.ndindex(pooled.shape):
        window = x[n, c, size * i : size * (i + 1), size * j : size * (j + 1)]
        pooled[n, c, i, j] = np.max(window) if kind == "max" else np.sum(window) / size**2
    return pooled


def pooling_backward(kind, x, size, g_pooled):
    """Return dE/dx: equal shares for the average, all to the first largest for the maximum."""
    g_x = np.zeros(x.shape)
    for n, c, i, j in np.ndindex(g_pooled.shape):
        places = [(size * i + u, size * j + v) for u, v in product(range(size), repeat=2)]
        if kind == "max":
            largest = max(x[n, c, y, z] for y, z in places)
            places = [(y, z) for y, z in places if x[n, c, y, z] == largest][:1]
        for y, z in places:
            g_x[n, c, y, z] = g_pooled[n, c, i, j] / len(places)
    return g_x


def dense(x, w, b):
    """``a[n, o] = b[o] + sum_i w[o, i] * x[n, i]``."""
    a = np.zeros((len(x), len(w)))
    for n, o in np.ndindex(a.shape):
        a[n, o] = b[o] + np.sum(w[o] * x[n])
    return a


def dense_backward(x, w, g_a):
    """Return dE/dw, dE/db and dE/dx."""
    g_w, g_b, g_x = np.zeros(w.shape), np.zeros(len(w)), np.zeros(x.shape)
    for n, o in np.ndindex(g_a.shape):
        g_w[o] += g_a[n, o] * x[n]
        g_b[o] += g_a[n, o]
        g_x[n] += g_a[n, o] * w[o]
    return g_w, g_b, g_x


def softmax_cross_entropy(logits, labels, weights):
    """Return ``E = -sum_n weights[n] * log p[n, labels[n]]``, p the softmax, and dE/dlogits."""
    loss, gradient = 0.0, np.zeros(logits.shape)
    for n, label in enumerate(labels):
        exponentials = [exp(logit) for logit in logits[n]]
        probabilities = [exponential / sum(exponentials) for exponential in exponentials]
        loss -= weights[n] * log(probabilities[label])
        for c, probability in enumerate(probabilities):
            gradient[n, c] = weights[n] * (probability - (c == label))
    return loss, gradient


def image_sizes(architecture):
    """List (C, H, W) of the images that come in, and of those behind each convolution's pooling."""
    sizes = [tuple(architecture.image_shape)]
    for channels, k, s, p in zip(
        architecture.conv_channels,
        architecture.kernel_size,
        architecture.stride,
        architecture.padding,
        strict=True,
    ):
        sides = (convolved_size(side, k, s, p) // architecture.pool_size for side in sizes[-1][1:])
        sizes.append((channels, *sides))
    return sizes


def smallest_side(kernel_size, stride, padding, pool_size):
    """Find the smallest square image of which something is left behind every convolution."""
    for smallest in count(1):
        side = smallest
        for k, s, p in zip(kernel_size, stride, padding, strict=True):
            side = convolved_size(side, k, s, p) // pool_size if side + 2 * p >= k else 0
            if side < 1:
                break
        else:
            return smallest


def unflatten(architecture, vector):
    """Cut a flat vector into all layers' weights, which come first, and all layers' biases."""
    sizes = image_sizes(architecture)
    shapes = [
        (after[0], before[0], k, k)
        for (before, after), k in zip(pairwise(sizes), architecture.kernel_size, strict=True)
    ]
    lengths = [prod(sizes[-1]), *architecture.hidden_layer_sizes, architecture.n_classes]
    shapes += [(after, before) for before, after in pairwise(lengths)]
    pieces, begin = [], 0
    for shape in shapes + [shape[:1] for shape in shapes]:
        end = begin + prod(shape)
        pieces.append(np.array(vector[begin:end], np.float64).reshape(shape))
        begin = end
    assert begin == len(vector)
    return pieces[: len(shapes)], pieces[len(shapes) :]


def forward(architecture, parameters, images):
    """Return the logits (N, n_classes), and the steps for `backward`: (inputs, weighted sums)."""
    F = FUNCTIONS[architecture.activation]
    weights, biases = unflatten(architecture, parameters)
    x, steps, n_convolutions = np.array(images, np.float64), [], len(architecture.conv_channels)
    for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
        if layer == n_convolutions:
            x = x.reshape(len(x), -1)
        if layer < n_convolutions:
            a = convolution(x, w, b, architecture.stride[layer], architecture.padding[layer])
            steps.append((x, a))
            x = pooling(architecture.pooling, each(F, a), architecture.pool_size)
        else:
            a = dense(x, w, b)
            steps.append((x, a))
            x = each(F, a)
    return a, steps


def backward(architecture, parameters, steps, g_logits):
    """Return dE/dparameters, as a flat vector, and dE/dimages."""
    F = FUNCTIONS[architecture.activation]
    F_derivative = DERIVATIVES[architecture.activation]
    weights, _ = unflatten(architecture, parameters)
    g_weights, g_biases, g_x = [], [], None
    for layer in reversed(range(len(weights))):
        x, a = steps[layer]
        if layer == len(weights) - 1:
            g_a = g_logits
        elif a.ndim == 2:
            g_a = g_x * each(F_derivative, a)
        else:
            pooled_shape = (len(a), *image_sizes(architecture)[layer + 1])
            g_states = pooling_backward(
                architecture.pooling,
                each(F, a),
                architecture.pool_size,
                g_x.reshape(pooled_shape),
            )
            g_a = g_states * each(F_derivative, a)
        if a.ndim == 2:
            g_w, g_b, g_x = dense_backward(x, weights[layer], g_a)
        else:
            stride, padding = architecture.stride[layer], architecture.padding[layer]
            g_w, g_b, g_x = convolution_backward(x, weights[layer], stride, padding, g_a)
        g_weights.insert(0, g_w)
        g_biases.insert(0, g_b)
    return np.concatenate([np.ravel(g) for g in g_weights + g_biases]), g_x


def loss_and_gradient(architecture, parameters, images, labels, weights):
    """Return E and dE/dparameters of a whole network."""
    logits, steps = forward(architecture, parameters, images)
    loss, g_logits = softmax_cross_entropy(logits, labels, weights)
    return loss, backward(architecture, parameters, steps, g_logits)[0]
