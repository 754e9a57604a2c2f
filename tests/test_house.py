"""The package's order: imports run downwards; and the command that counts lines counts right."""

from textwrap import dedent

import pytest

from . import house

# From the estimator down: each file imports later ones only
ORDER = [
    "onnx.py",
    "callbacks.py",
    "inspection/__init__.py",
    "inspection/_augmented.py",
    "inspection/_feature_maps.py",
    "inspection/_filters.py",
    "inspection/_loss_curve.py",
    "inspection/_mistakes.py",
    "inspection/_drawing.py",
    "_classifier.py",
    "_observers.py",
    "_state.py",
    "_parameters.py",
    "_validation.py",
    "_training.py",
    "_diagnosis.py",
    "_schedules.py",
    "_cuda/__init__.py",
    "_cuda/steps.py",
    "_cuda/engine.py",
    "_cuda/source.py",
    "_engine.py",
    "_optimizers.py",
    "_loss.py",
    "_network.py",
    "_layers.py",
    "_activations.py",
    "_images.py",
    "_augmentation.py",
    "_arrays.py",
    "_backend.py",
    "_interrupts.py",
    "_warnings.py",
]


@pytest.mark.parametrize("name", ORDER)
def test_imports_run_downwards(name):
    paths = [house.PACKAGE / other for other in ORDER]
    imported = house.imported(house.PACKAGE / name, set(house.PACKAGE.rglob("*.py")))
    assert imported <= set(paths[ORDER.index(name) + 1 :])


def test_every_file_has_its_place():
    found = {str(path.relative_to(house.PACKAGE)) for path in house.PACKAGE.rglob("*.py")}
    assert {name for name in found if not name.startswith("datasets/")} == {"__init__.py", *ORDER}


def test_lines_of_code():
    source = dedent('''
        """A docstring,
        of two lines."""

        # a comment
        TEXT = """no docstring,
        but a value"""


        def function(self, first, second):  # with a comment
            """Another docstring."""
            return (
                first,

                second,
            )
        ''')
    assert house.code_lines(source) == {6, 7, 10, 12, 13, 15, 16}


def test_lines_of_cuda():
    assert house.cuda_lines("int a;  // one\n\n// none\n/* none\n   either */\nint b;\n") == 2


def test_long_functions():
    lines = "\n".join(f"    x = {n}" for n in range(40))
    source = f"def long():\n{lines}\n\n\ndef wide(self, a, b, c, *, d, e, f, g):\n    pass\n"
    assert house.long_functions(source) == [("long", 41, 0), ("wide", 2, 7)]


def test_table(capsys):
    house.main()
    assert "_classifier.py" in capsys.readouterr().out
