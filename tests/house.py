"""How large the package's parts are, and how they hang together: `python -m tests.house`.

Lines of code are those that hold more than comments and docstrings. An arrow is one file of the
package that imports another.
"""

import ast
import io
import re
import tokenize
from pathlib import Path

import sklearn_lenet

PACKAGE = Path(sklearn_lenet.__file__).parent

# A function of more is listed
LINES, ARGUMENTS = 40, 6

_IGNORED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> set[int]:
    """Give the numbers of the lines that hold code, of a module of Python."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _IGNORED:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def cuda_lines(source: str) -> int:
    """Count the lines that hold code, of CUDA C++."""
    source = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    return sum(bool(re.sub("//.*", "", line).strip()) for line in source.splitlines())


def long_functions(source: str) -> list[tuple[str, int, int]]:
    """List functions of many lines or arguments: name, lines of code, arguments beside self."""
    lines, found = code_lines(source), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n_lines = len(lines & set(range(node.lineno, node.end_lineno + 1)))
            names = [
                a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            ]
            n_arguments = len([name for name in names if name not in ("self", "cls")])
            if n_lines > LINES or n_arguments > ARGUMENTS:
                found.append((node.name, n_lines, n_arguments))
    return found


def imported(path: Path, files: set[Path]) -> set[Path]:
    """Give the files of the package that a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1]
            whole = folder.joinpath(*(node.module or "").split("."))
            names = [whole, *(whole / alias.name for alias in node.names)]
            places = (p for name in names for p in (name.with_suffix(".py"), name / "__init__.py"))
            found |= files & set(places)
    return found - {path}


def main() -> None:
    """Print the table."""
    files = sorted(PACKAGE.rglob("*.py"))
    arrows = {path: imported(path, set(files)) for path in files}
    print(f"{'file':28}{'lines':>7}{'imports':>9}{'imported by':>13}")
    total = 0
    for path in files:
        n_lines = len(code_lines(path.read_text()))
        total += n_lines
        n_from = sum(path in others for others in arrows.values())
        print(f"{path.relative_to(PACKAGE)!s:28}{n_lines:7}{len(arrows[path]):9}{n_from:13}")
    print(f"{'Python':28}{total:7}{sum(map(len, arrows.values())):9}")
    cuda = {path: cuda_lines(path.read_text()) for path in sorted(PACKAGE.rglob("*.cu"))}
    for path, n_lines in cuda.items():
        print(f"{path.relative_to(PACKAGE)!s:28}{n_lines:7}")
    print(f"{'CUDA':28}{sum(cuda.values()):7}\n{'all':28}{total + sum(cuda.values()):7}")
    found = [(path, *entry) for path in files for entry in long_functions(path.read_text())]
    print(f"\n{len(found)} functions of more than {LINES} lines or {ARGUMENTS} arguments:")
    for path, name, n_lines, n_arguments in found:
        print(
            f"  {path.relative_to(PACKAGE)!s:28}{name:28}{n_lines:4} lines{n_arguments:4} arguments"
        )


if __name__ == "__main__":
    main()
