"""Size and cost of a model: parameters, operations, memory. They are counted with torch's FLOP counter on the meta
device, where tensors have shapes but no values, so that no memory is used and every architecture is counted correctly.

All layers of an encoder cost the same, and all of a decoder: models with one and with two layers are counted, and the
cost of more layers follows.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from uer.config import ModelConfig
from uer.data.batch import Batch, Rows
from uer.data.processors import PROCESSORS, Processor
from uer.data.processors.base import LEAST_TARGET
from uer.data.processors.mlm import MlmConfig
from uer.data.schema import INSTANCE, VocabInfo
from uer.data.store import TokenDataset
from uer.meta_device import Unfilled, extrapolated_model
from uer.model import build_model

PREDICTED = 0.15
"""The fraction of positions that `activation_bytes` assumes to be predicted."""
BACKWARD = 2
"""A backward pass has twice the operations of the forward pass: every matrix product has two gradients."""


def flops_per_token(config: ModelConfig, vocab_size: int, length: float, processor: Processor | None = None,
                    tgt_length: float | None = None, mask_rate: float = PREDICTED) -> float:
    """Floating-point operations of training on one token of a row of `length` tokens, forward and backward. Where there
    is a target side, the row's operations are divided by the tokens of both sides.

    Matrix products count, attention's included; of the last layer only what is computed for the predicted positions,
    and the output layer for the predictions only. Nothing counts for padding: with the mean number of tokens of a row
    as `length` (`mean_length`), this times the number of tokens is what a step computes for real tokens. Attention's
    operations grow with the square of a row's length, so that rows of unequal lengths need a little more:

        rows of 20 and 100 tokens: 20^2 + 100^2 = 10,400 products of a query and a key; two rows of 60: 7,200

    The first call imports parts of torch's compiler, which takes about two seconds.

    Args:
        config: the model, with its targets.
        vocab_size: entries of the vocabulary.
        length: tokens of each row, rounded to a whole number; with --seq_length, the operations for one token slot.
        processor: makes the batches; when None that of mlm, for a model whose only target is mlm.
        tgt_length: tokens of each row's target side, where the dataset holds it; None: --tgt_seq_length.
        mask_rate: without a processor, the fraction of the tokens that are predicted.
    """
    return (1 + BACKWARD) * forward_flops_per_token(config, vocab_size, length, processor, tgt_length, mask_rate)


def forward_flops_per_token(config: ModelConfig, vocab_size: int, length: float,
                            processor: Processor | None = None, tgt_length: float | None = None,
                            mask_rate: float = PREDICTED) -> float:
    """Floating-point operations of a forward pass for one token; arguments as `flops_per_token`."""
    length = max(1, round(length))
    if processor is None:
        mlm = replace(config, target=("mlm",))
        return extrapolated_model(lambda layers: _mlm_flops(layers, vocab_size, length, mask_rate), mlm)
    batch = example_batch(shorter(processor, length, tgt_length), rows=1)
    tgt_vocab_size = processor.vocabs["tgt"].size if "tgt" in processor.vocabs else None
    return extrapolated_model(lambda layers: _flops(layers, vocab_size, batch, tgt_vocab_size), config)


def shorter(processor: Processor, length: float, tgt_length: float | None = None) -> Processor:
    """The processor of rows of so many tokens, rounded; arguments as `flops_per_token`."""
    config = processor.config
    if tgt_length is not None:
        beside = config.tgt_seq_length - processor.batch_lengths()["tgt"]
        config = replace(config, tgt_seq_length=max(LEAST_TARGET, round(tgt_length) + beside))
    return type(processor)(max(processor.least_length, round(length)), config, processor.vocabs)


def mean_length(datasets: Sequence[TokenDataset], processor: Processor) -> float:
    """Mean number of source tokens of a row of a batch, padding left out: tokens / instances of all datasets together.

    A language model stores one token more than its batches have: its last label.
    """
    stored = sum(len(dataset.tokens) for dataset in datasets) / sum(map(len, datasets))
    return stored - (processor.lengths()["src"] - processor.batch_lengths()["src"])


def mean_tgt_length(datasets: Sequence[TokenDataset], processor: Processor) -> float | None:
    """The same of the target side; None where the datasets hold none."""
    if "tgt" not in processor.lengths():
        return None
    stored = sum(len(dataset.columns["tgt"]) for dataset in datasets) / sum(map(len, datasets))
    return stored - (processor.lengths()["tgt"] - processor.batch_lengths()["tgt"])


def made_tokens(datasets: Sequence[TokenDataset], processor: Processor) -> int:
    """Tokens of the target side of a row of mean length, where the processor makes it of the source (at most, of t5);
    0 where there is none, or the datasets hold it."""
    if "tgt" in processor.lengths():
        return 0
    return shorter(processor, mean_length(datasets, processor)).batch_lengths().get("tgt", 0)


def _flops(config: ModelConfig, vocab_size: int, batch: Batch, tgt_vocab_size: int | None = None) -> float:
    """Operations of a forward pass of the batch of full rows, for one token."""
    with Unfilled():
        # Without gradients: the counter cannot follow a view of a parameter under `torch.no_grad`.
        model = build_model(config, vocab_size, tgt_vocab_size=tgt_vocab_size, unpad="off").requires_grad_(False)
    moved = batch.to("meta")
    with FlopCounterMode(display=False) as counter:
        model(moved)
    return counter.get_total_flops() / batch.token_slots()


@functools.lru_cache(maxsize=256)
def _mlm_flops(config: ModelConfig, vocab_size: int, seq_length: int, mask_rate: float) -> float:
    """`_flops` of mlm's batches; a plan asks for the same few layers of models of all depths."""
    special_ids = {role: number for number, role in enumerate(("pad", "unk", "cls", "sep", "mask"))}
    vocabs = {"src": VocabInfo("", max(vocab_size, 6), special_ids)}  # of which only the size matters
    processor = PROCESSORS["mlm"](seq_length, MlmConfig(mask_rate=mask_rate), vocabs)
    return _flops(config, vocab_size, example_batch(processor, rows=1))


@functools.lru_cache(maxsize=256)
def parameter_count(config: ModelConfig, vocab_size: int, tgt_vocab_size: int | None = None) -> int:
    """How many numbers a model with its targets trains; a tied weight counts once.

    >>> parameter_count(ModelConfig(embedding=("word", "pos", "seg"), tie_weights=True), 21128)  # BERT-base
    102291080
    """
    def count(smaller: ModelConfig) -> int:
        with Unfilled():
            return build_model(smaller, vocab_size, tgt_vocab_size=tgt_vocab_size).num_parameters()

    return extrapolated_model(count, config)


def example_batch(processor: Processor, rows: int) -> Batch:
    """A batch of full rows of zeros, for its shapes."""
    lengths = processor.lengths()
    columns = {}
    for name, column in processor.schema().items():
        shape = (rows,) if column.axis == INSTANCE else (rows, lengths[column.axis])
        columns[name] = torch.zeros(shape, dtype=torch.int64)
    sizes = {axis: torch.full((rows,), length) for axis, length in lengths.items()}
    numbers = torch.arange(rows)
    return processor.batch(Rows(columns, sizes, numbers, numbers))


def activation_bytes(config: ModelConfig, token_slots: int, vocab_size: int, tgt_slots: int | None = None,
                     mask_rate: float = PREDICTED) -> int:
    """An estimate of the memory that a transformer's forward pass keeps for the backward pass, in fp32.

    For each token slot a layer keeps about 8 vectors of the hidden size (of which keys and values are narrower with
    grouped queries) and 2 of the feed-forward size, 4 with a gate (attention scores are not kept). The output layer
    keeps the logits of the slots that are predicted and their gradient. A decoder predicts at all of its slots.

    Args:
        config: the model.
        token_slots: of the source side.
        vocab_size: entries of the vocabulary that is predicted.
        tgt_slots: token slots of the target side; None: as many.
        mask_rate: the fraction of the slots that are predicted.
    """
    grouped = (config.local_kv_heads_num or config.heads_num) / config.heads_num
    wide = 4 if config.feed_forward == "gated" else 2
    layer = (6 + 2 * grouped) * config.hidden_size + wide * config.feedforward_size
    if config.decoder:  # attention to the encoder's output keeps about 4 vectors more
        decoder = (layer + 4 * config.hidden_size) * config.decoder_layers_num
        tgt_slots = token_slots if tgt_slots is None else tgt_slots
        return round(4 * (token_slots * layer * config.layers_num + tgt_slots * (decoder + 2 * vocab_size)))
    head = mask_rate * (2 * vocab_size + 3 * config.emb_size)
    return round(4 * token_slots * (layer * config.layers_num + head))


def teacher_bytes(config: ModelConfig, vocab_size: int, token_slots: int, tgt_vocab_size: int | None = None,
                  tgt_slots: int = 0) -> int:
    """Memory of a teacher: its weights in fp32, and three matrices of logits for 15% of `token_slots`, or for all slots
    of the target side."""
    predicted = tgt_slots * (tgt_vocab_size or vocab_size) or PREDICTED * token_slots * vocab_size
    return 4 * parameter_count(config, vocab_size, tgt_vocab_size) + round(12 * predicted)
