"""The table, the JSON file and the chart."""

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

import sklearn_lenet

from .figures import Figure
from .measuring import Result

# Below this, two threads did not have two cores for themselves
_ENOUGH_CORES = 1.6

_PACKAGES = (
    "scikit-learn",
    "torch",
    "skorch",
    "onnx",
    "onnxruntime",
    "jax",
    "keras",
)


def machine() -> dict[str, Any]:
    """Describe the machine and the libraries."""
    return {
        "cpu": _cpu_model(),
        "cores": os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sklearn_lenet": sklearn_lenet.__version__,
        "numpy": np.__version__,
        "blas": [
            f"{library['internal_api']} {library['version']} ({library.get('architecture')}), "
            f"{library['num_threads']} threads"
            for library in threadpool_info()
            if library["user_api"] == "blas"
        ],
        **{package: _version(package) for package in _PACKAGES},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def verdict(figure: Figure, result: Result) -> str:
    """Say whether a figure is what is wanted of it; it is moot if the second core was missing."""
    if result.value is None:
        return ""
    if _lacked_core(result):
        return "moot"
    if figure.at_least is not None:
        return "ok" if result.value >= figure.at_least else "short"
    if figure.at_most is None:
        return ""
    return "ok" if result.value <= figure.at_most else "short"


def row(name: str, figure: Figure, result: Result) -> str:
    """Write one line of the table."""
    wanted = ""
    if figure.at_least is not None:
        wanted = f">= {_shown(figure.at_least, figure.unit)}"
    elif figure.at_most is not None:
        wanted = f"<= {_shown(figure.at_most, figure.unit)}"
    missing = "SECOND CORE MISSING" if _lacked_core(result) else ""
    cells = [
        f"{name:13}",
        f"{_shown(result.value, figure.unit):>9}",
        f"{wanted:>10}",
        f"{verdict(figure, result):6}",
        f"{_milliseconds(result.ours_ms):>10}",
        f"{_milliseconds(result.rival_ms):>10}",
        f"{_cores(result):14}",
        "; ".join(filter(None, [figure.what, missing, result.note])),
    ]
    return " ".join(cells)


HEADER = (
    f"{'figure':13} {'ratio':>9} {'wanted':>10} {'':6} {'ours ms':>10} {'rival ms':>10} "
    f"{'cores: free':14} what\n{'':73}ours/rival"
)


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "":
        return "yes" if value else "no"
    return f"{value:.2f}" if unit == "x" else f"{value:.3g} {unit}"


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 100 else f"{value:.0f}"


def _cores(result: Result) -> str:
    if result.free_cores is None:
        return ""
    return f"{result.free_cores:.1f}: {result.ours_cores:.1f}/{result.rival_cores:.1f}"


def _lacked_core(result: Result) -> bool:
    return result.free_cores is not None and result.free_cores < _ENOUGH_CORES


def write_json(path: Path, header: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write all that was measured."""
    path.write_text(json.dumps({**header, "figures": rows}, indent=1) + "\n")


_BARS: dict[str, dict[str, Any]] = {
    "ok": {"color": "tab:green"},
    "short": {"color": "tab:orange"},
    "moot": {"color": "white", "edgecolor": "tab:gray", "hatch": "//"},
    "": {"color": "tab:gray"},
}


def write_chart(path: Path, title: str, figures: dict[str, tuple[Figure, Result]]) -> None:
    """Draw how many times faster than its rivals ours is, with marks where it should be."""
    from matplotlib.figure import Figure as Canvas

    shown = {
        name: (figure, result)
        for name, (figure, result) in figures.items()
        if figure.unit == "x" and figure.at_most is None and result.value is not None
    }
    canvas = Canvas(figsize=(9, 1.6 + 0.36 * len(shown)), layout="constrained")
    axes = canvas.subplots()
    places = range(len(shown))
    for place, pair in zip(places, shown.values(), strict=True):
        figure, result = pair
        axes.barh(place, result.value, **_BARS[verdict(*pair)])
        if figure.at_least is not None:
            axes.plot([figure.at_least] * 2, [place - 0.4, place + 0.4], color="black", lw=2)
    axes.axvline(1, color="black", lw=0.8, ls=":")
    labels = [f"{name}  {result.value:.2f}" for name, (_, result) in shown.items()]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    # bars that mean nothing may go over the edge
    telling = [r.value for f, r in shown.values() if verdict(f, r) != "moot"]
    wanted = [f.at_least for f, _ in shown.values() if f.at_least is not None]
    axes.set_xlim(0, 1.1 * max([1, *telling, *wanted]))
    axes.set_xlabel(
        "the other's time / ours. Black marks: wanted; gray: nothing is wanted; hatched: means "
        "nothing, the second core was missing",
        fontsize=8,
    )
    axes.set_title(title, fontsize=9)
    canvas.savefig(path, dpi=150)
