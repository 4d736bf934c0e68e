"""Numbers as people read them: just as many digits as the evidence carries, and a unit that fits."""

from __future__ import annotations

import math
import re

NONE = "–"
_UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def interval(value: float, low: float, high: float, places: int | None = None) -> str:
    """Write "0.11 [0.08, 0.14]"; without `places`, a third decimal only where the interval is narrower than 0.05."""
    if places is None:
        places = 3 if high - low < 0.05 else 2
    return f"{fixed(value, places)} [{fixed(low, places)}, {fixed(high, places)}]"


def fixed(value: float, places: int = 3) -> str:
    """Write a number with fixed decimals, a dash where there is none, and never "-0.000"."""
    if not math.isfinite(value):
        return NONE
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def signed(value: float, places: int = 2) -> str:
    """Write a change with its sign: "+0.02", "-0.03", "0.00"."""
    text = fixed(value, places)
    return f"+{text}" if text != NONE and float(text) > 0 else text


def p_value(p: float) -> str:
    """Write "p = 0.013", or "p < 0.001" below that."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def duration(seconds: float) -> str:
    """Write seconds as "0 s", "4.2 s", "3 min 48 s" or "1 h 02 min"."""
    if not math.isfinite(seconds):
        return NONE
    if seconds < 9.95:
        return "0 s" if seconds < 0.05 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def milliseconds(value: float) -> str:
    """Write milliseconds with three significant digits at most: "0.02", "8.4", "310"."""
    if not math.isfinite(value):
        return NONE
    if value < 0.005:
        return "0"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def count(value: float) -> str:
    """Write a whole number with thousands separated: "4,884,480"."""
    return f"{value:,.0f}" if math.isfinite(value) else NONE


def parameters(number: int) -> str:
    """Write how many numbers were trained: "385", "14,208", "4.88 M", "135 M", "7.24 B"."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if number >= size * 0.9995:
            return f"{number / size:.3g} {letter}"
    return f"{number:,}"


def price(value: float | None) -> str:
    """Write a price with two decimals, four below 0.1, and a dash where no price was set."""
    return NONE if value is None else f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.4f}"


def percent(share: float) -> str:
    """Write a share as a whole percentage; 100 % and 0 % only when they are exact."""
    if not math.isfinite(share):
        return NONE
    if 0 < share < 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 <= share < 1 else f"{share:.0%}".replace("%", " %")


def rows(number: int) -> str:
    """Write a number of rows to two significant digits: 2318 -> "2,300"."""
    digits = len(str(abs(number)))
    return f"{round(number, 2 - digits) if digits > 2 else number:,}"


def clean(text: str) -> str:
    """Make any text fit for UTF-8, a page and a terminal: lines end in a line feed, other control characters become U+FFFD."""
    return _UNFIT.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def shorten(text: str, length: int) -> str:
    """Cut a text to at most `length` characters, the last one "…" where something was left out."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
