"""Registries turn names into entries, and entry specifications into parameters."""

import subprocess
import sys

import pytest

from tunesmith.core.errors import UserError
from tunesmith.core.registry import METRICS, PEFT, ROUTES


def test_names_are_file_names_and_helpers_are_none() -> None:
    assert METRICS.names() == sorted(METRICS.names())
    assert {"accuracy", "macro-f1", "exact-match", "perplexity"} <= set(METRICS.names())
    assert not any(name.startswith("_") for name in [*METRICS.names(), *PEFT.names()])


def test_hyphen_and_underscore_are_the_same() -> None:
    assert METRICS.get("macro_f1") is METRICS.get("macro-f1")


def test_an_unknown_name_has_a_near_miss() -> None:
    with pytest.raises(UserError, match=r"unknown metric 'acuracy'\n  Did you mean 'accuracy'?"):
        METRICS.get("acuracy")
    with pytest.raises(UserError, match="unknown metric '_weights'"):
        METRICS.get("_weights")
    with pytest.raises(UserError, match="unknown metric"):
        METRICS.get("../core/files")


def test_three_ways_to_write_an_entry_are_one() -> None:
    entry, parameters = PEFT.parameters("lora:rank=4,alpha=8")
    assert (parameters.rank, parameters.alpha) == (4, 8)
    assert PEFT.parameters({"name": "lora", "rank": 4, "alpha": 8}) == (entry, parameters)
    assert PEFT.parameters("lora")[1] == entry.Parameters()
    assert PEFT.parameters("lora: rank = 4 , alpha=8,")[1] == parameters


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("lora:rnk=4", r"peft method 'lora': unknown key 'rnk'\n  Did you mean 'rank'"),
        ("lora:rank=four", r"peft method 'lora': rank: .*got 'four'"),
        ("lora:rank", r"cannot read 'rank' in peft method 'lora:rank'\n  Write it as name:key=value"),
        ("lorra", r"unknown peft method 'lorra'\n  Did you mean 'lora'"),
        ("", "a peft method needs a name"),
        ({"rank": 4}, r"a peft method needs a name\n  Known: bitfit, full, houlsby, ia3, lora"),
        ({"name": 5}, "a peft method needs a name"),
    ],
)
def test_a_wrong_specification_is_explained(spec: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        PEFT.parameters(spec)  # type: ignore[arg-type]


def test_listing_and_summaries_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tunesmith.core.registry import ROOMS\n"
        "lines = [room.summary(name) for room in ROOMS for name in room.names()]\n"
        "assert len(lines) > 20 and all(lines), lines\n"
        "print(sorted(m for m in ('torch', 'transformers', 'numpy', 'sklearn') if m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert ROUTES.summary("zero-shot") == ROUTES.get("zero-shot").__doc__.split("\n")[0]
