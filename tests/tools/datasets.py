"""Datasets for tests: made by the real builder, and read back as batches in stored order."""

from pathlib import Path

import torch

from uer.config import DatasetConfig, MaskingConfig
from uer.data.batch import Batch, Rows
from uer.data.build import build_dataset
from uer.data.loader import open_processor
from uer.data.processors import PROCESSORS
from uer.data.row_fetcher import RowFetcher, widened
from uer.data.schema import INSTANCE
from uer.data.store import TokenDataset, open_dataset
from uer.tokenizers.base import Tokenizer


def make_dataset(path: Path, corpus: Path, processor: str, tokenizer: Tokenizer, *, shard_bytes: int | None = None,
                 members: dict | None = None, tgt_tokenizer: Tokenizer | None = None, **settings) -> TokenDataset:
    """What `preprocess.py` makes; `members` are the processor's own settings. A target side has its own tokenizer, or
    the same."""
    config = DatasetConfig(corpus_path=(str(corpus),), dataset_path=str(path), data_processor=processor,
                           members=members or {}, **settings)
    sides = {"src": tokenizer, "tgt": tgt_tokenizer or tokenizer}
    tokenizers = {side: sides[side] for side in ("src", *filter(None, PROCESSORS[processor].fields))}
    build_dataset(config, tokenizers, note=lambda line: None, shard_bytes=shard_bytes)
    return open_dataset(path)


def whole_batch(dataset: TokenDataset, masking: MaskingConfig = MaskingConfig(), keys: int = 0) -> Batch:  # noqa: B008
    """Every stored instance, in stored order, as one batch; instance i has the key i + `keys`."""
    processor = open_processor([dataset], masking)
    instances = torch.arange(len(dataset))
    columns, lengths = RowFetcher(dataset, list(processor.schema()), torch.device("cpu")).fetch(instances)
    schema = dataset.info.schema
    wide = {name: widened(column) if schema[name].dtype == "ids" or schema[name].axis == INSTANCE else column
            for name, column in columns.items()}
    return processor.batch(Rows(wide, lengths, instances + keys, instances))
