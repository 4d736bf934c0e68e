"""report.html of a reward model: how far it agrees with people, and where not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.report.curves import Measured, chart, series
from tunesmith.evaluate.report.template import render

_IN_TABLE = (
    "run_dir", "artefact", "judgements", "trained_parameters", "steps", "tokens", "seconds", "final_loss", "validation", "fitted",
    "normalised", "spread",
)  # fmt: skip
_BIASED, _CHANCE = 0.1, 0.5


@dataclass(frozen=True)
class RewardReport:
    """A reward model that was trained and measured.

    Attributes:
        outcome: the content of report.json. rows: of metrics.jsonl. provenance: name -> value.
    """

    data: str
    model: str
    outcome: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    command: str
    provenance: Mapping[str, str]


def write_reward_html(report: RewardReport) -> str:
    """Return the whole page; equal reports give equal bytes. Every text that came from data or a user is escaped."""
    outcome = report.outcome
    losses = series(report.rows, "loss")
    last = losses[-1][0] if losses else 1
    bins = [(round(100 * b["confidence"]), b["accuracy"]) for b in outcome["calibration"]["bins"]]
    dots = list(dict(bins).items())
    return render(
        "reward",
        {
            "report": report,
            "outcome": outcome,
            "sentences": sentences(outcome),
            "agreement": _agreement(outcome),
            "calibration": chart(Measured("Calibration", "", [(50, 0.5), (100, 1.0)], dots), (50, 100)),
            "loss": chart(Measured("Loss", "nats per judgement", losses, noisy=True), (1, last)),
            "table": [(key.replace("_", " "), _value(outcome[key])) for key in _IN_TABLE if outcome.get(key) not in (None, {})],
        },
    )


def sentences(outcome: Mapping[str, Any]) -> list[str]:
    """Say in words what was found, the most important first."""
    accuracy, people, ties = outcome["accuracy"], outcome["people"], outcome["ties"]
    said = []
    if accuracy["low"] is not None and accuracy["low"] <= _CHANCE:
        said.append(
            f"It is not shown to be better than a coin ({_share(accuracy)} on {accuracy['n']:,} judgements): nothing should be "
            "steered by it yet. More judgements, epochs or a larger model may help."
        )
    if people:
        human, agreement = people["one_human"], people["agreement"]
        said.append(
            f"It orders two texts as the mean of all ratings does {_share(agreement)} of the time; one human does "
            f"{human['agreement']:.3f} of the time (of pairs that human does not call equal; {human['ties']:.0%} are called so)."
        )
    said.append(
        f"Of {accuracy['n']:,} judgements that order something and were not trained on, it agrees with {_share(accuracy)}; "
        f"{ties['share']:.0%} of these judgements' pairs were called equal and are not counted."
    )
    if "predicted" in ties:
        said.append(f"It expects ties in {ties['predicted']:.0%} of pairs.")
    said.append(
        f"It says it is {outcome['calibration']['mean_confidence']:.0%} sure on average, and is off by "
        f"{outcome['calibration']['ece']:.1%} (expected calibration error)."
    )
    return [*said, *_length_words(outcome["length"])]


def _length_words(length: Mapping[str, Any]) -> list[str]:
    preferred, scored = length["longer_preferred"], length["longer_scored_higher"]
    if preferred is None:
        return []
    words = f"The longer completion is scored higher in {scored:.0%} of pairs, and people preferred it in {preferred:.0%}"
    return [f"{words}: it has a bias for {'length' if scored > preferred else 'brevity'}."] if (
        abs(scored - preferred) > _BIASED
    ) else [f"{words}."]  # fmt: skip


def _share(measure: Mapping[str, Any]) -> str:
    return f"{measure['value']:.3f} [{measure['low']:.3f}, {measure['high']:.3f}]"


def _agreement(outcome: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = [("all test judgements that order something", outcome["accuracy"])]
    if people := outcome["people"]:
        rows.insert(0, ("all pairs of rated texts, by mean rating", people["agreement"]))
    rows += [(f"ratings {d['from']:.2g} to {d['to']:.2g} apart", d) for d in outcome["by_difficulty"]]
    rows += [
        (f"the {which} completion preferred", outcome["length"][f"accuracy_{which}_preferred"]) for which in ("longer", "shorter")
    ]
    rows += [(f"member {i}", member["accuracy"]) for i, member in enumerate(outcome["members"], 1)]
    made = [
        (name, f"{m['value']:.3f}", f"[{m['low']:.3f}, {m['high']:.3f}]", f"{m['n']:,}")
        for name, m in rows if m["value"] is not None
    ]  # fmt: skip
    if people:
        made.insert(
            1, ("one human, by the mean of the others", f"{people['one_human']['agreement']:.3f}", numbers.NONE, numbers.NONE)
        )
    return made


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(one)}" for key, one in value.items())
    if isinstance(value, list):
        return " ".join(_value(one) for one in value)
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
