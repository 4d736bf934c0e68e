"""Tiny seeded models and a byte tokenizer, built in code: for tests, documentation and trying a recipe in seconds."""

from __future__ import annotations

from typing import Any

NAMES = ("toy-llama", "toy-bert", "toy-t5")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> Any:
    """Build a tokenizer with one token a byte (256) and a few special tokens; exact for every text.

    Returns:
        A `PreTrainedTokenizerFast` with pad, end and mask tokens and a chat template.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|pad|>", "<|end|>", "<|mask|>", "<|system|>", "<|user|>", "<|assistant|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", mask_token="<|mask|>",
        additional_special_tokens=special[3:], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build(name: str, seed: int = 0) -> tuple[Any, Any]:
    """Build a toy model (float32, about 100,000 weights) and its tokenizer, always the same for the same seed.

    Raises:
        KeyError: not one of NAMES.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    tokenizer = byte_tokenizer()
    size = len(tokenizer)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    builders = {
        "toy-llama": lambda: LlamaForCausalLM(LlamaConfig(
            vocab_size=size, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None, **ids)),
        "toy-bert": lambda: BertForMaskedLM(BertConfig(
            vocab_size=size, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id)),
        "toy-t5": lambda: T5ForConditionalGeneration(T5Config(
            vocab_size=size, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
            **{"decoder_start_token_id": tokenizer.pad_token_id}, **ids)),
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = builders[name]()
    return model.eval(), tokenizer
