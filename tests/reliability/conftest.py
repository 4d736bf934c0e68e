"""`pytest tests/reliability --full` is the long form: 100 kills instead of 10, 10,000 flipped bits instead of 400, and so on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from forkserver import Server


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer --full."""
    parser.addoption("--full", action="store_true", help="the long version of tests that repeat a random experiment")


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether --full was given."""
    return bool(request.config.getoption("--full", default=False))


@pytest.fixture
def kills(full: bool) -> int:
    """How often to kill."""
    return 100 if full else 10


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Where commands run."""
    with Server() as started:
        yield started


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rows of messages."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    turns = [(f"what is {i} plus {i % 7}?", str(i + i % 7)) for i in range(40)]
    lines = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in turns]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
