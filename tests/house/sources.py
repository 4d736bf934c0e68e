"""The source tree as the house tests see it: modules with their dotted names and syntax trees."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tunesmith

PACKAGE = Path(tunesmith.__path__[0])
REPOSITORY = PACKAGE.parent.parent
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One file: `name` is dotted ("tunesmith.core.files"; a package is its folder's name)."""

    name: str
    path: Path
    text: str
    tree: ast.Module
    is_package: bool

    def at(self, node: ast.AST) -> str:
        """Where a node stands, as "core/files.py:12"."""
        return f"{'/'.join(self.path.parts[self.path.parts.index('tunesmith') + 1 :])}:{getattr(node, 'lineno', 1)}"


@cache
def modules(package: Path = PACKAGE) -> tuple[Module, ...]:
    """Read and parse every module below a package folder named `tunesmith`."""
    return tuple(_read(path, package) for path in sorted(package.rglob("*.py")))


def _read(path: Path, package: Path) -> Module:
    parts = path.relative_to(package.parent).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    text = path.read_text(encoding="utf-8")
    return Module(".".join(parts[:-1] if is_package else parts), path, text, ast.parse(text, path.name), is_package)


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield every function and method, nested ones too."""
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def write(package: Path, **files: str) -> Path:
    """Make a small package for a negative control: write(folder, core__files="...") makes folder/core/files.py."""
    for name, text in {"__init__": '"""A package."""\n', **files}.items():
        path = package / f"{name if name.startswith('__') else name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package
