"""Configuration: what is written wrongly is an error that says what was meant."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from tunesmith.core.config import Config, parse_value, read_yaml, set_key, validate
from tunesmith.core.errors import UserError


class Inner(Config):
    """A part of a configuration."""

    learning_rate: float = Field(1e-3, gt=0)
    epochs: int = 3


class Outer(Config):
    """A configuration."""

    model: str
    train: Inner = Inner()
    other: Inner | None = None
    words: dict[str, list[str]] | None = None


def message(values: dict[Any, Any]) -> str:
    """What a person reads when these values do not fit."""
    with pytest.raises(UserError) as error:
        validate(Outer, values, "tune")
    assert error.value.exit_code == 2
    return str(error.value)


def test_what_fits_becomes_a_frozen_object() -> None:
    config = validate(Outer, {"model": "m", "train": {"epochs": 1}, "other": {"learning_rate": "1e-4"}}, "tune")
    assert (config.train.epochs, config.train.learning_rate, config.other) == (1, 1e-3, Inner(learning_rate=1e-4))
    with pytest.raises(ValueError, match="frozen"):
        config.model = "n"  # type: ignore[misc]


def test_unknown_keys_are_errors_with_the_nearest_known_one() -> None:
    assert message({"model": "m", "modle": "n"}) == "tune: unknown key 'modle'\n  Did you mean 'model'?"
    assert message({"model": "m", "train": {"epoch": 1}}) == "tune: unknown key 'train.epoch'\n  Did you mean 'epochs'?"
    assert message({"model": "m", "other": {"learning_rat": 1}}).endswith("Did you mean 'learning_rate'?")
    assert message({"model": "m", "zzz": 1}).endswith("Known: model, other, train, words.")
    assert message({"model": "m", 5: 1}).startswith("tune: ")


def test_missing_keys_and_wrong_values_say_where_and_what() -> None:
    assert message({}) == "tune: 'model' is missing"
    text = message({"model": "m", "train": {"epochs": "many", "learning_rate": -1}})
    assert text == (
        "tune: train.learning_rate: Input should be greater than 0 (got -1)\n  Also: train.epochs: "
        "Input should be a valid integer, unable to parse string as an integer (got 'many')."
    )


def test_overrides_reach_into_parts() -> None:
    values: dict[str, Any] = {"peft": "lora", "train": {"epochs": 1}}
    set_key(values, "peft.rank", 8)
    set_key(values, "train.learning_rate", 0.1)
    set_key(values, "new.part.key", "x")
    assert values == {
        "peft": {"name": "lora", "rank": 8}, "train": {"epochs": 1, "learning_rate": 0.1}, "new": {"part": {"key": "x"}},
    }  # fmt: skip
    set_key(values, "peft", "full")
    assert values["peft"] == {"name": "full", "rank": 8}


def test_an_override_does_not_change_the_part_it_was_copied_from() -> None:
    part = {"epochs": 1}
    set_key({"train": part}, "train.epochs", 2)
    assert part == {"epochs": 1}


@pytest.mark.parametrize("inner", [[1, 2], 5, True])
def test_what_has_no_keys_cannot_be_reached_into(inner: Any) -> None:
    with pytest.raises(UserError, match=r"cannot set 'routes.x': 'routes' is .*, which has no keys"):
        set_key({"routes": inner}, "routes.x", 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8), ("-3", -3), ("0", 0), ("1e-4", 1e-4), ("2E5", 2e5), ("0.5", 0.5), (".5", 0.5), ("1.", 1.0), ("-1e+3", -1e3),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("[1, a]", [1, "a"]),
        ("{rank: 8}", {"rank": 8}),
        ("a,b", "a,b"), ("yes", "yes"), ("NO", "NO"), ("on", "on"), ("12:30", "12:30"), ("007", "007"),
        ("2024-01-31", "2024-01-31"),
        ("e5", "e5"), ("1e", "1e"), ("1_000", "1_000"), ("0x1F", "0x1F"), (".", "."), ("'8'", "8"), ("a: b: c", "a: b: c"),
        ("lora:rank=8", "lora:rank=8"), ("=", "="),
    ],
)  # fmt: skip
def test_values_are_what_people_mean(text: str, value: Any) -> None:
    got = parse_value(text)
    assert (got, type(got)) == (value, type(value))


@given(st.integers() | st.floats(allow_nan=False))
def test_every_number_comes_back(number: float) -> None:
    text = str(number).replace("inf", ".inf")
    assert parse_value(text) == number
    assert isinstance(parse_value(text), type(number))


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    """Where a test writes its YAML."""
    return tmp_path / "x.yaml"


def test_a_yaml_file_gives_its_keys(yaml_file: Path) -> None:
    yaml_file.write_text("base: &b {yes: 1}\nmodel: smollm2\nchoices: {no: [No], yes: [Yes]}\nmore: {<<: *b, n: 2}\n")
    assert read_yaml(yaml_file) == {
        "base": {"yes": 1}, "model": "smollm2", "choices": {"no": ["No"], "yes": ["Yes"]}, "more": {"yes": 1, "n": 2},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: 1\nb: [1\nc: 2\n", r"x.yaml:3 is not valid YAML: expected ',' or '\]'"),
        (b"a: 1\n\tb: 2\n", r"x.yaml:2 is not valid YAML: found character '\\t'"),
        (b"a: 1\nb: {c: 1, c: 2}\n", r"x.yaml:2 is not valid YAML: the key 'c' stands twice"),
        (b"a: 1\nb: 2\na: 3\n", r"x.yaml:3 is not valid YAML: the key 'a' stands twice"),
        (b"a: !!python/object/apply:os.getcwd []\n", r"x.yaml:1 is not valid YAML: could not determine a constructor"),
        (b"- a\n- b\n", r"must hold keys and values"),
        (b"", r"must hold keys and values"),
        (b"a: \xff\n", r"x.yaml is not UTF-8 text \(byte 3\)"),
        (b"a: \x01\n", r"x.yaml is not valid YAML"),
    ],
)
def test_a_broken_yaml_file_is_an_error_with_its_line(yaml_file: Path, content: bytes, said: str) -> None:
    yaml_file.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_yaml(yaml_file)


def test_a_missing_yaml_file_or_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path)
