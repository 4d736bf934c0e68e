"""A reward model: a decoder or an encoder with a head for one number, read at the last real token of prompt and completion.

    r(x, y) = gain w . h + bias

w is drawn from N(0, 1 / (d + 1)) (Stiennon et al. 2020, appendix B.1). Where a text ends is known by its length, never by a
padding id: where padding is also the end of a text, looking for the id finds the middle of a prompt. Gain and bias are set by
`normalise`; they change neither the order of completions nor what was learned of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tunesmith.core.encode import encode_chat, encoder_ids, token_ids, with_bos
from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.records import Encoded, Message
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch
from tunesmith.models.decoder_classifier import Score, Texts, last_hidden
from tunesmith.models.encoder import load_headed
from tunesmith.models.heads import text_logits
from tunesmith.models.load import LM, load
from tunesmith.peft._layers import in_place
from tunesmith.recipes._tune.encoder import in_order

Prompt = str | tuple[Message, ...]
HEAD = "score"
_DECODERS = ("ForCausalLM", "LMHeadModel")


@dataclass
class RewardModel:
    """A model that scores completions.

    Attributes:
        encoder: it reads in both directions; else it is a decoder with a `head`.
        gain, bias: see above. trained_gain: the gain that training had, by which differences of rewards are log-odds.
        prompts: what it learned from. "chat": conversations, so that a prompt that is a text is read as the first turn of one;
            "none": texts without a prompt, so that a prompt and what goes on from it are read as one text; else "text".
        layers: its own LoRA layers, where it lives on a policy's trunk; they stand in the trunk only while it scores.
        aside: a with-block in which the policy's own adapter is off; only with `layers`.
    """

    lm: LM
    encoder: bool
    head: Any
    gain: float = 1.0
    bias: float = 0.0
    trained_gain: float = 1.0
    prompts: str = "text"
    layers: dict[str, torch.nn.Module] = field(default_factory=dict)
    aside: Any = None

    def ids(self, prompt: Prompt, completion: str) -> tuple[int, ...]:
        """Return what is read of a prompt with a completion; a decoder's ends in the end-of-sequence token.

        Raises:
            UserError: the tokenizer has no such token, or the chat template refuses the conversation.
        """
        tokenizer = self.lm.tokenizer
        if self.prompts == "none" and isinstance(prompt, str):
            prompt, completion = "", prompt + completion
        if self.encoder:
            asked = prompt if isinstance(prompt, str) else "\n".join(f"{m.role}: {m.content}" for m in prompt)
            texts = [asked, completion] if asked else [completion]
            return encoder_ids(tokenizer, *(token_ids(tokenizer, text) for text in texts))
        if self.prompts == "chat" and isinstance(prompt, str):
            prompt = (Message("user", prompt),)
        if not isinstance(prompt, str):
            row = encode_chat(tokenizer, [*prompt, Message("assistant", completion)], "")
            # What a template writes behind the last answer is no part of it.
            return row.ids[: len(row.ids) - row.loss_mask[::-1].index(True)]
        if tokenizer.eos_token_id is None:
            raise UserError("this tokenizer has no end-of-sequence token, so no text has an end to score", "Use another model.")
        return (*with_bos(tokenizer, token_ids(tokenizer, prompt) + token_ids(tokenizer, completion)), tokenizer.eos_token_id)

    def rewards(self, texts: Texts, activation_checkpointing: bool = False) -> torch.Tensor:
        """Return the rewards [S] of texts, float32, with gradients."""
        if self.encoder:
            raw = text_logits(self.lm, texts.ids, texts.lengths)[:, 0].float()
        else:
            raw = self.head(last_hidden(self.lm.model, texts, activation_checkpointing))[:, 0]
        return self.gain * raw + self.bias

    def of_batch(self, batch: Batch) -> torch.Tensor:
        """Return the rewards [S] of a batch's texts, of which each row may hold several."""
        return self.rewards(Texts.of(*batch.tensors(self.lm.device)))

    def score(self, pairs: Sequence[tuple[Prompt, str]], title: str = "") -> list[float]:
        """Score prompts with completions.

        Raises:
            UserError: one is longer than the model reads.
        """
        rows = []
        for number, (prompt, completion) in enumerate(pairs, 1):
            ids = self.ids(prompt, completion)
            if not ids or len(ids) > self.lm.context_length:
                raise UserError(
                    f"completion {number:,} has {len(ids):,} tokens with its prompt; this reward model ({self.lm.name}) reads "
                    f"1 to {self.lm.context_length:,}",
                    "Shorten it: nothing is ever cut.",
                )
            rows.append(Encoded(ids, (True,) + (False,) * (len(ids) - 1), str(number), (0,)))
        if not rows:
            return []
        training = self.lm.model.training
        self.lm.model.eval()
        try:
            with self._in_place():
                return in_order(lambda batch: self.of_batch(batch)[:, None], rows, title)[:, 0].tolist()
        finally:
            self.lm.model.train(training)

    def normalise(self, rewards: Sequence[float], deviation: bool) -> None:
        """Set bias, and with `deviation` gain, so that these rewards of now have mean 0, and deviation 1 (of the population).

        Raises:
            WorkFailed: they are all the same.
        """
        mean = sum(rewards) / len(rewards)
        spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / len(rewards))
        if deviation and spread <= 1e-6 * max(1.0, abs(mean)):
            raise WorkFailed(
                f"all {len(rewards):,} answers have the same reward, {mean:.4g}", "Train longer, or use --normalise none."
            )
        factor = 1 / spread if deviation else 1.0
        self.gain, self.bias = self.gain * factor, (self.bias - mean) * factor

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Put this model's layers into the trunk that it shares, and take them out again."""
        if not self.layers:
            yield
            return
        with self.aside(), in_place(self.lm.model, self.layers):
            yield


def fresh(name: str, dtype: str, seed: int) -> RewardModel:
    """Load a decoder or an encoder and give it a new head, which follows from the seed.

    Raises:
        UserError: there is no such model.
    """
    if is_encoder(name):
        torch.manual_seed(derive(seed, "head"))
        precision = "fp32" if dtype == "auto" else dtype  # small, and trained without rounding
        lm = load_headed(name, "classifier", ["reward"], precision, new_head=True, settings={"problem_type": "regression"})[0]
        begin_head(lm.model.classifier, seed)
        return RewardModel(lm, True, lm.model.classifier)
    lm = load(name, dtype=dtype)
    return RewardModel(lm, False, put_head(lm, seed))


def put_head(lm: LM, seed: int) -> Score:
    """Put a new head on a decoder, as `score`, where transformers' sequence classifiers have theirs."""
    torch.manual_seed(derive(seed, "head"))
    table = lm.model.get_input_embeddings().weight
    lm.model.score = Score(1, table, deviation=(table.shape[1] + 1) ** -0.5)
    return lm.model.score


def begin_head(head: Any, seed: int) -> None:
    """Draw the weights of an encoder's linear head from N(0, 1 / (d + 1)).

    Raises:
        UserError: it is more than one linear layer.
    """
    if not isinstance(head, torch.nn.Linear):
        raise UserError("the head of this encoder is more than one linear layer", "Use minilm, or a decoder.")
    generator = torch.Generator().manual_seed(derive(seed, "head"))
    with torch.no_grad():
        drawn = torch.empty(head.weight.shape).normal_(std=(head.in_features + 1) ** -0.5, generator=generator)
        head.weight.copy_(drawn)
        if head.bias is not None:
            head.bias.zero_()


def is_encoder(name: str) -> bool:
    """Whether a model reads in both directions, by its configuration.

    Raises:
        UserError: there is no such model.
    """
    from transformers import AutoConfig

    from tunesmith.models import toy
    from tunesmith.models.load import open_folder

    if name in toy.NAMES:
        return name == "toy-bert"
    kinds = AutoConfig.from_pretrained(open_folder(name)[0], trust_remote_code=False).architectures or [""]
    return not kinds[0].endswith(_DECODERS)
