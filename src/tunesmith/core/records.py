"""The records that travel between rooms. All frozen; `loss_mask` True = counts, and there is no other mask polarity."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `counts` False = an answer to read and not to learn."""

    role: str
    content: str
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a task.

    Attributes:
        id: stable identity (hash of its content), equal wherever the same row is read from.
        fields: the row's columns under their canonical names.
        where: "file:line" or "source:number", for messages to people.
    """

    id: str
    fields: Mapping[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be used: where it stands, why, and how it begins (at most 120 characters)."""

    where: str
    reason: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text and whether its tokens are what the model learns to say."""

    text: str
    counts: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one example, with the mask made segment by segment.

    Attributes:
        ids: T token ids.
        loss_mask: T booleans; True where something is predicted that counts.
        example_id: the example it came from.
        targets: what is predicted where the mask is True, in order: the masked tokens, or one class for a whole row
            or number (with the mask True at its first token, or at the first of each text in a row of several). None = the
            tokens themselves, each from those before it.
        beside: per True of the mask some numbers that the loss needs too, such as an advantage; None = none.
    """

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    example_id: str
    targets: tuple[int, ...] | tuple[float, ...] | None = None
    beside: tuple[tuple[float, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counted(self) -> int:
        """Number of predictions that count; nothing predicts the first token of a row from those before it."""
        return sum(self.loss_mask[1:]) if self.targets is None else len(self.targets)


class MadeRows(Sequence[Encoded]):
    """Rows that are made or read when they are asked for."""

    @abstractmethod
    def row(self, number: int) -> Encoded:
        """Make row `number`, from 0 to below the number of rows."""

    @overload
    def __getitem__(self, number: int) -> Encoded: ...
    @overload
    def __getitem__(self, number: slice) -> list[Encoded]: ...
    def __getitem__(self, number: int | slice) -> Encoded | list[Encoded]:
        """Make a row, counted from the end where negative, or several as a list."""
        if isinstance(number, slice):
            return [self.row(i) for i in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        return self.row(number % len(self))


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated answer.

    Attributes:
        text, ids: what was said. logprobs: of each token, nats. stop_reason: why it ended.
        values: what a value head expected before each token; empty where none was asked.
    """

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: str
    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """What one judge said of the completions of one prompt; comparisons of a prompt stay together, in batch and split.

    Attributes:
        id: stable identity (hash of its content).
        prompt: what was asked: a text, or the turns before the answer.
        completions: k answers. One = an unpaired judgement, of which `ratings` holds 1 (good) or 0 (bad).
        ranks: of each, 1 = best; equal = a tie. Where only the best was named it has 1 and all others 2.
        only_best: the others of rank 2 were not compared with one another (Ziegler's best of four).
        ratings: numbers given to each by itself, more = better; None = only the order is known.
        judge: who judged, where the file says so. where: "file:line", for messages to people.
    """

    id: str
    prompt: str | tuple[Message, ...]
    completions: tuple[str, ...]
    ranks: tuple[int, ...]
    where: str
    only_best: bool = False
    ratings: tuple[float, ...] | None = None
    judge: str | None = None


@dataclass(frozen=True, slots=True)
class WorkedExample:
    """A hand-derived value that a registry entry must reproduce.

    Attributes:
        inputs: keyword arguments for the entry's function.
        expected: the value, computed by hand or by an independent programme.
        how: the derivation, in words a reader can follow.
        tolerance: largest absolute difference allowed.
    """

    inputs: Mapping[str, Any]
    expected: Any
    how: str
    tolerance: float = 1e-6
    wrong: Mapping[str, Any] = field(default_factory=dict)
