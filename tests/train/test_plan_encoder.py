"""Memory is counted with rows that a model can read, however few its positions are."""

import torch
from transformers import BertConfig, BertForSequenceClassification

from tunesmith.core.records import Encoded
from tunesmith.models.bert import class_logits
from tunesmith.objectives import classification
from tunesmith.train.parameters import FitParameters
from tunesmith.train.plan import count_memory
from tunesmith.train.training import Training


def test_an_encoder_with_few_positions_is_counted() -> None:
    shape = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(**shape, max_position_embeddings=40)
    model = BertForSequenceClassification(config).train()
    read: list[int] = []

    def loss_of(batch: object) -> tuple[torch.Tensor, dict[str, float]]:
        ids, lengths = batch.ids, batch.lengths  # type: ignore[attr-defined]
        read.append(ids.shape[1])
        return classification.loss(class_logits(model, ids, lengths), batch.targets)  # type: ignore[attr-defined]

    rows = [Encoded((7,) * length, (True, *(False,) * (length - 1)), str(length), (0,)) for length in (5, 40, 12)]
    how = FitParameters(learning_rate=1e-3)
    memory = count_memory(Training(loss_of, dict(model.named_parameters()), rows, how, 0), keeps_best=False)
    assert read
    assert max(read) <= 40
    # A token keeps at least the two inputs of every block's four products, float32.
    assert memory.per_token > 2 * (3 * 32 + 64) * 4
