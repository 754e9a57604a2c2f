"""Hand the weights to PyTorch, train there, and hand them back.

The network is built again as PyTorch's layers, with the same weights: both give the same
probabilities, here in float64, but for rounding. After an epoch of PyTorch's, the weights go back
into the fitted classifier, which then predicts as PyTorch's network does. Takes some seconds; needs
PyTorch.
"""

import numpy as np
import torch
from torch import nn

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist_sample


def network():
    """Make LeNet-5 as `LeNetClassifier` has it by default, for 28 x 28 pixels and 10 classes."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),  # in the order (C, H, W)
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def pairs(module, model):
    """Give each of PyTorch's parameters, and the same one of the classifier's."""
    layers = [layer for layer in module if hasattr(layer, "weight")]
    for layer, coef, intercept in zip(layers, model.coefs_, model.intercepts_, strict=True):
        yield layer.weight, coef
        yield layer.bias, intercept


def pixels(model, X):
    """Scale rows of pixels as the classifier does, and lay them out as its images."""
    X = (X - model.mean_) / model.scale_
    return torch.from_numpy(X.reshape(-1, *model.image_shape_))


def difference(module, model, X):
    """Give the largest difference between the probabilities of the two."""
    with torch.no_grad():
        proba = module(pixels(model, X)).softmax(dim=1).numpy()
    return np.abs(proba - model.predict_proba(X)).max()


def train(module, images, y):
    """Train for one epoch by PyTorch's Adam."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for batch in torch.randperm(len(y)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images[batch]), y[batch]).backward()
        optimizer.step()


def main():
    """Fit, hand over, compare, train, hand back, compare."""
    X, y = load_mnist_sample(subset="train", return_X_y=True)
    X, y = X[:2000], y[:2000]
    X_test, y_test = load_mnist_sample(subset="test", return_X_y=True)
    model = LeNetClassifier(max_iter=5, dtype="float64", random_state=0).fit(X, y)
    module = network().double()

    with torch.no_grad():
        for parameter, array in pairs(module, model):
            parameter.copy_(torch.from_numpy(array))
    print(f"To PyTorch: probabilities differ by {difference(module, model, X_test):.1e} at most")
    print(f"Test accuracy: {model.score(X_test, y_test):.2%}")

    train(module, pixels(model, X), torch.from_numpy(y.astype(np.int64)))
    for parameter, array in pairs(module, model):
        array[...] = parameter.detach().numpy()
    print(f"And back: probabilities differ by {difference(module, model, X_test):.1e} at most")
    print(f"Test accuracy after another epoch: {model.score(X_test, y_test):.2%}")


if __name__ == "__main__":
    main()
