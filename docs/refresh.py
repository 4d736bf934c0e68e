"""Put the numbers of a finished ladder into README.md and its picture into docs/images/report.png.

    .venv/bin/python docs/refresh.py runs/movies

The numbers stand between two marks in README.md and nowhere else. The picture needs chromium; without it, it stays.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
MARKS = re.compile(r"(<!-- numbers: begin.*?-->\n).*?(<!-- numbers: end -->)", re.S)


def numbers(run: Path) -> str:
    """Return the verdict and table of a run as Markdown, and what they were measured with."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    made = report["provenance"]
    cores = len(os.sched_getaffinity(0))
    machine = f"{made['machine']}, torch {made['torch']}, {cores} cores, {report['seconds'] / 60:.0f} minutes of work"
    command = re.sub(r" --(set run_dir=|run_dir[= ])\S+", "", report["command"])
    notes = "".join(f" Note: {warning}." for warning in report["warnings"])
    return f"{(run / 'report.md').read_text(encoding='utf-8')}\nMade by `{command}` ({machine}).{notes}\n"


def picture(run: Path) -> None:
    """Photograph the top of a run's report page, 1,200 pixels wide."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no chromium here: README.md has new numbers, the picture is the old one")
    target = DOCS / "images" / "report.png"
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
        page = f"file://{(run / 'report.html').resolve()}"
        subprocess.run(
            [browser, *flags, f"--user-data-dir={profile}", "--window-size=1200,1440", f"--screenshot={target}", page],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    if target.stat().st_size > 300_000:
        sys.exit(f"{target} is larger than 300 KB")


def main() -> None:
    """Refresh both from the run directory named on the command line."""
    run = Path(sys.argv[1])
    readme = DOCS.parent / "README.md"
    text, found = MARKS.subn(lambda m: f"{m[1]}\n{numbers(run)}\n{m[2]}", readme.read_text(encoding="utf-8"))
    if found != 1:
        sys.exit("README.md has lost the marks for the numbers")
    readme.write_text(text, encoding="utf-8")
    picture(run)


if __name__ == "__main__":
    main()
