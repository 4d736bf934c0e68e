"""Rooms import only leftwards, and no two modules import each other, however long the way round."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from sources import PACKAGE, Module, modules, write

GROUPS = (
    ("core",),
    ("models", "data"),
    ("peft", "objectives", "rl", "metrics", "stats", "feedback", "retrieval"),
    ("train", "evaluate"),
    ("recipes",),
    ("serve", "cli"),
)
RANK = {room: rank for rank, rooms in enumerate(GROUPS) for room in rooms}
ENTRANCES = ("", "__main__")  # `tunesmith` itself and `python -m tunesmith` open the doors of every room


def imports(module: Module, known: set[str]) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the modules of the package that a module imports, inside functions and for type checking too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names if alias.name.split(".")[0] == "tunesmith")
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                own = module.name.split(".")
                base = own[: len(own) - node.level + module.is_package]
                source = ".".join([*base, *([node.module] if node.module else [])])
            else:
                source = node.module or ""
            for alias in node.names if source.split(".")[0] == "tunesmith" else ():
                inner = f"{source}.{alias.name}"
                if inner != "tunesmith.__version__":  # a constant that is there before any room is entered
                    yield (inner if inner in known else source), node


def room(name: str) -> str:
    """The room of a dotted module name; "" for the package itself."""
    return [*name.split("."), ""][1]


def wrong_directions(package: Path) -> list[str]:
    """List imports that go right or sideways, and modules outside every room."""
    found, all_modules = [], modules(package)
    known = {module.name for module in all_modules}
    for module in all_modules:
        here = room(module.name)
        if here in ENTRANCES:
            continue
        if here not in RANK:
            found.append(f"{module.at(module.tree)}: '{here}' is no room")
            continue
        for target, node in imports(module, known):
            there = room(target)
            if there != here and RANK.get(there, len(GROUPS)) >= RANK[here]:
                found.append(f"{module.at(node)}: {here} imports {target}")
    return found


def cycle(package: Path) -> list[str]:
    """Return the modules of one import cycle, or nothing."""
    all_modules = modules(package)
    known = {module.name for module in all_modules}
    graph = {module.name: {t for t, _ in imports(module, known) if t in known} for module in all_modules}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_rooms_import_only_leftwards() -> None:
    assert wrong_directions(PACKAGE) == []


def test_no_module_imports_itself_the_long_way_round() -> None:
    assert cycle(PACKAGE) == []


def test_every_wrong_direction_is_seen(tmp_path: Path) -> None:
    package = write(
        tmp_path / "tunesmith",
        core__runs="from tunesmith import __version__\n",
        core__files="def late():\n    from tunesmith.data import encode\n",
        data__encode="import tunesmith.models.load\n",
        models__load="from ..core import files\n",
        metrics__f1="from ..stats import bootstrap\n",
        stats__bootstrap="",
        recipes__tune="from tunesmith import core, Tune\n",
        extras__more="",
    )
    assert wrong_directions(package) == [
        "core/files.py:2: core imports tunesmith.data.encode",
        "data/encode.py:1: data imports tunesmith.models.load",
        "extras/more.py:1: 'extras' is no room",
        "metrics/f1.py:1: metrics imports tunesmith.stats.bootstrap",
        "recipes/tune.py:1: recipes imports tunesmith",
        "recipes/tune.py:1: recipes imports tunesmith",
    ]


def test_a_cycle_is_seen(tmp_path: Path) -> None:
    package = write(
        tmp_path / "tunesmith",
        core__a="from tunesmith.core.b import x\n",
        core__b="def f():\n    from tunesmith.core import c\n",
        core__c="import tunesmith.core.a\n",
    )
    assert set(cycle(package)) == {"tunesmith.core.a", "tunesmith.core.b", "tunesmith.core.c"}
