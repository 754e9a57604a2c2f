"""Train LeNet-5 on all of MNIST, and print its test accuracy and the time of an epoch.

The images come from the directory that `--data-home` or the environment variable
`SKLEARN_LENET_DATA` names. Where neither is given, scikit-learn downloads them from OpenML, once.
"""

import argparse
from time import perf_counter

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_mnist


def main():
    """Load, fit, time, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-home", help="directory with MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()

    X, y = load_mnist(arguments.data_home, subset="train", return_X_y=True)
    X_test, y_test = load_mnist(arguments.data_home, subset="test", return_X_y=True)

    model = LeNetClassifier(lr=0.005, max_iter=arguments.epochs, random_state=0, verbose=1)
    begin = perf_counter()
    model.fit(X, y)
    seconds = perf_counter() - begin

    print(f"Test accuracy: {model.score(X_test, y_test):.2%}")
    print(f"Epochs: {model.n_iter_}")
    print(f"Seconds per epoch: {seconds / model.n_iter_:.2f}")


if __name__ == "__main__":
    main()
