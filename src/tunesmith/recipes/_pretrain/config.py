"""What `tunesmith pretrain` can be told, apart from its work so that reading documents can know it too."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.recipes._training_run import TrainingRun


class Config(TrainingRun):
    """Settings of `tunesmith pretrain`, beside those of training itself."""

    data: str
    """tasks and files of texts, separated by commas; of a task its training rows, of a .txt file its paragraphs"""
    objective: Literal["mlm", "clm", "span"] = "mlm"
    """mlm hides tokens and predicts them (encoders), clm predicts each token from those before it (decoders), span hides spans
    behind sentinels and writes them out (encoder-decoders)"""
    model: str = ""
    """embedded name, local directory or hub id; absent = minilm for mlm, smollm2 for clm, toy-t5 for span"""
    learn: Literal["text", "answers", "both"] = "text"
    """what mlm hides: tokens of the text; or the answers of tasks, each row written into one of its task's patterns; or both"""
    mask_share: float = Field(0.15, gt=0, lt=1)
    """share of a row's tokens that mlm and span hide"""
    span_length: float = Field(3.0, ge=1, allow_inf_nan=False)
    """mean length of what span hides in one piece, tokens"""
    whole_words: bool = False
    """mlm hides all tokens of a word or none"""
    max_length: int = Field(128, ge=8)
    """tokens of a row; a longer document becomes several rows"""
    replay: float = Field(0.0, ge=0, lt=1)
    """share of the rows that are general text, so that it is not forgotten; 0 = none"""
    replay_from: str = "editorials"
    """tasks and files of general text, separated by commas"""
    out_of_domain: str = ""
    """tasks and files, separated by commas, that are measured before and after and never learned from"""
    train_rows: int | None = Field(None, ge=1)
    """at most this many documents of each source"""
    held_out: int = Field(200, ge=1)
    """documents of each source, at most and of a file at most a tenth, to measure loss and perplexity on"""

    @model_validator(mode="after")
    def _what_goes_together(self) -> Self:
        needs = {"learn": "mlm", "whole_words": "mlm", "span_length": "span", "mask_share": "mlm or span"}
        wrong = [key for key in sorted(needs) if key in self.model_fields_set and self.objective not in needs[key].split(" or ")]
        if wrong:
            others = f" (and {', '.join(wrong[1:])})" if wrong[1:] else ""
            raise ValueError(f"{wrong[0]}{others} needs --objective {needs[wrong[0]]}")
        if not any(self.sources):
            raise ValueError("data names no task and no file")
        if "replay_from" in self.model_fields_set and not self.replay:
            raise ValueError("replay_from needs --replay, the share of its rows")
        if self.replay and self.learn != "text":
            raise ValueError("replay is of texts: it goes with --learn text")
        if both := [name for name in self.sources if name in (*self.replayed, *self.measured)]:
            raise ValueError(f"'{both[0]}' is the data itself, so it is neither general text nor out of domain")
        return self

    @property
    def sources(self) -> list[str]:
        """The tasks and files that `data` names, each once."""
        return _named(self.data)

    @property
    def replayed(self) -> list[str]:
        """The tasks and files of general text that is trained on too."""
        return _named(self.replay_from) if self.replay else []

    @property
    def measured(self) -> list[str]:
        """The tasks and files that are only measured."""
        return [name for name in _named(self.out_of_domain) if name not in self.replayed]


def _named(names: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
