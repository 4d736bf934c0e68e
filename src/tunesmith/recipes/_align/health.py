"""Is the policy still learning what was meant? Rules over the rounds so far, each a sentence when it is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Rounds = Sequence[Mapping[str, float]]

# First and last rounds that are compared; fewer say nothing.
WINDOW = 3
# What is a lot: of the first rounds' standard deviation, of a length, in nats an answer, as shares.
ROSE, FELL = 0.5, 0.25
LONGER, SHORTER = 2.0, 0.5
FAR = 15.0
COLLAPSED = 0.4
REPEATING = 0.2
LESS_DISTINCT = 0.6
TIED = 0.5
CLIPPED = 0.3
EXPLAINS_AFTER = 10


def length(rounds: Rounds) -> str:
    """Scores rose while answers became much longer or shorter."""
    factor = _end(rounds, "completion_length") / max(_start(rounds, "completion_length"), 1e-9)
    if not _rose(rounds) or SHORTER < factor < LONGER:
        return ""
    return f"reward up, length x {factor:.2g}: likely length hacking; look at the answers, or score them by length too"


def held_out(rounds: Rounds) -> str:
    """What is learned from rose, and what is held out fell."""
    if "held_out" not in rounds[0] or not _rose(rounds):
        return ""
    change = (_end(rounds, "held_out") - _start(rounds, "held_out")) / max(_start(rounds, "held_out_std"), 1e-9)
    if change > -FELL:
        return ""
    return (
        f"reward up, held-out score down by {-change:.2g} standard deviations: the policy exploits its scorer; a larger --beta "
        "or --max_kl stops earlier"
    )


def kl(rounds: Rounds) -> str:
    """The policy went far from its reference."""
    value = _end(rounds, "kl")
    return f"KL is {value:.1f} nats an answer, far from the reference: raise --beta, or set --kl_target" if value > FAR else ""


def entropy(rounds: Rounds) -> str:
    """The policy says nearly the same to everything."""
    share = _end(rounds, "entropy") / max(_start(rounds, "entropy"), 1e-9)
    if share >= COLLAPSED:
        return ""
    return f"entropy fell to {share:.0%} of what it was: the policy says nearly the same every time; raise --beta"


def repetition(rounds: Rounds) -> str:
    """Answers repeat themselves or each other."""
    within, share = _end(rounds, "repetition"), _end(rounds, "distinct_2") / max(_start(rounds, "distinct_2"), 1e-9)
    if within > REPEATING and within > 2 * _start(rounds, "repetition"):
        return f"{within:.0%} of an answer's 4-grams stand in it before: it repeats itself"
    return (
        f"different pairs of tokens fell to {share:.0%} of what they were: answers repeat each other"
        if share < LESS_DISTINCT
        else ""
    )


def ties(rounds: Rounds) -> str:
    """The scorer cannot tell a prompt's answers apart, so that nothing is learned from them."""
    if "ties" not in rounds[0] or (share := _end(rounds, "ties")) < TIED:
        return ""
    return f"all answers score the same for {share:.0%} of prompts, from which nothing is learned: a finer scorer helps"


def clipping(rounds: Rounds) -> str:
    """Updates are too large for the ratio's clip."""
    known = [one for one in rounds if "policy_clipped" in one]
    if len(known) < WINDOW or (share := _end(known, "policy_clipped")) < CLIPPED:
        return ""
    return f"the ratio is clipped at {share:.0%} of tokens: lower --learning_rate or --optimisation_epochs"


def value(rounds: Rounds) -> str:
    """The value head has learned nothing."""
    if (
        "explained_variance" not in rounds[0]
        or len(rounds) < EXPLAINS_AFTER
        or (share := _end(rounds, "explained_variance")) >= 0
    ):
        return ""
    return f"the value head expects worse than a constant would (explained variance {share:.2f}): lower --learning_rate"


RULES: dict[str, Callable[[Rounds], str]] = {
    "length": length, "held_out": held_out, "kl": kl, "entropy": entropy, "repetition": repetition, "ties": ties,
    "clipping": clipping, "value": value,
}  # fmt: skip


def broken(rounds: Rounds) -> dict[str, str]:
    """Return what is wrong by the rules' names, as sentences, given each round's measures from the first on.

    Windows of the first and last three rounds are compared, so that it takes four rounds to say anything.
    """
    if len(rounds) <= WINDOW:
        return {}
    return {name: said for name, rule in RULES.items() if (said := rule(rounds))}


def _start(rounds: Rounds, key: str) -> float:
    return sum(one[key] for one in rounds[:WINDOW]) / WINDOW


def _end(rounds: Rounds, key: str) -> float:
    return sum(one[key] for one in rounds[-WINDOW:]) / WINDOW


def _rose(rounds: Rounds) -> bool:
    return _end(rounds, "score") - _start(rounds, "score") > ROSE * _start(rounds, "score_std")
