"""What people see while they wait."""

import io

import pytest

from tunesmith.core import progress
from tunesmith.core.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"), (0.44, "0.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (12.4, "12 s"), (99.4, "99 s"), (99.6, "1 min 40 s"),
        (119.7, "2 min 0 s"), (200.2, "3 min 20 s"), (3569, "59 min 29 s"), (3571, "1 h 0 min"), (3599.9, "1 h 0 min"),
        (7500, "2 h 5 min"), (86400, "24 h 0 min"),
    ],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, title: str = "reading") -> str:
    """What four steps of progress print when every moment is worth a line."""
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_LIVE_SECONDS", 0.0)
    with Progress(title, total=4e6, unit="MB", scale=1e6) as bar:
        for step in range(4):
            bar.advance(1e6, note="loss 0.5" if step == 1 else "")
    return stream.getvalue()


def test_elsewhere_progress_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, io.StringIO()).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("reading   25% of 4 MB  0.0 s left  ")
    assert [line.endswith("MB/s  loss 0.5") for line in lines] == [False, True, True, True]
    assert "100% of 4 MB" in lines[3]


def test_on_a_terminal_one_line_is_written_over_and_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal())
    assert "\n" not in text
    assert text.count("\r\033[K") == 5
    assert text.endswith("\r\033[K")


def test_progress_without_a_title_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO(), title="") == ""
