"""Measure, and print, write and draw the figures: ``python -m tests.benchmarks --help``."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import gpu, report
from .figures import FIGURES, ROOT
from .measuring import Result, Settings, data_directory


def main() -> None:
    """Run the figures that are asked for, each in a process of its own."""
    arguments = _arguments()
    data = data_directory(arguments.data)
    if arguments.device == "cuda":
        gpu.main(arguments.quick, data, arguments.json, arguments.only)
        return
    settings = Settings(
        quick=arguments.quick,
        data=str(Path(data).resolve()) if data else None,
        repeats=2 if arguments.quick else 7,
    )
    header = {
        "machine": report.machine(),
        "data": "MNIST" if data else "the sample of MNIST that ships with the package",
        "quick": settings.quick,
    }
    _print_header(header)
    begin = time.perf_counter()
    results: dict[str, Any] = {}
    for number, name in enumerate(arguments.only, start=1):
        _progress(f"[{number}/{len(arguments.only)}] {name}: {FIGURES[name].what}")
        results[name] = FIGURES[name], measure(name, settings)
        _progress("")
        print(report.row(name, *results[name]), flush=True)
    for _, result in results.values():
        if result.text:
            print(f"\n{result.text}")
    print(f"\n{time.perf_counter() - begin:.0f} s in all")

    rows = [
        {
            "name": name,
            "what": figure.what,
            "at_least": figure.at_least,
            "at_most": figure.at_most,
            "unit": figure.unit,
            "verdict": report.verdict(figure, result),
            **asdict(result),
        }
        for name, (figure, result) in results.items()
    ]
    report.write_json(arguments.json, header, rows)
    title = f"sklearn_lenet on {header['machine']['cpu']}, {header['machine']['cores']} cores"
    report.write_chart(arguments.png, title, results)
    print(f"written: {arguments.json}, {arguments.png}")


def measure(name: str, settings: Settings) -> Result:
    """Measure a figure in a fresh process; a rival that is missing or fails leaves a note."""
    missing = [module for module in FIGURES[name].needs if find_spec(module) is None]
    if missing:
        return Result(note=f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "result.json")
        command = ["-m", f"{__package__}.worker", name, json.dumps(asdict(settings)), str(output)]
        process = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True
        )
        if process.returncode:
            print(f"\n{process.stderr}", file=sys.stderr)
            return Result(note=f"FAILED, with exit status {process.returncode}: see above")
        return Result(**json.loads(output.read_text()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help=f"figures, or the beginnings of their names: {', '.join(FIGURES)}; "
        f"with --device cuda: {', '.join(gpu.PARTS)}",
    )
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="cuda: the figures of a GPU instead, in one process",
    )
    parser.add_argument("--quick", action="store_true", help="measure little, to see that it works")
    parser.add_argument("--data", help="directory of MNIST's files (default: SKLEARN_LENET_DATA)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"))
    parser.add_argument("--png", type=Path, default=Path("benchmarks.png"))
    arguments = parser.parse_args()
    known = list(gpu.PARTS if arguments.device == "cuda" else FIGURES)
    chosen = {
        start: [name for name in known if name == start or name.startswith(f"{start}-")]
        for start in arguments.only or known
    }
    for start, names in chosen.items():
        if not names:
            parser.error(f"no figure {start!r}: choose from {', '.join(known)}")
    arguments.only = list(dict.fromkeys(name for names in chosen.values() for name in names))
    return arguments


def _print_header(header: dict[str, Any]) -> None:
    machine = dict(header["machine"])
    print(f"{machine.pop('cpu')}, {machine.pop('cores')} cores, {machine.pop('system')}")
    print("BLAS: " + "; ".join(machine.pop("blas")))
    print(", ".join(f"{name} {number or '-'}" for name, number in machine.items()))
    print(f"Data: {header['data']}. Threads: as each line says, set in its own process.")
    print("A quick run: the figures mean little.\n" if header["quick"] else "")
    print(report.HEADER)


def _progress(line: str) -> None:
    """Show a line where the table's next one will be, if there is someone to see it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line[:100]}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
