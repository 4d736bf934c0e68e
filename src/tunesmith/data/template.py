"""Templates: text with `{field}` substitution and one `{answer}` slot. Nothing in a template can run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import UserError, near_miss

_SLOT = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Template:
    """A prompt and where its answer goes.

    Attributes:
        text: for example "Review: {text}\\nSentiment: {answer}". White space before the slot belongs to the answer,
            because tokenizers join it with the word that follows.
    """

    text: str

    def __post_init__(self) -> None:
        if self.text.count("{answer}") != 1:
            raise UserError(
                "a template needs the slot {answer} exactly once", 'For example "Review: {text}\\nSentiment: {answer}".'
            )
        if self.text.rpartition("{answer}")[2].strip():
            raise UserError("a template must end with {answer}", "What comes after the answer can never be part of a prompt.")
        if not self.fields:
            raise UserError(
                "a template needs a {field} of the rows before {answer}", 'For example "Review: {text}\\nSentiment: {answer}".'
            )

    @property
    def fields(self) -> list[str]:
        """Names of the fields it uses, in order."""
        return [name for name in dict.fromkeys(_SLOT.findall(self.text)) if name != "answer"]

    @property
    def lead(self) -> str:
        """White space between prompt and answer."""
        before = self.text.partition("{answer}")[0]
        return before[len(before.rstrip()) :]

    @property
    def tail(self) -> str:
        """What it says between the last field and the answer, without the white space before the answer: "Sentiment:"."""
        before = self.text.partition("{answer}")[0].rstrip()
        return _SLOT.split(before)[-1]

    def prompt(self, fields: Mapping[str, Any]) -> str:
        """Fill the fields; the result ends where the answer's white space begins.

        Raises:
            UserError: a field is not in the row; the message has a near miss.
        """
        return _SLOT.sub(lambda match: _value(match[1], fields), self.text.partition("{answer}")[0].rstrip())


def _value(name: str, fields: Mapping[str, Any]) -> str:
    if name not in fields:
        raise UserError(f"the template uses {{{name}}}, which the row does not have", near_miss(name, map(str, fields)))
    value = fields[name]
    if value is None:
        raise UserError(f"'{name}' is null")
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return " ".join(value)
    return value if isinstance(value, str) else str(value)
