"""What a task's YAML file can say."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tunesmith.core.config import Config
from tunesmith.data import formats
from tunesmith.data._readers import RowProblem
from tunesmith.data.verbalizer import Aggregate, Normalise


class DataSection(Config):
    """Where the rows are: files beside the YAML file, or an embedded source."""

    source: str | None = None
    """name of an embedded source, for example hutto_movies"""
    train: str | None = None
    """training rows; JSONL (also .gz), JSON, CSV, TSV or Parquet"""
    validation: str | None = None
    """rows for early stopping; absent = a tenth of train, at most 500"""
    test: str | None = None
    """rows to measure on; absent = a fifth of train"""
    map: dict[str, str] = {}
    """canonical name -> column, for example {text: question}"""


class TaskFile(Config):
    """The keys of a task's YAML file."""

    name: str
    description: str = ""
    data: DataSection
    template: str
    """text with {field} slots and {answer} at its end, or PromptSource's Jinja: input ||| target"""
    templates: dict[str, str] | list[str] | None = None
    """instead of template: several, in a list or by name; the first is the task's, and prompting can report all"""
    answer_choices: str | None = None
    """for Jinja: the allowed answers, separated by |||, as PromptSource has them; templates see them as answer_choices"""
    patterns: list[str] = []
    """cloze prompts for masked language models: text with {field} slots and {answer} anywhere; absent = the template and a
    full stop"""
    inputs: dict[Literal["classification", "entailment", "similarity", "choice"], list[str]] | None = Field(
        None, min_length=1, max_length=1
    )
    """which fields a classifier on a decoder compares: {entailment: [premise, hypothesis]}, {choice: [context, answers]}, ..."""
    choices: dict[str, list[str]] | list[str] | Literal["labels"] | None = None
    """label -> words that stand for it; a list = labels that are their own word; "labels" = those found in train;
    absent = the answer is free text (generation)"""
    answer: str | None = None
    """field with the gold answer; absent = label (choices) or the first of answer, completion, output, target, label"""
    instruction: str = ""
    """said once, before demonstrations and item"""
    separator: str = "\n\n"
    """between demonstrations"""
    chat: bool = False
    """put prompt and answer into the model's chat template"""
    metrics: list[str] = []
    """first = the one routes are judged by; absent = accuracy and macro_f1, or exact_match for generation"""
    aggregate: Aggregate = "max"
    normalise: Normalise = "none"

    @model_validator(mode="before")
    @classmethod
    def _first_template(cls, values: Any) -> Any:
        several = values.get("templates") if isinstance(values, dict) else None
        if several is None:
            return values
        texts = list(several.values()) if isinstance(several, dict) else several
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError("templates must be a list of texts, or a name for each text, and at least one")
        if values.setdefault("template", texts[0]) != texts[0]:
            raise ValueError("give template or templates, not both; the first of templates is the task's")
        return values

    @property
    def texts(self) -> dict[str, str]:
        """The templates' texts by name; those without are numbered."""
        several = self.templates if self.templates is not None else [self.template]
        return several if isinstance(several, dict) else {str(at): text for at, text in enumerate(several, 1)}

    @field_validator("choices", mode="before")
    @classmethod
    def _words_as_lists(cls, value: object) -> object:
        # YAML reads yes/no/1 as other types, and people write one word without brackets.
        if isinstance(value, dict):
            return {_word(k): [_word(w) for w in (v if isinstance(v, list) else [v])] for k, v in value.items()}
        return [_word(v) for v in value] if isinstance(value, list) else value


def _word(value: object) -> str:
    try:
        return formats.label_text(value)
    except RowProblem:
        raise ValueError(f"a choice must be a word or a number, and '{value}' is not") from None
