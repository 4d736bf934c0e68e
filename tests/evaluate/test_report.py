"""The report: same bytes for the same measurements, nothing from data escapes, nothing is loaded, everything is there."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_inputs import MOVIES, movies

from tunesmith.evaluate.report import figures, items, numbers, terminal
from tunesmith.evaluate.report.page import write_html
from tunesmith.evaluate.report.record import LadderReport, to_json
from tunesmith.evaluate.results import Prediction
from tunesmith.stats.compare import representative

REPORT = movies(1000)
PAGE = write_html(REPORT)
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>"
TYPICAL = {r.route: representative(r.draws) for r in REPORT.results}
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def test_same_report_same_bytes_in_another_process() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import report_inputs as r\n"
    code += "from tunesmith.evaluate.report.page import write_html; sys.stdout.buffer.write(write_html(r.movies(1000)).encode())"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code, str(__file__).rsplit("/", 1)[0]], check=True, capture_output=True, env=_environment(seed)
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] == PAGE.encode()
    assert write_html(movies(1000, command="tunesmith ladder movies --seed 1")) != PAGE


def _environment(hash_seed: str) -> dict[str, str]:
    return {"PYTHONPATH": ":".join(p for p in sys.path if p), "PYTHONHASHSEED": hash_seed, "TZ": f"UTC{hash_seed}"}


def test_resuming_a_finished_ladder_gives_the_same_page() -> None:
    """The time of this run is in report.json and not on the page; a second run of a finished ladder would differ only there."""
    assert write_html(replace(REPORT, run_seconds=1.5)) == PAGE


def check_self_contained(text: str) -> None:
    """Fail if a page loads anything or holds a script."""
    page = Page(text)
    policy = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert not [t for t, _ in page.tags if t in ("script", "link", "iframe", "object", "embed", "base", "form", "img")]
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src", "xlink:href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)


def test_nothing_is_loaded_and_no_script_exists() -> None:
    check_self_contained(PAGE)
    style = PAGE.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in PAGE.replace("http-equiv", "")


def test_sections_stand_in_order_and_links_lead_somewhere() -> None:
    page = Page(PAGE)
    ids = [a["id"] for t, a in page.tags if t == "h2"]
    assert ids == ["cost", "ranked", "routes", "tests", "forgetting", "flips", "extremes", "samples", "again"]
    assert [t for t, _ in page.tags].count("h1") == 1
    targets = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"] for t, a in page.tags if t == "a"} <= {f"#{i}" for i in targets}
    assert len(targets) == len([a for _, a in page.tags if "id" in a])


def test_the_page_reads_without_eyes_or_colour() -> None:
    page = Page(PAGE)
    tables = PAGE.split("<table")[1:]
    assert tables
    assert all("<caption>" in t.split("</table>")[0] for t in tables)
    assert all("scope" in a for t, a in page.tags if t == "th")
    for tag, attributes in page.tags:
        if attributes.get("role") in ("img", "region"):
            assert attributes.get("aria-label"), tag
        if attributes.get("role") == "region":
            assert attributes.get("tabindex") == "0"
    labels = " ".join(a.get("aria-label") or "" for _, a in page.tags)
    assert all(r.route in labels for r in REPORT.results)
    marks = [m.kind for m in figures.quality_cost(REPORT.results, REPORT.verdict).marks]
    shapes = {"tuned": "<rect", "prompt": "<circle", "baseline": "<path"}
    assert set(marks) == set(shapes)
    assert all(f'{shape} class="mark {kind}"' in PAGE for kind, shape in shapes.items())
    assert ">▲</span> better" in PAGE
    assert ">✗</span>" in PAGE


def attacked() -> LadderReport:
    """Put a payload into every text field a report has."""
    rows = tuple((ATTACK if r[0] == "lora r=16" else r[0], *r[1:]) for r in MOVIES)
    report = movies(120, rows)

    def dirty(p: Prediction) -> Prediction:
        return replace(p, where=ATTACK, text=ATTACK + p.text, prompt=ATTACK + p.prompt if p.prompt else "", sources=(ATTACK,))

    results = [replace(r, notes=[ATTACK]) for r in report.results]
    return replace(
        report,
        task=ATTACK,
        description=ATTACK,
        model=ATTACK,
        results=results,
        predictions={route: [dirty(p) for p in answers] for route, answers in report.predictions.items()},
        verdict=replace(report.verdict, sentence=ATTACK, details=[ATTACK]),
        skipped={ATTACK: ATTACK},
        warnings=[ATTACK],
        command=ATTACK,
        provenance={ATTACK: ATTACK},
        price_note=ATTACK,
    )


def test_every_text_from_data_is_escaped() -> None:
    page = write_html(attacked())
    for tag in ("<script", "<img", "<svg onload"):
        assert tag not in page
    parsed = Page(page)
    assert not [a for _, a in parsed.tags for name in a if name.startswith("on")]
    assert parsed.text.count("<script>alert(1)</script>") > 40
    svg = "".join(re.findall(r'<svg class="area".*?</svg>\n</div>|<text class="name".*?</text>', page, flags=re.S))
    assert "&lt;script&gt;" in svg, "the route's label stands in the figure, escaped"
    markdown = terminal.write_markdown(attacked())
    assert "<script" not in markdown
    assert "<img" not in markdown


def test_control_characters_and_lone_surrogates_cannot_leave() -> None:
    odd = "a\x1b[31mred\x00 \ud800 b"
    report = movies(60, warnings=[odd], skipped={odd: odd}, command=odd)
    for text in (write_html(report), terminal.table(report), terminal.write_markdown(report)):
        text.encode("utf-8")
        assert "\x1b" not in text
        assert "\x00" not in text
    assert "\ufffd[31mred" in write_html(report)


def test_ten_routes_of_a_thousand_items_stay_small() -> None:
    predictions = {}
    report = movies(1000)
    for route, answers in report.predictions.items():
        predictions[route] = [replace(p, text=p.text * 40, prompt=p.prompt * 400) for p in answers]
    page = write_html(replace(report, predictions=predictions))
    assert len(page.encode()) < 2_000_000
    assert "characters are left out here; predictions.jsonl has all of them" in page


def test_prompts_are_exact() -> None:
    prompt = "  Review: two  spaces\n\n\tand a tab <b>&amp;\nSentiment:"
    answers = {"zero-shot": [replace(p, prompt=prompt) for p in REPORT.predictions["zero-shot"]]}
    shown = Page(write_html(replace(REPORT, predictions={**REPORT.predictions, **answers})))
    assert prompt in shown.text


def test_passages_that_were_read_are_named_beside_the_prompt() -> None:
    answers = {"zero-shot": [replace(p, sources=("handbook.md#0-35", "tea.txt#0-53")) for p in REPORT.predictions["zero-shot"]]}
    shown = Page(write_html(replace(REPORT, predictions={**REPORT.predictions, **answers})))
    assert "rests on handbook.md#0-35, tea.txt#0-53" in shown.text
    assert "rests on" not in Page(PAGE).text


def test_flipped_items_are_those_that_flipped() -> None:
    found = items.flips(REPORT)
    first = found[0]
    a = {p.id: p for p in REPORT.predictions[first.route]}
    b = {p.id: p for p in REPORT.predictions[first.against]}
    assert first.route == REPORT.verdict.recommended == "lora r=16"
    assert first.mended_count == sum(a[i].correct and not b[i].correct for i in a)
    assert first.broken_count == sum(b[i].correct and not a[i].correct for i in a)
    assert first.mended_count > first.broken_count > 0
    assert all(item.answers[0][3] and not item.answers[1][3] for item in first.mended)
    assert all(not item.answers[0][3] and item.answers[1][3] for item in first.broken)
    assert len(first.mended) <= items.SHOWN


def test_worst_items_are_the_surest_mistakes() -> None:
    found = items.extremes(REPORT)
    assert found is not None
    assert found.route == "lora r=16"
    wrong = [p for p in REPORT.predictions["lora r=16"] if not p.correct]
    sure = sorted((items.confidence(p) or 0 for p in wrong), reverse=True)
    assert found.wrong_count == len(wrong)
    assert found.wrong[0].answers[0][2] == numbers.percent(sure[0])
    everyone = [r.route for r in REPORT.results if r.route != "one human"]
    first = {route: {p.id: p.correct for p in REPORT.predictions[route] if p.draw == TYPICAL.get(route, 0)} for route in everyone}
    assert found.easy_count == sum(all(first[route][i] for route in everyone) for i in first["full"])


def test_confidence_by_hand() -> None:
    """exp(-1) against exp(-1 - ln 3) is 3 to 1; shares are taken as they are; texts have none."""
    base = REPORT.predictions["zero-shot"][0]
    assert items.confidence(replace(base, scores={"a": -1.0, "b": -1.0 - math.log(3)}, predicted="a")) == pytest.approx(0.75)
    assert items.confidence(replace(base, scores={"a": 0.6, "b": 0.4}, predicted="b")) == pytest.approx(0.4)
    assert items.confidence(replace(base, scores={}, predicted="a")) is None


def test_figure_positions_by_hand() -> None:
    """1 ms between 0.01 and 100 ms stands at half of a logarithmic axis; quality 0.5 is the middle of 0..1 and y runs down."""
    base = REPORT.results[0]
    points = ((0.01, 0.0), (1.0, 0.5), (79.0, 1.0))
    rows = [replace(base, route=str(i), name="x", ms_per_query=ms, value=v, low=v, high=v) for i, (ms, v) in enumerate(points)]
    figure = figures.quality_cost(rows, REPORT.verdict)
    at = {m.route: (m.x, m.y) for m in figure.marks}
    assert at["0"] == (0.0, 100.0)
    assert at["1"] == (50.0, 50.0)
    assert at["2"][1] == 0.0
    assert [t.text for t in figure.x_ticks] == ["0.01", "0.1", "1", "10", "100"]
    assert (0.0, 100.0, 50.0, 100.0) in figure.steps
    worse = [*rows, replace(rows[0], route="3", ms_per_query=5.0, value=0.2, low=0.1, high=0.3)]
    assert figures.quality_cost(worse, REPORT.verdict).steps == figure.steps, "a dominated route is no step"


def test_shares_are_never_drawn_beyond_one() -> None:
    base = REPORT.results[0]
    near = figures.intervals(
        [replace(base, value=0.97, low=0.93, high=1.01), replace(base, route="b", value=0.2, low=0.1, high=0.3)], REPORT.verdict
    )
    assert near.x_ticks[-1].text == "1.0"
    bleu = figures.intervals([replace(base, value=31.0, low=28.0, high=34.0)], REPORT.verdict)
    assert float(bleu.x_ticks[-1].text) >= 34
    assert len(figures.intervals([replace(base, value=1.0, low=1.0, high=1.0)], REPORT.verdict).x_ticks) > 1


def test_an_open_verdict_is_not_sold_as_a_recommendation() -> None:
    page = Page(write_html(movies(200)))
    assert movies(200).verdict.evidence == "insufficient evidence"
    assert "Cheapest for now" in page.text
    assert "Route to ship" not in page.text
    assert "Route to ship" in Page(PAGE).text
    assert "> = the cheapest for now" in terminal.table(movies(200))


def test_report_json_has_the_documented_keys() -> None:
    report = to_json(REPORT)
    assert set(report) == {
        "status", "task", "description", "model", "metric", "routes", "best", "verdict", "differences", "level", "resamples",
        "skipped", "warnings", "seconds", "wall_seconds", "peak_memory_gb", "command", "price_note", "provenance",
        "tradeoff",
    }  # fmt: skip
    needed = [
        "route",
        "metric",
        "value",
        "low",
        "high",
        "n",
        "trained_parameters",
        "seconds",
        "peak_memory_gb",
        "tokens_per_query",
        "ms_per_query",
        "forgetting",
    ]
    assert all(set(needed) <= set(r) for r in report["routes"])
    assert (report["status"], report["best"], report["verdict"]["recommended"]) == ("done", "lora r=16", "lora r=16")
    assert [r["route"] for r in report["routes"] if r["reference"]] == ["one human"]
    assert report["routes"][9]["forgetting"]["accuracy_change"] == pytest.approx(-0.03)
    assert report["peak_memory_gb"] == 3.6
    assert report["wall_seconds"] == 893.2
    odd = replace(REPORT, results=[replace(REPORT.results[0], p95_ms=math.nan)])
    assert json.loads(json.dumps(to_json(odd), allow_nan=False))["routes"][0]["p95_ms"] is None


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_table_fits(width: int) -> None:
    long = tuple((("a route with a very long name indeed " * 3) if r[0] == "full" else r[0], *r[1:]) for r in MOVIES)
    for report in (REPORT, movies(60, long, warnings=["word " * 60])):
        text = terminal.table(report, width)
        assert max(len(line) for line in text.splitlines()) <= width
        assert " ".join(report.verdict.sentence.split()[:4]) in text
    lines = terminal.table(REPORT).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("> ")] == ["lora"]
    assert lines[0].split()[0] == "route"
    assert "0.500" in terminal.table(REPORT)
    columns = {line.index("[") for line in lines[2 : 2 + len(REPORT.results)]}
    assert len(columns) == 1, "values stand under each other"


def test_a_line_per_finished_route() -> None:
    lines = {r.route: terminal.row(r) for r in REPORT.results}
    assert all("\n" not in line and line.startswith(route) for route, line in lines.items())
    assert "trained 3m 34s" in lines["lora r=16"]
    assert "sibling tasks -0.030" in lines["lora r=16"]
    assert "trained" not in lines["zero-shot"]
    assert "31.0 ms/query" in lines["zero-shot"]


def test_markdown_cells_cannot_break_the_table() -> None:
    rows = tuple(("a|b\n*c*" if r[0] == "full" else r[0], *r[1:]) for r in MOVIES)
    lines = terminal.write_markdown(movies(60, rows)).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(MOVIES)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8}


@pytest.mark.parametrize("rows", [MOVIES[:1], MOVIES[4:6], MOVIES[5:6], ()])
def test_small_ladders_still_make_a_page(rows: tuple) -> None:
    report = movies(40, rows)
    page, table, markdown = write_html(report), terminal.table(report), terminal.write_markdown(report)
    assert Page(page).tags
    for name in (row[0] for row in rows):
        assert all(name in text for text in (page, table, markdown)), name
    assert [r["route"] for r in json.loads(json.dumps(to_json(report), allow_nan=False))["routes"]] == [row[0] for row in rows]


def test_a_ladder_without_any_predictions_still_makes_a_page() -> None:
    page = Page(write_html(replace(REPORT, predictions={})))
    assert not [a for t, a in page.tags if t == "h2" and a["id"] in ("flips", "extremes", "samples")]


@given(st.text())
def test_clean_text_is_always_writable(text: str) -> None:
    cleaned = numbers.clean(text)
    cleaned.encode("utf-8")
    assert len(cleaned) == len(text.replace("\r\n", "\n"))
    assert not [c for c in cleaned if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs")]
    assert numbers.clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (numbers.interval(0.11, 0.08, 0.14), "0.11 [0.08, 0.14]"),
        (numbers.interval(0.004, -0.010, 0.018), "0.004 [-0.010, 0.018]"),
        (numbers.fixed(-0.0001), "0.000"),
        (numbers.fixed(math.nan), "–"),
        (numbers.p_value(0.0004), "p < 0.001"),
        (numbers.p_value(0.0126), "p = 0.013"),
        (numbers.duration(228), "3 min 48 s"),
        (numbers.duration(59.7), "1 min 00 s"),
        (numbers.duration(3599.6), "1 h 00 min"),
        (numbers.duration(0.2), "0.2 s"),
        (numbers.rows(2318), "2,300"),
        (numbers.rows(47), "47"),
        (numbers.parameters(134_515_008), "135 M"),
        (numbers.parameters(999_999), "1 M"),
        (numbers.parameters(14_208), "14,208"),
        (numbers.percent(0.999), "> 99 %"),
        (numbers.percent(1.0), "100 %"),
        (numbers.signed(0.02), "+0.02"),
        (numbers.signed(-0.001), "0.00"),
        (numbers.price(0.0034), "0.0034"),
        (numbers.shorten("abcdef", 4), "abc…"),
    ],
)
def test_numbers_as_people_read_them(got: str, expected: str) -> None:
    assert got == expected
