"""Every health rule fires on what it is for, and is silent on the same thing a little milder."""

from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.files import write_json
from tunesmith.recipes._align import health
from tunesmith.recipes._align.health import RULES, broken
from tunesmith.recipes._align.watch import Watch

WELL: dict[str, float] = {
    "round": 0, "score": 0.0, "score_std": 1.0, "held_out": 0.0, "held_out_std": 1.0, "kl": 1.0, "entropy": 3.0,
    "completion_length": 20.0, "distinct_2": 0.9, "repetition": 0.05, "ties": 0.1, "policy_clipped": 0.05,
    "explained_variance": 0.3,
}  # fmt: skip


def run(ends: dict[str, float], count: int = 12) -> list[dict[str, float]]:
    """Rounds that go in a line from WELL to these values, which the last three of them have."""
    steps = count - health.WINDOW
    share = [min(max(i - health.WINDOW + 1, 0) / (steps - health.WINDOW + 1), 1.0) for i in range(count)]
    return [{key: value + share[i] * (ends.get(key, value) - value) for key, value in WELL.items()} for i in range(count)]


CASES: list[tuple[str, dict[str, float], dict[str, float], str]] = [
    ("length", {"score": 1.0, "completion_length": 60.0}, {"score": 1.0, "completion_length": 38.0}, "length x 3: likely length"),
    ("length", {"score": 1.0, "completion_length": 9.0}, {"score": 0.4, "completion_length": 9.0}, "length x 0.45"),
    ("held_out", {"score": 1.0, "held_out": -0.3}, {"score": 1.0, "held_out": -0.2}, "held-out score down by 0.3 standard"),
    ("held_out", {"score": 0.6, "held_out": -1.0}, {"score": 0.4, "held_out": -1.0}, "the policy exploits its scorer"),
    ("kl", {"kl": 15.1}, {"kl": 14.9}, "KL is 15.1 nats an answer"),
    ("entropy", {"entropy": 1.1}, {"entropy": 1.3}, "entropy fell to 37% of what it was"),
    ("repetition", {"repetition": 0.25}, {"repetition": 0.19}, "25% of an answer's 4-grams"),
    ("repetition", {"distinct_2": 0.5}, {"distinct_2": 0.6}, "fell to 56% of what they were"),
    ("ties", {"ties": 0.5}, {"ties": 0.49}, "the same for 50% of prompts"),
    ("clipping", {"policy_clipped": 0.31}, {"policy_clipped": 0.29}, "clipped at 31% of tokens"),
    ("value", {"explained_variance": -0.1}, {"explained_variance": 0.1}, "explained variance -0.10"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "ill", "mild", "words"), CASES)
def test_a_rule_fires_where_it_should_and_only_there(
    rule: str, ill: dict[str, float], mild: dict[str, float], words: str
) -> None:
    assert list(broken(run(ill))) == [rule]
    assert words in broken(run(ill))[rule]
    assert broken(run(mild)) == {}


def test_every_rule_has_its_cases() -> None:
    assert {rule for rule, *_ in CASES} == set(RULES)


def test_few_rounds_and_missing_numbers_say_nothing() -> None:
    assert broken(run({"kl": 50.0})[:3]) == {}
    assert "kl" in broken([{**WELL, "kl": 50.0}] * 4)
    assert broken(run({"explained_variance": -1.0}, 9)) == {}
    bare = [
        {key: row[key] for key in row if key not in ("held_out", "ties", "policy_clipped", "explained_variance")}
        for row in run({})
    ]
    assert broken(bare) == {}


def watched(folder: Path, rounds: list[dict[str, float]], **how: Any) -> list[bool]:
    """What a watch says to each round, as `Rollouts` keeps and shows them."""
    watch, said = Watch(folder, **{"stop_on": [], "max_kl": None, **how}), []
    for number, measured in enumerate(rounds):
        row = {"prompt": "p" * 300, "text": "\x1b[31mred\nline " + "x" * 300, "score": 0.5}
        kept = {"round": number, "measured": {**measured, "round": number}, "rows": [row] * 5}
        write_json(folder / f"round-{number:06d}.json", kept)
        said.append(watch(kept))
    return said


def test_a_stop_rule_stops_at_the_first_round_that_breaks_it_and_others_only_warn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = run({"kl": 30.0})
    stopped = watched(tmp_path, rounds, stop_on=["kl"])
    first = next(i for i in range(3, 12) if "kl" in broken(rounds[: i + 1]))
    assert stopped == [i >= first for i in range(12)]
    assert "WARNING: KL is" in (said := capsys.readouterr().err)
    assert said.count("WARNING") == 1
    assert "stopping before round" in said
    assert not any(watched(tmp_path, rounds, stop_on=["entropy"]))
    assert not any(watched(tmp_path, rounds))


def test_a_limit_of_kl_holds_from_the_first_round_on(tmp_path: Path) -> None:
    rounds = [{**WELL, "kl": kl} for kl in (0.0, 2.0, 4.1)]
    assert watched(tmp_path, rounds, max_kl=4.0) == [False, False, True]
    assert Watch(tmp_path, [], 4.0).reason(rounds) == "KL reached 4.10 nats an answer (--max_kl 4)"


def test_three_answers_of_a_round_are_shown_short_and_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched(tmp_path, [WELL])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("round 1: score 0.000, held out 0.000, KL 1.00")
    assert all(len(line) < 230 and "\x1b" not in line and "[31mred line" in line for line in lines[1:])
