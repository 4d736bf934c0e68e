"""Jinja templates from anywhere: rendered as PromptSource would, and stopped, by name and row, where they do anything else."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.data import _sandbox_child
from tunesmith.data.sandbox import Rendered, render

ROWS = [Example(str(i), {"text": f"film {i}", "label": i % 2, "parts": ["a", "b"]}, f"rows.jsonl:{i + 1}") for i in range(3)]
CHILD = Path(_sandbox_child.__file__)


def test_input_and_target_are_what_the_template_says() -> None:
    texts = {
        "asked": "{{text}}\nIs it {{ answer_choices|join(' or ') }}? ||| {{ answer_choices[label] }}",
        "code": "{% if label %}Yes{% else %}No{% endif %}: {{ parts[0] }} ||| {{ zip(parts, parts)|list|length }}",
    }
    made = render(texts, "bad ||| good", ROWS)
    assert made[0] == {
        "asked": Rendered("film 0\nIs it bad or good?", "bad", ("bad", "good")),
        "code": Rendered("No: a", "2", ("bad", "good")),
    }
    assert [one["asked"].target for one in made if isinstance(one, dict)] == ["bad", "good", "bad"]
    assert render({"a": "{{text}} ||| x"}, None, []) == []


def test_a_row_that_holds_the_separator_is_text() -> None:
    row = Example("1", {"text": "a ||| b", "more": {"inner": ["c|||d"]}}, "r:1")
    made = render({"a": "{{text}} {{more.inner[0]}} ||| yes"}, None, [row])
    assert made == [{"a": Rendered("a ||| b c|||d", "yes", ())}]


def test_choices_at_random_are_the_same_every_time() -> None:
    texts = {"a": "{{ range(1000)|list|choice }} {{ range(1000)|random }} {{ [1, 2, 2]|most_frequent }} ||| {{text}}"}
    first, again = render(texts, None, ROWS), render(texts, None, ROWS)
    assert first == again
    assert len({one["a"].input for one in first if isinstance(one, dict)}) == 3


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ ''.__class__.__mro__ }} ||| x", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ cycler.__init__.__globals__ }} ||| x", "access to attribute '__init__' of 'type' object is unsafe"),
        ("{{ self.__init__.__globals__ }} ||| x", "access to attribute '__init__' of 'TemplateReference' object is unsafe"),
        ("{{ '{0.__class__}'.format(text) }} ||| x", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ parts.append('c') }} ||| x", "access to attribute 'append' of 'list' object is unsafe"),
        ("{{ range(1000000000)|list|length }} ||| x", "Range too big"),
        ("{{ 10 ** 10 }} ||| x", "powers (**) are not allowed"),
        ("{% include '/etc/passwd' %} ||| x", "no loader for this environment specified"),
        ("{{ lipsum() }} ||| x", "it uses 'lipsum', which the row does not have"),
        ("{{ txet }} ||| x", "it uses 'txet', which the row does not have. Did you mean 'text'?"),
        ("{{text}}", "it renders 1 part(s), and 'input ||| target' has two"),
        ("{{text}} ||| a ||| b", "it renders 3 part(s), and 'input ||| target' has two"),
        ("{{text}} ||| {{ '' }}", "it renders 1 part(s), and 'input ||| target' has two"),
    ],
)
def test_what_a_row_cannot_be_rendered_by_is_said_for_each_row(template: str, said: str) -> None:
    made = render({"mine": template}, None, ROWS)
    assert [str(one)[: len(f"template 'mine': {said}")] for one in made] == [f"template 'mine': {said}"] * 3
    # The control: the same rows with an innocent template.
    assert all(isinstance(one, dict) for one in render({"mine": "{{text}} ||| x"}, None, ROWS))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %} ||| x", "it ran for more than 1 s"),
        ("{{ 'a' * 2000000000 }} ||| x", "it needs too much memory"),
        ("{{ ('%0999999999d' % 1)|length }} ||| x", "it needs too much memory"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }} ||| x", "it calls itself without end"),
        ("{% for a in range(9999) %}{{ text * 100 }}{% endfor %} ||| x", "it renders more than 100,000 characters"),
    ],
)
def test_a_template_without_measure_is_stopped_and_named_with_its_row(template: str, said: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="Simplify the template") as error:
        render({"fine": "{{text}} ||| x", "endless": f"{{% if label %}}{template}{{% else %}}a ||| b{{% endif %}}"}, None, ROWS)
    # Row 1 has label 0 and renders; row 2 is the one that cannot.
    assert error.value.message == f"template 'endless', rows.jsonl:2: {said}"
    assert time.monotonic() - start < 15


def test_an_operation_nobody_can_interrupt_is_ended_by_the_kernel() -> None:
    # One multiplication of numbers of millions of digits, squared again and again, runs in C: no timer gets in between.
    big = "{% set n = namespace(v=7) %}{% for i in range(40) %}{% set n.v = n.v * n.v %}{% endfor %}{{ n.v > 1 }} ||| x"
    with pytest.raises(UserError, match=r"template 'big', rows.jsonl:1: (it took too much time or memory|it ran for|it needs)"):
        render({"big": big}, None, ROWS)


@pytest.mark.parametrize(
    ("template", "said"), [("{{ text ||| x", "line 1: "), ("{% for %} ||| x", "line 1: "), ("{{ a ||| {{ b }}", "line 1")]
)
def test_what_is_no_jinja_is_refused_by_name(template: str, said: str) -> None:
    with pytest.raises(UserError, match=f"template 'mine' is not valid Jinja: {said}"):
        render({"other": "{{text}} ||| x", "mine": template}, None, ROWS)
    with pytest.raises(UserError, match="template 'answer_choices' is not valid Jinja"):
        render({"other": "{{text}} ||| x"}, "{{ yes", ROWS)


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/etc/passwd')", "open('/dev/null', 'w')", "__import__('socket').socket()", "bytearray(1 << 29)",
        "__import__('os').pipe()",
    ],
)  # fmt: skip
def test_the_process_itself_can_neither_read_nor_write_nor_connect(attempt: str) -> None:
    # Even if the sandbox of Jinja had a hole: what could be run behind it has nothing to work with.
    code = (
        f"import runpy, socket, os\nchild = runpy.run_path({str(CHILD)!r})\n{{}}\n"
        f"try:\n    {attempt}\nexcept (OSError, MemoryError) as error:\n    print('refused', error)\n"
    )
    for confine, expected in (("child['confine']()", "refused"), ("", "")):
        done = subprocess.run([sys.executable, "-I", "-c", code.format(confine)], capture_output=True, text=True, check=False)
        assert (done.stdout.split(" ")[0].strip(), done.stderr) == (expected, ""), done
