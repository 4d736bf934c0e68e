"""The search over prompts: its parts on numbers worked by hand, and the route on the toy decoder."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tickets import climb_here, write_task

from served import Served, served
from tunesmith.core.records import Example
from tunesmith.data.task import load_task
from tunesmith.evaluate.answer import Answers, Asker
from tunesmith.recipes._routes.prompt_bench import clean_instruction
from tunesmith.recipes._routes.prompt_search import Candidate, Row, Search, pareto_weights

SMALL = "optimised-prompt:scored_rows=90,rounds=2,candidates=4,held_out=16"


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task with labels of several words."""
    return write_task(tmp_path_factory.mktemp("tickets"), train=40)


def test_a_candidate_is_a_parent_as_often_as_nobody_is_better() -> None:
    """Rows 1..4: a is best on 1 (tied with b) and 2; b on 1 and 4; c on 3; d nowhere though its mean beats c's."""
    a, b = [(1, 0.0), (1, -1.0), (0, -2.0), (0, -3.0)], [(1, 0.0), (0, -1.0), (0, -2.0), (1, -2.0)]
    c, d = [(0, -9.0), (0, -9.0), (1, -1.0), (0, -9.0)], [(1, -0.1), (1, -1.1), (1, -1.1), (0, -3.0)]
    assert pareto_weights([a, b, c, d]) == [2, 2, 1, 0]
    # The control: by the mean alone, d would be first and c last.
    assert max([a, b, c, d], key=lambda rows: sum(right for right, _ in rows)) is d
    assert pareto_weights([[], []]) == [1, 1]


class Judge:
    """Candidates that are right as often as their instruction says, on rows that are easy or hard for all alike."""

    def __init__(self, rows: int) -> None:
        chance = random.Random(5)
        self.hardness = [chance.random() for _ in range(rows)]
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, candidate: Candidate, start: int, stop: int) -> list[Row]:
        self.asked.append((candidate.number, start, stop))
        return [(float(float(candidate.instruction) > h), float(candidate.instruction) - h) for h in self.hardness[start:stop]]


def searched(budget: int, qualities: Sequence[float], rows: int = 100) -> tuple[Search, list[Candidate], Judge]:
    judge = Judge(rows)
    search = Search(judge, rows, budget)
    pool = [search.add(str(q), (), "test") for q in qualities]
    return search, search.halve([c for c in pool if c], budget), judge


def test_halving_finds_the_best_of_many_for_less_than_asking_all_of_them() -> None:
    qualities = [0.5 + 0.013 * (i * 7 % 26) for i in range(26)]
    search, survivors, judge = searched(600, qualities)
    best = max(range(26), key=lambda i: qualities[i])
    assert survivors[0].number == best
    assert search.spent == sum(stop - start for _, start, stop in judge.asked) <= 600 < 26 * 100
    # Rows are asked once, from the first on, and those that go far are those that are good.
    depth = {c.number: len(search.scores[c.number]) for c in search.candidates}
    for number, rows in depth.items():
        spans = [(start, stop) for n, start, stop in judge.asked if n == number]
        assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
        assert spans[-1][1] == rows
    deep = [n for n, rows in depth.items() if rows == max(depth.values())]
    assert best in deep
    assert len(deep) <= 5


@pytest.mark.parametrize("budget", [0, 3, 26, 27, 100, 1234])
def test_the_budget_is_never_passed(budget: int) -> None:
    search, survivors, judge = searched(budget, [0.1 * (i % 10) + 0.001 * i for i in range(27)])
    assert search.spent == sum(stop - start for _, start, stop in judge.asked) <= budget
    assert search.candidates[0] in survivors
    search.deepen(survivors, 10_000)
    assert search.spent <= budget


def test_the_given_prompt_wins_ties_and_is_never_dropped() -> None:
    search, survivors, _ = searched(200, [0.5, *[0.5] * 3, 0.2])
    assert [c.number for c in search.candidates] == [0, 1], "equal prompts are one candidate"
    assert survivors[0].number == 0
    worst, survivors, _ = searched(400, [0.1, *(0.5 + i / 100 for i in range(12))])
    assert worst.candidates[0] in survivors
    assert survivors[-1].number == 0
    # Without a single row nothing speaks against it either.
    assert searched(0, [0.1, 0.9])[1][0].number == 0


def test_a_search_that_is_out_of_time_scores_nothing_more() -> None:
    judge = Judge(50)
    search = Search(judge, 50, 1000, lambda: len(judge.asked) >= 2)
    pool = [search.add(str(q), (), "test") for q in (0.1, 0.5, 0.9)]
    search.halve([c for c in pool if c], 1000)
    assert len(judge.asked) == 2


@pytest.mark.parametrize(
    ("written", "instruction"),
    [
        ("Decide whether the customer wants money.", "Decide whether the customer wants money."),
        ('Better instruction: "Say which of the three it is."\n\nThis is better because ...', "Say which of the three it is."),
        ("\n\n  Read it twice.\nThen   answer with one label. And then", "Read it twice. Then answer with one label."),
        ("no sentence at all", ""),
        ("Short.", ""),
        ("", ""),
        ("The row 'Hola, mi dinero' is a refund.", ""),
        ("Read it. " + "Think about it well. " * 40, "Read it. " + " ".join(["Think about it well."] * 18)),
    ],
)
def test_what_a_model_writes_becomes_an_instruction_or_nothing(written: str, instruction: str) -> None:
    assert clean_instruction(written, ["hola, MI dinero"]) == instruction


def artefacts(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    (log,) = folder.rglob("search.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()], json.loads((log.parent / "prompt.json").read_text())


class Watch:
    """Notes which rows are asked before and after the winner is written down."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searching: list[str] = []
        self.after: list[str] = []
        real = Asker.ask

        def ask(asker: Asker, items: Sequence[Example], *rest: Any, **named: Any) -> Answers:
            done = any(folder.rglob("prompt.json"))
            (self.after if done else self.searching).extend(e.id for e in items)
            return real(asker, items, *rest, **named)

        monkeypatch.setattr(Asker, "ask", ask)


def test_the_search_reads_training_rows_only_and_keeps_its_budget(
    tickets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(tmp_path, monkeypatch)
    result, predictions = climb_here(tickets, tmp_path, SMALL)
    splits = load_task(str(tickets)).splits
    train, test = {e.id for e in splits.train}, {e.id for e in splits.test}
    assert set(watch.searching) <= train
    assert set(watch.after) == test
    log, prompt = artefacts(tmp_path)
    assert len(watch.searching) == prompt["rows_scored"] <= 90
    tried = [row for row in log if "candidate" in row]
    assert [row["candidate"] for row in tried] == list(range(len(tried)))
    assert len(tried) == prompt["candidates"] >= 4
    assert {row["origin"] for row in tried} >= {"given", "task file", "demonstrations"}
    held_out = [e.id for e in splits.train[:16]]
    assert not {shown for row in tried for shown in row["demonstrations"]} & set(held_out)
    for row in tried:
        assert row["rows"] == len(row["right"])
        assert row["accuracy"] == pytest.approx(sum(row["right"]) / max(row["rows"], 1))
        assert all(parent < row["candidate"] for parent in row["parents"])
    assert f"{prompt['rows_scored']:,} scored training rows" in result.notes[0]
    # The winner is what the items were asked with.
    parts = [prompt["instruction"], *(f"{d['prompt']} {d['answer']}" for d in prompt["demonstrations"])]
    before = "".join(f"{part}\n\n" for part in parts if part)
    assert all(p.prompt == f"{before}Ticket: {p.text}\nTipo:" for p in predictions)
    assert max(tried, key=lambda row: (row["alive"], row["rows"]))["alive"]


def test_a_seed_gives_the_same_search_every_time(tickets: Path, tmp_path: Path) -> None:
    runs = {}
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        climb_here(tickets, tmp_path / name, SMALL, test_rows=2, seed=seed)
        runs[name] = artefacts(tmp_path / name)
    assert runs["one"] == runs["two"]
    assert runs["one"][0] != runs["other"][0]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """A writer of instructions behind a URL."""
    with served() as it:
        it.rule = lambda said, seed: f"Instruction: Look for words of money, rule {seed % 1000}."
        yield it


def test_another_model_may_write_the_instructions(server: Served, tickets: Path, tmp_path: Path) -> None:
    route = {"name": "optimised-prompt", "scored_rows": 90, "rounds": 1, "candidates": 5, "held_out": 16, "writer": server.url}
    result, _ = climb_here(tickets, tmp_path, route, test_rows=2)  # type: ignore[arg-type]
    log, _ = artefacts(tmp_path)
    written = [row for row in log if row.get("origin") == "reflection"]
    assert written
    assert all(row["instruction"].startswith("Look for words of money, rule ") for row in written)
    said = [body["messages"][-1]["content"] for route, _, body in server.asked if body]
    splits = load_task(str(tickets)).splits
    for text in said:
        shown = [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]
        assert 1 <= len(shown) <= 3
        # Mistakes come from the rows that are not judged on, and never from the test.
        assert set(shown) <= {e.fields["text"] for e in splits.train[16:]}
    assert result.route == "optimised prompt (written)"


def test_too_few_rows_to_search_on(tickets: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="at least 16 training rows, and there are 10"):
        climb_here(tickets, tmp_path, SMALL, train_rows=10)
