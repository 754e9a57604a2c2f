"""Draw the figures of the chapters, into docs/_static: `python docs/learn/draw_figures.py`.

There are no words in them, only the chapters' letters, so that they serve every language.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from sklearn_lenet.datasets import load_mnist_sample

STATIC = Path(__file__).parents[1] / "_static"

# Okabe and Ito's colours, which differ in greys, too; each has a line style of its own
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
STYLES = [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (RED, ":")]

plt.rcParams |= {
    "font.size": 13,
    "mathtext.fontset": "cm",
    "savefig.facecolor": "white",
    "svg.hashsalt": "learn",
}


def save(figure, name):
    """Write a figure without its date, so that the file changes only where the picture does."""
    metadata = {"Date": None} if name.endswith("svg") else None
    figure.savefig(STATIC / name, bbox_inches="tight", pad_inches=0.08, dpi=110, metadata=metadata)
    plt.close(figure)


def frame(ax, left, top, width, height, **style):
    """Outline a rectangle of cells of 1 x 1."""
    ax.add_patch(Rectangle((left, top), width, height, **({"fill": False, "lw": 2.5} | style)))


def cells(ax, numbers, left=0, top=0, faces=None):
    """Draw a table of cells with what stands in them."""
    for (i, j), number in np.ndenumerate(np.asarray(numbers, dtype=object)):
        face = "white" if faces is None else faces[i][j]
        frame(ax, left + j, top + i, 1, 1, fill=True, facecolor=face, edgecolor="0.5", lw=0.8)
        ax.text(left + j + 0.5, top + i + 0.52, number, ha="center", va="center")


def canvas(width, height, inches):
    """Make axes of width x height cells, the origin at the top left."""
    figure, ax = plt.subplots(figsize=(inches, inches * height / width))
    ax.set(xlim=(-0.1, width + 0.1), ylim=(height + 0.1, -0.1), aspect="equal")
    ax.axis("off")
    return figure, ax


def title(ax, x, text):
    """Write above a column of the canvas."""
    ax.text(x, 0.5, text, ha="center", va="center", fontsize=17)


def draw_convolution():
    """Draw a digit, a kernel and the map."""
    X, _ = load_mnist_sample(subset="train", return_X_y=True)
    digit = X[0].reshape(28, 28) / 255
    edges = np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]])
    views = np.lib.stride_tricks.sliding_window_view(digit, (3, 3))
    z = np.einsum("ijuv,uv->ij", views, edges)
    i, j = np.unravel_index(z.argmax(), z.shape)
    figure, axes = plt.subplots(1, 3, figsize=(7, 2.9), width_ratios=(28, 12, 28))
    for ax, image, limit, letter in zip(
        axes, (digit, edges, z), ((0, 1), (-4, 4), (-4, 4)), ("$x$", "$w$", "$z$"), strict=True
    ):
        ax.imshow(image, cmap="gray", vmin=limit[0], vmax=limit[1])
        ax.set_title(letter, fontsize=18)
        ax.set(xticks=[], yticks=[])
    for (u, v), weight in np.ndenumerate(edges):
        axes[1].text(v, u, weight, ha="center", va="center", color="k" if weight > 0 else "w")
    frame(axes[0], j - 0.5, i - 0.5, 3, 3, edgecolor=ORANGE)
    frame(axes[1], -0.5, -0.5, 3, 3, edgecolor=ORANGE, lw=4)
    frame(axes[2], j - 0.5, i - 0.5, 1, 1, edgecolor=ORANGE)
    save(figure, "learn_convolution.png")


def draw_im2col():
    """Draw an image's four places of a kernel, and their columns."""
    x = np.arange(1, 17).reshape(4, 4)
    figure, ax = canvas(11, 10.2, 5.6)
    cells(ax, x, 0, 3)
    title(ax, 2, "$x$")
    title(ax, 8.2, "$P$")
    for number, (i, j) in enumerate(np.ndindex(2, 2)):
        colour, line = STYLES[number]
        inset = 0.05 + 0.06 * number
        side = 3 - 2 * inset
        style = {"edgecolor": colour, "linestyle": line}
        frame(ax, j + inset, 3 + i + inset, side, side, **style)
        left = 6 + 1.2 * number
        cells(ax, x[i : i + 3, j : j + 3].reshape(9, 1), left, 1.2)
        frame(ax, left, 1.2, 1, 9, **style)
    ax.annotate("", (5.7, 5), (4.3, 5), arrowprops={"arrowstyle": "->", "lw": 1.5})
    save(figure, "learn_im2col.svg")


def draw_backward():
    """Draw the gradient of the input as a convolution: k = 3, s = 2, p = 1."""
    G = np.full((7, 7), "0", dtype=object)
    faces = np.full((7, 7), "0.9", dtype=object)
    for i, j in np.ndindex(2, 2):
        G[2 + 2 * i, 2 + 2 * j] = f"$G_{{{i}{j}}}$"
        faces[2 + 2 * i, 2 + 2 * j] = "#BBDDF5"
    figure, ax = canvas(18.4, 8.4, 7)
    cells(ax, G, 0, 1.2, faces)
    turned = [[f"$w_{{{u}{v}}}$" for v in (2, 1, 0)] for u in (2, 1, 0)]
    cells(ax, turned, 8.4, 3.2, np.full((3, 3), "#FBE3B0"))
    cells(ax, np.full((5, 5), ""), 13, 2.2, np.full((5, 5), "white"))
    for i, j in np.ndindex(5, 5):
        if {i, j} & {0, 4}:
            style = {"fill": True, "facecolor": "white", "edgecolor": "0.5", "hatch": "////"}
            frame(ax, 13 + j, 2.2 + i, 1, 1, lw=0.8, **style)
    frame(ax, 1, 2.2, 3, 3, edgecolor=RED)
    frame(ax, 8.4, 3.2, 3, 3, edgecolor=RED)
    frame(ax, 14, 3.2, 1, 1, edgecolor=RED)
    title(ax, 3.5, "$G$")
    title(ax, 9.9, "$w$")
    title(ax, 15.5, r"$\partial L\,/\,\partial \bar{x}$")
    ax.text(7.7, 4.7, r"$*$", ha="center", va="center", fontsize=18)
    ax.text(12.2, 4.7, "$=$", ha="center", va="center", fontsize=18)
    save(figure, "learn_backward.svg")


def draw_pooling():
    """Draw how a window's gradient goes back."""
    g = "$g$"
    tables = (
        ("$a$", [[1, 3], [7, 5]], ["white"] * 2),
        (r"$\frac{1}{4}\sum a$", [["$g/4$"] * 2] * 2, ["#BBDDF5"] * 2),
        (r"$\max\, a$", [[0, 0], [g, 0]], None),
    )
    figure, ax = canvas(10.4, 3.4, 5)
    for number, (letter, table, row) in enumerate(tables):
        left = 4.2 * number
        faces = [["0.9", "0.9"], ["#BBDDF5", "0.9"]] if row is None else [row] * 2
        cells(ax, table, left, 1.3, faces)
        title(ax, left + 1, letter)
    save(figure, "learn_pooling.svg")


def draw_softmax():
    """Draw answer, target and gradient."""
    a = np.array([0.1, 0.7, 0.15, 0.05])
    y = np.array([0, 1, 0, 0])
    figure, axes = plt.subplots(1, 3, figsize=(7, 2.4), sharey=True)
    bars = (("$a$", a, BLUE, ""), ("$y$", y, ORANGE, "//"), ("$a - y$", a - y, GREEN, "xx"))
    for ax, (letter, heights, colour, hatch) in zip(axes, bars, strict=True):
        ax.bar(range(4), heights, color=colour, edgecolor="white", hatch=hatch)
        for c, height in enumerate(heights):
            place = height + (0.04 if height >= 0 else -0.04)
            side = "bottom" if height >= 0 else "top"
            ax.text(c, place, f"${height:g}$", ha="center", va=side, fontsize=10)
        ax.axhline(0, color="k", lw=1)
        ax.set(title=letter, xticks=range(4), xlabel="$c$", ylim=(-0.55, 1.25))
        ax.spines[["top", "right"]].set_visible(False)
    save(figure, "learn_softmax.svg")


def draw_patches():
    """Draw the four places of a kernel in one patch."""
    figure, ax = canvas(6, 6, 3.4)
    cells(ax, np.full((6, 6), ""))
    for number, (i, j) in enumerate(np.ndindex(2, 2)):
        colour, line = STYLES[number]
        inset = 0.1 + 0.08 * number
        side = 5 - 2 * inset
        frame(ax, j + inset, i + inset, side, side, edgecolor=colour, linestyle=line)
        place = 2 + 2 * j, 2 + 2 * i
        ax.text(*place, f"({i}, {j})", ha="center", va="center", backgroundcolor="w")
    save(figure, "learn_patches.svg")


if __name__ == "__main__":
    draw_convolution()
    draw_im2col()
    draw_backward()
    draw_pooling()
    draw_softmax()
    draw_patches()
