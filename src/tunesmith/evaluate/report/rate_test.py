"""The picture of a learning-rate range test: one page that needs no network and no JavaScript."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources

from markupsafe import escape

from tunesmith.evaluate.report.figures import HEIGHT, WIDTH, Tick

_STYLE = (
    ".trial { fill: var(--soft); opacity: .45 } .curve { fill: none; stroke: var(--tuned); stroke-width: 2.5; "
    "vector-effect: non-scaling-stroke } .chosen { stroke: var(--good); stroke-width: 2 }"
)


def write_rate_test(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float, diverged: bool
) -> str:
    """Return a page with the loss of each step against its learning rate (logarithmic), and the rate suggested.

    Args:
        rates, losses, smoothed: of each step. suggestion: the rate chosen. diverged: whether the sweep ended early.
    """
    left, right = math.floor(math.log10(rates[0])), math.ceil(math.log10(rates[-1]))
    low, high = min(smoothed), max([*smoothed[: smoothed.index(min(smoothed)) + 1], min(smoothed) * 1.05])
    margin = 0.1 * (high - low)
    low, high = low - margin, high + margin

    def x(rate: float) -> float:
        return round(100 * (math.log10(rate) - left) / (right - left), 2)

    def y(loss: float) -> float:
        return round(100 - 100 * (loss - low) / (high - low), 2)

    shown = [(x(r), y(min(max(v, low), high))) for r, v in zip(rates, smoothed, strict=True)]
    points = [(x(r), y(v)) for r, v in zip(rates, losses, strict=True) if low <= v <= high]
    x_ticks = [Tick(x(10.0**e), f"1e{e}") for e in range(left, right + 1)]
    y_ticks = [Tick(y(low + i * (high - low) / 4), f"{low + i * (high - low) / 4:.3g}") for i in range(5)]
    style = (resources.files("tunesmith.evaluate.report") / "style.css").read_text(encoding="utf-8") + _STYLE
    end = "The sweep ended where the loss diverged." if diverged else "The loss did not diverge within the sweep."
    title = f"Learning rate {suggestion:g}"
    return "\n".join([
        '<!DOCTYPE html>', '<html lang="en">', "<head>", '<meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">', f"<title>{escape(title)}</title>", f"<style>{style}</style>",
        "</head>", "<body>", '<p class="kicker">Tunesmith tune, learning-rate range test</p>',
        f"<h1>{escape(title)}: where the loss falls most steeply</h1>", "<figure>",
        f'<div class="plot" role="img" aria-label="Loss against learning rate; {suggestion:g} is suggested.">',
        f'<svg class="area" aria-hidden="true" style="height: {HEIGHT}px">',
        *_grid(x_ticks, y_ticks),
        f'<line class="chosen" x1="{x(suggestion)}%" x2="{x(suggestion)}%" y1="0%" y2="100%"/>',
        *(f'<circle class="trial" cx="{px}%" cy="{py}%" r="3"/>' for px, py in points),
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" width="100%" height="100%"><polyline class="curve" '
        f'points="{" ".join(f"{px * WIDTH / 100:.1f},{py * HEIGHT / 100:.1f}" for px, py in shown)}"/></svg>',
        "</svg>", '<span class="axis y">loss, nats per token</span>',
        '<span class="axis x">learning rate (logarithmic), one step each</span>', "</div>",
        f"<figcaption><p>Dots are single steps, the line is their moving average. {end}",
        "All steps were taken back.</p></figcaption>",
        "</figure>", "</body>", "</html>", "",
    ])  # fmt: skip


def _grid(x_ticks: Sequence[Tick], y_ticks: Sequence[Tick]) -> list[str]:
    rows = [
        f'<line class="grid" x1="0%" x2="100%" y1="{t.at}%" y2="{t.at}%"/>'
        f'<text class="tick" x="0%" y="{t.at}%" dx="-10" dy="4" text-anchor="end">{t.text}</text>'
        for t in y_ticks
    ]
    columns = [
        f'<line class="grid" x1="{t.at}%" x2="{t.at}%" y1="0%" y2="100%"/>'
        f'<text class="tick" x="{t.at}%" y="100%" dy="20" text-anchor="middle">{t.text}</text>'
        for t in x_ticks
    ]
    return rows + columns
