"""Ziegler et al. 2019, section 3.1, in small: going on from openings of film reviews more kindly, judged by who never taught it.

Usage: python benchmarks/align/sentiment.py --reward_model FOLDER [--parts ppo;grpo;best_of_n;dpo;judge] [--folder runs/sentiment]

The reward model (benchmarks/align/reward.py) learned from judgements drawn from human ratings of `movies`. Policies are `smollm2`
with LoRA; prompts are the first 8 tokens of reviews, answers 24 tokens. DPO learns from the reward model's rankings of the
reference's own answers, which `best_of_n` leaves. All are judged on openings of test rows that no policy saw, by the VADER
lexicon and by a classifier that was trained on product reviews and tweets. Every part is done once and kept in the folder.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.encode import token_ids, with_bos
from tunesmith.core.records import Completion
from tunesmith.data.sources import _hutto
from tunesmith.models.embed import embed_texts
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.score import Request, score_requests
from tunesmith.recipes._models import load
from tunesmith.recipes._reward.scoring import open_scorer
from tunesmith.rl import best_of_n
from tunesmith.stats.bootstrap import interval, resample_counts
from tunesmith.train.rollouts import distinct
from tunesmith.train.scoring import Answer

HERE = Path(__file__).parent
OPENING, NEW, CANDIDATES = 8, 24, 16
# Openings that get 16 answers each.
MOST = 250
# Each round is learned from once; beta is what keeps the divergence at 5 to 8 nats.
ONLINE = ["--steps", "100", "--optimisation_epochs", "1", "--max_kl", "15"]
PARTS = {
    "ppo": ["--method", "ppo", *ONLINE],
    "ppo, seed 1": ["--method", "ppo", "--seed", "1", *ONLINE],
    "grpo": ["--method", "grpo", "--samples", "8", "--beta", "0.1", *ONLINE],
    "best_of_n": ["--method", "best_of_n", "--samples", "4", "--train_rows", "300"],
}
DPO = ["--method", "dpo", "--epochs", "3", "--learning_rate", "5e-4", "--batch_size", "4"]
POLICIES = ("ppo", "ppo, seed 1", "grpo", "dpo")
COLOURS = {
    "ppo": "#0b6e4f",
    "ppo, seed 1": "#7bb661",
    "grpo": "#8a4fff",
    "dpo": "#c8553d",
    "best_of_n": "#2a6fdb",
    "reference": "#777",
}


def align(folder: Path, data: str, words: Sequence[str]) -> dict[str, Any]:
    """Run `tunesmith align` as a user would, unless it is done; returns its report with the seconds it took."""
    if not (done := folder / "done.json").is_file():
        start = time.perf_counter()
        command = [sys.executable, "-m", "tunesmith", "align", data, "--run_dir", str(folder), "--json", *words]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        done.write_text(json.dumps({**json.loads(out.splitlines()[-1]), "process_seconds": time.perf_counter() - start}))
    report: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return {key: value for key, value in report.items() if key not in ("run_dir", "artefact", "predictions", "rankings")}


def classifier() -> Any:
    """Train a judge on product reviews and tweets: MiniLM embeddings and logistic regression; texts -> log odds of positive."""
    from sklearn.linear_model import LogisticRegression

    rows = [row for kind in ("amazonReviewSnippets", "tweets") for row in _hutto.splits(kind)["train"]]
    model = LogisticRegression(C=10.0, max_iter=2000)
    model.fit(embed_texts([str(row.fields["text"]) for row in rows]), [row.fields["label"] == "positive" for row in rows])
    return lambda texts: model.decision_function(embed_texts(texts))


def answers_of(adapter: str | None, prompts: list[tuple[int, ...]], seed: int, n: int = 1) -> list[Completion]:
    """Sample n answers to each prompt at temperature 1 from the policy."""
    lm = load("smollm2", adapter)
    return complete(lm, [ids for ids in prompts for _ in range(n)], Sampling(NEW), seed, adapter or "reference")


def candidates(folder: Path, prompts: list[tuple[int, ...]]) -> list[tuple[str, list[int]]]:
    """Return answers of the reference to choose from, text and ids, sampled once and kept."""
    if not (path := folder / "candidates.json").is_file():
        made = [(c.text, c.ids) for c in answers_of(None, prompts, 2, CANDIDATES)]
        path.write_text(json.dumps(made), encoding="utf-8")
    kept: list[tuple[str, list[int]]] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def kl_of(base: Any, prompts: Sequence[tuple[int, ...]], found: Sequence[Completion]) -> float:
    """Return the mean of log pi - log ref over answers, nats."""
    scored = score_requests(base, [Request(p, (c.ids,)) for p, c in zip(prompts, found, strict=True)])
    return float(np.mean([sum(c.logprobs) - sum(s.token_logprobs[0]) for c, s in zip(found, scored, strict=True)]))


def with_interval(values: np.ndarray) -> dict[str, float]:
    """Return a mean over openings with its 95 % interval (bootstrap)."""
    counts = resample_counts(len(values), 2000, 0)
    low, high = interval(counts @ values / len(values))
    return {"value": float(values.mean()), "low": low, "high": high}


def judged(
    openings: list[str], texts: dict[str, list[str]], judges: dict[str, Any]
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Return of each policy what every judge says, and how often it prefers its answer to the reference's (a tie is half).

    Args:
        texts: of each policy, its answers to the first openings.
    """
    marks = {
        name: {who: np.asarray(of(openings[: len(answers)], answers), dtype=float) for who, of in judges.items()}
        for name, answers in texts.items()
    }
    found: dict[str, dict[str, Any]] = {}
    for name, mine in marks.items():
        found[name] = {}
        for judge, values in mine.items():
            theirs = marks["reference"][judge][: len(values)]
            wins = (values > theirs) + 0.5 * (values == theirs)
            found[name][judge] = {"mean": with_interval(values), "win_rate": with_interval(wins)}
    return found


def judge(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Let every policy answer the openings of test rows, and let those judge who taught none of them."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    base = load("smollm2")
    rows = _hutto.splits("movieReviewSnippets")["test"]
    prompts = [with_bos(base.tokenizer, token_ids(base.tokenizer, str(row.fields["text"])))[:OPENING] for row in rows]
    prompts = list(dict.fromkeys(ids for ids in prompts if len(ids) == OPENING))[: options.openings]
    openings = [base.tokenizer.decode(list(ids)) for ids in prompts]
    taught, vader, other = open_scorer(f"reward-model:path={options.reward_model}"), SentimentIntensityAnalyzer(), classifier()
    teach = lambda asked, said: list(taught([Answer(p, a, False) for p, a in zip(asked, said, strict=True)]))  # noqa: E731
    judges = {
        "reward model": teach,
        "VADER": lambda _, said: [vader.polarity_scores(text)["compound"] for text in said],
        "classifier": lambda _, said: list(other(said)),
    }
    texts, apart, ids = {}, {}, {}
    for name in ("reference", *POLICIES):
        adapter = None if name == "reference" else str(folder / name.replace(", seed ", "-") / "adapter")
        if adapter and not Path(adapter).is_dir():
            continue
        found = answers_of(adapter, prompts, 1)
        texts[name], ids[name] = [c.text for c in found], [c.ids for c in found]
        apart[name] = kl_of(base, prompts, found) if adapter else 0.0
    many = candidates(folder, prompts[:MOST])
    asked = [opening for opening in openings[:MOST] for _ in range(CANDIDATES)]
    scores = np.array(teach(asked, [text for text, _ in many])).reshape(-1, CANDIDATES)
    best = [many[i * CANDIDATES + int(row.argmax())] for i, row in enumerate(scores)]
    name = f"best of {CANDIDATES}"
    texts[name], ids[name], apart[name] = [text for text, _ in best], [said for _, said in best], best_of_n.kl(CANDIDATES)
    found = judged(openings, texts, judges)
    for name, some in found.items():
        some["kl"], some["distinct_2"] = apart[name], distinct(ids[name], 2)
        some["distinct_2_of_reference"] = some["distinct_2"] / distinct(ids["reference"][: len(ids[name])], 2)
        some["samples"] = [{"opening": o, "answer": a} for o, a in zip(openings[:4], texts[name], strict=False)]
    curve = [{"n": n, "kl": best_of_n.kl(n), "score": float(np.mean([best_of_n.expected(r.tolist(), n) for r in scores]))}
             for n in (1, 2, 4, 8, 16)]  # fmt: skip
    return {"openings": len(openings), "classifier_accuracy": _accuracy(other), "policies": found, "best_of_n": curve}


def _accuracy(judge: Any) -> float:
    rows = _hutto.splits("movieReviewSnippets")["test"]
    said = judge([str(row.fields["text"]) for row in rows]) > 0
    return float(np.mean([yes == (row.fields["label"] == "positive") for yes, row in zip(said, rows, strict=True)]))


def rounds_of(folder: Path) -> list[dict[str, float]]:
    """Return score and KL of each round of a run."""
    kept = [json.loads(path.read_text(encoding="utf-8"))["measured"] for path in sorted(folder.glob("rollouts/round-*.json"))]
    return [{key: one[key] for key in ("kl", "score", "held_out") if key in one} for one in kept]


def draw(results: dict[str, Any]) -> str:
    """Return an SVG of the reward model's score against KL: rounds as dots, policies on test openings as rings."""
    width, height, left, top = 760, 420, 60, 40
    most = max([5.0, *(p["kl"] for p in results["policies"].values())]) * 1.1
    means = [p["reward model"]["mean"]["value"] for p in results["policies"].values()]
    low, high = min(-0.5, *means), max(2.0, *means) * 1.1

    def at(kl: float, score: float) -> tuple[float, float]:
        x = left + (width - left - 150) * math.sqrt(max(kl, 0.0) / most)
        return round(x, 1), round(top + (height - top - 60) * (high - min(max(score, low), high)) / (high - low), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="22" font-size="15">What divergence buys: openings of film reviews, continued by smollm2</text>',
        f'<text x="{left}" y="{height - 10}">KL to the reference, nats an answer (square-root scale); by the reward model</text>',
    ]
    for kl in (0, 0.5, 1, 2, 4, 6, 8, 10, 15, 20):
        if kl <= most:
            parts.append(f'<text x="{at(kl, low)[0]}" y="{height - 36}" text-anchor="middle">{kl}</text>')
    for tick in range(math.ceil(low), math.floor(high) + 1):
        y = at(0, tick)[1]
        parts.append(f'<path d="M{left} {y}H{width - 150}" stroke="#ddd"/><text x="{left - 24}" y="{y + 4}">{tick}</text>')
    corners = " ".join("{},{}".format(*at(p["kl"], p["score"])) for p in results["best_of_n"])
    parts.append(f'<polyline points="{corners}" fill="none" stroke="{COLOURS["best_of_n"]}" stroke-width="2"/>')
    for name, rounds in results["rounds"].items():
        for one in rounds:
            x, y = at(one["kl"], one["score"])
            parts.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{COLOURS[name]}" fill-opacity=".45"/>')
    for number, (name, one) in enumerate(results["policies"].items()):
        colour = COLOURS.get(name, COLOURS["best_of_n"])
        x, y = at(one["kl"], one["reward model"]["mean"]["value"])
        parts.append(f'<circle cx="{x}" cy="{y}" r="7" fill="none" stroke="{colour}" stroke-width="3"/>')
        text = f"{name}: {one['reward model']['mean']['value']:.2f}"
        parts.append(f'<text x="{width - 140}" y="{top + 14 + 20 * number}" fill="{colour}">{text}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Do the parts that are asked for, and write sentiment.json and sentiment.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward_model", required=True)
    parser.add_argument("--folder", default="runs/sentiment")
    parser.add_argument("--parts", default="ppo;ppo, seed 1;grpo;best_of_n;dpo;judge")
    parser.add_argument("--beta", default="0.085", help="price of a nat for PPO")
    parser.add_argument("--openings", type=int, default=1000)
    parser.add_argument("--threads", default="2")
    options = parser.parse_args()
    folder, path = Path(options.folder), HERE / "sentiment.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"runs": {}, "rounds": {}}
    taught = ["--scorer", f"reward-model:path={options.reward_model}", "--allow_attackable", "true"]
    common = ["--max_new_tokens", str(NEW), "--prompt_tokens", str(OPENING), "--threads", options.threads]
    for part in options.parts.split(";"):
        if part == "judge":
            results |= judge(options, folder)
            (HERE / "sentiment.svg").write_text(draw(results), encoding="utf-8")
        elif part == "dpo":
            words = [*DPO, "--threads", options.threads, "--max_new_tokens", str(NEW)]
            results["runs"][part] = align(folder / part, str(folder / "best_of_n" / "rankings.jsonl"), words)
        else:
            watched = [] if part == "best_of_n" else ["--held_out", "lexicon"]
            place = folder / part.replace(", seed ", "-")
            price = ["--beta", options.beta] if "ppo" in part else []
            results["runs"][part] = align(place, "movies", [*PARTS[part], *price, *taught, *watched, *common])
            if part != "best_of_n":
                results["rounds"][part] = rounds_of(place)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
