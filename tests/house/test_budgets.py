"""Files, functions and parameter lists stay small, and nothing swallows errors it does not know."""

import ast
from pathlib import Path

from sources import PACKAGE, functions, modules, write

FILE_LINES, FUNCTION_LINES, LONG_LINES, LONG_SHARE, PARAMETERS = 400, 60, 40, 0.02, 8
BROAD_EDGE = "tunesmith.cli"  # the one place that may catch everything, to turn it into one line for a person


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end of the body."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def over_budget(package: Path) -> list[str]:
    """List files and functions that are too long and parameter lists that are too wide (`self` counts)."""
    found, total, long = [], 0, []
    for module in modules(package):
        if (lines := len(module.text.splitlines())) > FILE_LINES:
            found.append(f"{module.at(module.tree)}: {lines} lines")
        for function in functions(module.tree):
            total += 1
            where, lines, a = f"{module.at(function)} {function.name}", length(function), function.args
            if lines > FUNCTION_LINES:
                found.append(f"{where}: {lines} lines")
            if lines > LONG_LINES:
                long.append(where)
            if (width := len([*a.posonlyargs, *a.args, *a.kwonlyargs])) > PARAMETERS:
                found.append(f"{where}: {width} parameters")
    if len(long) > LONG_SHARE * total:
        found.append(f"{len(long)} of {total} functions are over {LONG_LINES} lines: {', '.join(long)}")
    return found


def broad_excepts(package: Path) -> list[str]:
    """List handlers that catch everything, outside the command line's edge."""
    found = []
    for module in modules(package):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler) and not module.name.startswith(BROAD_EDGE):
                caught = {"Exception"} if node.type is None else {getattr(n, "id", "") for n in ast.walk(node.type)}
                if caught & {"Exception", "BaseException"}:
                    found.append(module.at(node))
    return found


def test_the_package_is_within_its_budgets() -> None:
    assert over_budget(PACKAGE) == []


def test_errors_are_caught_by_name() -> None:
    assert broad_excepts(PACKAGE) == []


def test_every_budget_can_be_exceeded(tmp_path: Path) -> None:
    def lines_of(n: int, name: str = "f") -> str:
        return f"def {name}():\n" + "    x = 1\n" * (n - 1)

    package = write(
        tmp_path / "tunesmith",
        core__short="".join(lines_of(2, f"f{i}") for i in range(98)),
        core__long_function=lines_of(61),
        core__long_file="x = 1\n" * 401,
        core__wide="def g(a, /, b, c, d, e, *, f, g, h, i): ...\n",
    )
    assert over_budget(package) == [
        "core/long_file.py:1: 401 lines",
        "core/long_function.py:1 f: 61 lines",
        "core/wide.py:1 g: 9 parameters",
    ]


def test_two_in_a_hundred_functions_may_be_long_and_not_three(tmp_path: Path) -> None:
    def package(name: str, long: int) -> Path:
        body = "    x = 1\n"
        sizes = [40] * long + [1] * (100 - long)  # a body of 40 lines makes a function of 41
        files = {f"core__m{i}": f"def f{i}():\n{body * size}" for i, size in enumerate(sizes)}
        return write(tmp_path / name / "tunesmith", **files)

    assert over_budget(package("two", 2)) == []
    assert over_budget(package("three", 3))[0].startswith("3 of 100 functions are over 40 lines")


def test_every_broad_except_is_seen(tmp_path: Path) -> None:
    code = "try:\n    x = 1\nexcept {}:\n    x = 2\n"
    package = write(
        tmp_path / "tunesmith",
        core__bare=code.replace(" {}", ""),
        core__everything=code.format("(ValueError, Exception)"),
        core__base=code.format("BaseException as error"),
        core__named=code.format("(OSError, ValueError)"),
        cli=code.format("Exception"),
    )
    assert broad_excepts(package) == ["core/bare.py:3", "core/base.py:3", "core/everything.py:3"]
