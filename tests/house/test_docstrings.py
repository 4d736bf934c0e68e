"""Everything public explains itself: a docstring, full annotations, and arguments and errors that are really there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sources import PACKAGE, Function, modules, write

# What a caller must know of; `unknown` builds a UserError.
ERRORS = {"UserError": "UserError", "WorkFailed": "WorkFailed", "unknown": "UserError"}
Scope = ast.Module | ast.ClassDef


def public(scope: Scope) -> Iterator[tuple[Function | ast.ClassDef, bool]]:
    """Yield public classes, functions and methods, each with whether it stands in a class."""
    for node in scope.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node, isinstance(scope, ast.ClassDef)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node)


def parameters(function: Function, is_method: bool) -> list[ast.arg]:
    """The parameters a caller gives."""
    a = function.args
    every = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs, *([a.kwarg] if a.kwarg else [])]
    static = any(getattr(d, "id", "") == "staticmethod" for d in function.decorator_list)
    return every[1:] if is_method and not static else every


def documented(docstring: str) -> list[str]:
    """The names an "Args:" section speaks of."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n(?=[ ]))*)", docstring, re.MULTILINE)
    names = re.findall(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \(.*?\))?:", section[1], re.MULTILINE) if section else []
    return [name.strip(" *") for group in names for name in group.split(",")]


def raised(function: Function) -> set[str]:
    """The errors for people that a function raises itself, not counting functions inside it."""
    found, waiting = set(), list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found |= {ERRORS[n] for n in (getattr(node.exc.func, "id", getattr(node.exc.func, "attr", "")),) if n in ERRORS}
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return found


def problems_of_function(function: Function, is_method: bool) -> Iterator[str]:
    """Yield what a public function does not say, or says wrongly."""
    docstring, given = ast.get_docstring(function) or "", parameters(function, is_method)
    for argument in given:
        if argument.annotation is None:
            yield f"'{argument.arg}' has no type"
    if function.returns is None:
        yield "its result has no type"
    for name in documented(docstring):
        if name not in {argument.arg for argument in given}:
            yield f"explains '{name}', which is no parameter"
    for error in sorted(raised(function)):
        section = docstring.partition("Raises:")[2]
        if error not in section:
            yield f'raises {error}, and no "Raises:" says so'


def problems(package: Path) -> list[str]:
    """List what is public and does not explain itself."""
    found = []
    for module in modules(package):
        if not ast.get_docstring(module.tree):
            found.append(f"{module.at(module.tree)}: the module has no docstring")
        for node, in_class in public(module.tree):
            where = f"{module.at(node)} {node.name}"
            if not ast.get_docstring(node):
                found.append(f"{where}: no docstring")
            if isinstance(node, Function):
                found += [f"{where}: {problem}" for problem in problems_of_function(node, in_class)]
            else:
                made = next((n for n in node.body if isinstance(n, Function) and n.name == "__init__"), None)
                names = {a.arg for a in parameters(made, is_method=True)} if made else None
                stray = [n for n in documented(ast.get_docstring(node) or "") if names is not None and n not in names]
                found += [f"{where}: explains '{name}', which is no parameter" for name in stray]
    return found


def test_everything_public_explains_itself() -> None:
    assert problems(PACKAGE) == []


GOOD = '''"""A module."""

class Reader:
    """Reads.

    Args:
        path: where.
    """

    def __init__(self, path): ...

    @staticmethod
    def twice(x: int) -> int:
        """Double.

        Args:
            x: a number: any,
                also this: one.
        """

def read(path: str, *rest: int) -> str:
    """Read.

    Args:
        path, rest: what to read.

    Raises:
        UserError: it is missing.
    """
    raise UserError("missing")

def outer() -> None:
    """Build a function."""
    def inner():
        raise UserError("not ours")

def _private(x): ...
'''


def test_a_module_that_explains_itself_passes(tmp_path: Path) -> None:
    assert problems(write(tmp_path / "tunesmith", core__good=GOOD)) == []


def test_each_omission_is_seen(tmp_path: Path) -> None:
    def after(old: str, new: str) -> list[str]:
        assert old in GOOD
        package = tmp_path / str(len(list(tmp_path.iterdir()))) / "tunesmith"
        return [p.partition(" ")[2] for p in problems(write(package, core__m=GOOD.replace(old, new)))]

    assert after('"""A module."""', "") == ["the module has no docstring"]
    assert after('    """Build a function."""\n', "") == ["outer: no docstring"]
    assert after("outer() -> None", "outer()") == ["outer: its result has no type"]
    assert after("path: str,", "path,") == ["read: 'path' has no type"]
    assert after("path, rest: what", "path, others: what") == ["read: explains 'others', which is no parameter"]
    assert after("        path: where.", "        folder: where.") == ["Reader: explains 'folder', which is no parameter"]
    assert after("            x: a number", "            y: a number") == ["twice: explains 'y', which is no parameter"]
    assert after('raise UserError("missing")', 'raise WorkFailed("full")') == [
        'read: raises WorkFailed, and no "Raises:" says so'
    ]
    assert after("    Raises:\n        UserError: it is missing.\n", "") == ['read: raises UserError, and no "Raises:" says so']
