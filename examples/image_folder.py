"""Learn from pictures in folders, one folder a class.

    python examples/image_folder.py

draws pictures of circles, squares and crosses into a temporary folder, reads them, and prints the
accuracy on a third of them.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.model_selection import train_test_split

from sklearn_lenet import LeNetClassifier
from sklearn_lenet.datasets import load_image_folder


def draw(folder: Path, n_pictures: int = 150) -> None:
    """Draw pictures of three classes, each at a random place and size, in a random colour."""
    generator = np.random.default_rng(0)
    for name in ("circle", "cross", "square"):
        (folder / name).mkdir()
        for number in range(n_pictures):
            picture = Image.new("RGB", (32, 32), tuple(generator.integers(150, 256, 3).tolist()))
            pen, colour = ImageDraw.Draw(picture), tuple(generator.integers(0, 110, 3).tolist())
            radius = int(generator.integers(6, 11))
            x, y = generator.integers(radius, 32 - radius, 2).tolist()
            box = (x - radius, y - radius, x + radius, y + radius)
            if name == "circle":
                pen.ellipse(box, outline=colour, width=3)
            elif name == "square":
                pen.rectangle(box, outline=colour, width=3)
            else:
                pen.line(box, fill=colour, width=3)
                pen.line((box[0], box[3], box[2], box[1]), fill=colour, width=3)
            picture.save(folder / name / f"{number:03}.png")


def main() -> None:
    """Draw, read, learn, and print the accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder))
        pictures = load_image_folder(folder)
    print(f"Images: {pictures.images.shape}, classes: {', '.join(pictures.target_names)}")
    X, X_test, y, y_test = train_test_split(
        pictures.images, pictures.target, test_size=1 / 3, stratify=pictures.target, random_state=0
    )
    model = LeNetClassifier(max_iter=40, random_state=0).fit(X, y)
    print(f"Test accuracy: {model.score(X_test, y_test):.1%}")


if __name__ == "__main__":
    main()
