"""Tokenizers of a few words, built in code: WordPiece as BERT's, and byte pairs as RoBERTa's, where a space is part of a word."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_WORDS = (
    "the", "film", "it", "was", "great", "good", "bad", "awful", "un", "##fav", "##or", "##able", "a", "plot", "so", "just",
    "in", "all", "sum", "mary", "##s", "[", "]", "mask", ".", ",", "!", ":",
)  # fmt: skip


def wordpiece() -> Any:
    """Lower-case WordPiece with [CLS] and [SEP] around a text."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate([*special, *_WORDS])}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=32,
    )  # fmt: skip


def byte_pairs() -> Any:
    """Byte pairs in which " great" is one token, and "great" is "gr" and "eat"."""
    special = ["<s>", "</s>", "<pad>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("g", "r"), ("e", "a"), ("ea", "t"), ("Ġ", "gr"), ("Ġgr", "eat")]
    vocabulary = {t: i for i, t in enumerate([*special, *alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        mask_token=AddedToken("<mask>", lstrip=True),
    )  # fmt: skip
