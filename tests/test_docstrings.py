"""The docstrings of what is public follow numpydoc, by scikit-learn's own choice of its rules."""

import importlib.util
import inspect
from importlib import import_module

import pytest

# As in scikit-learn's test of its docstrings: no extended summary, examples or "See Also" are asked
# for, and a value that is returned has a name and a type in its first line
NOT_ASKED_FOR = {"ES01", "EX01", "GL01", "GL02", "RT02", "SA01", "SA04", "YD01"}

MODULES = ["sklearn_lenet", "sklearn_lenet.datasets", "sklearn_lenet.inspection"]
if importlib.util.find_spec("sklearn.callback"):
    MODULES.append("sklearn_lenet.callbacks")

# Called by scikit-learn alone, which describes their arguments
HOOKS = {"setup", "teardown", "on_fit_task_begin", "on_fit_task_end"}


def public_names():
    for module in MODULES:
        for name in import_module(module).__all__:
            public = getattr(import_module(module), name)
            if callable(public):
                yield f"{module}.{name}"
            if inspect.isclass(public) and not issubclass(public, Warning):
                for own, value in vars(public).items():
                    is_method = inspect.isfunction(value) or isinstance(value, classmethod)
                    if is_method and own[0] != "_" and own not in HOOKS:
                        yield f"{module}.{name}.{own}"
    yield "sklearn_lenet.onnx.to_onnx"


@pytest.mark.parametrize("name", [*public_names()])
def test_follows_numpydoc(name):
    validate = pytest.importorskip("numpydoc.validate", reason="numpydoc is not installed").validate
    if "onnx" in name:
        pytest.importorskip("onnx")
    errors = [error for error in validate(name)["errors"] if error[0] not in NOT_ASKED_FOR]
    assert errors == []
