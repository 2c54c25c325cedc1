"""Noise for encoder-decoders: what must hold for any row, on any device."""

import pytest
import torch

from uer.config import DatasetConfig, MaskingConfig
from uer.data.batch import IGNORED, Rows
from uer.data.build import build_settings
from uer.data.noise import SpanCorruption, ascending, compacted, infilled, shuffled_sentences
from uer.data.processors import PROCESSORS
from uer.data.processors.gsg import GsgConfig
from uer.data.processors.mlm import MlmConfig
from uer.data.schema import VocabInfo
from uer.errors import UserError
from uer.tokenizers import BertTokenizer, Vocab

FIRST, SENTINELS, S = 900, 5, 24
VOCAB = {"src": VocabInfo("", 1000, {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "sentinel": FIRST,
                                     "last_sentinel": FIRST + SENTINELS - 1})}


def test_span_corruption_by_hand():
    tokens = torch.tensor([[2, 7, 8, 9, 6, 5, 7, 3], [2, 5, 3, 0, 0, 0, 0, 0]])
    positions = torch.tensor([[6, 2, 3, 8], [8, 8, 8, 8]])
    side, target, lengths = SpanCorruption(50, 9, 2, 3, 0)(tokens, tokens > 0, positions)
    assert side.values.tolist() == [[2, 7, 50, 6, 5, 51, 3, 0], [2, 5, 3, 0, 0, 0, 0, 0]]
    assert side.seg.sum(1).tolist() == [7, 3]
    assert target.tolist() == [[2, 50, 8, 9, 51, 7, 52, 3, 0, 0, 0], [2, 50, 3, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert lengths.tolist() == [8, 3]


def rows(count: int = 200, least: int = 1) -> Rows:
    torch.manual_seed(0)
    lengths = torch.randint(least, S + 1, (count,))
    tokens = torch.randint(5, 800, (count, S))
    tokens[:, 0] = 2
    tokens[torch.arange(count), lengths - 1] = 3
    starts = (torch.rand(count, S) < 0.3).to(torch.uint8)
    starts[:, :2] = 1
    starts[torch.arange(count), lengths - 1] = 1
    return Rows({"src": tokens, "sentence_start": starts}, {"src": lengths}, torch.arange(count) * 7919,
                torch.arange(count))


@pytest.mark.parametrize("spans", [False, True])
def test_source_and_target_of_t5_are_the_row(spans):
    """With the runs in place of the sentinels; too few sentinels hide fewer runs."""
    given = rows()
    stored, lengths = given.columns["src"].clone(), given.lengths["src"]
    batch = PROCESSORS["t5"](S, MlmConfig(span_masking=spans), VOCAB).batch(given)
    for row, length in enumerate(lengths.tolist()):
        runs: list[list[int]] = []
        for token in batch.labels["lm"].values[row].tolist():
            if token >= FIRST:
                assert token == FIRST + len(runs)
                runs.append([])
            elif token != IGNORED:
                runs[-1].append(token)
        assert runs[-1] == [3] and len(runs) <= SENTINELS
        whole = [back for token in batch.src.values[row][batch.src.seg[row] > 0].tolist()
                 for back in (runs[token - FIRST] if token >= FIRST else [token])]
        assert whole == stored[row, :length].tolist()


def test_bart_writes_the_row_and_reads_its_sentences():
    """Without its masked tokens the source has nothing that the row has not."""
    given = rows(least=3)
    stored, lengths = given.columns["src"].clone(), given.lengths["src"]
    batch = PROCESSORS["bart"](S, MaskingConfig(span_masking=True), VOCAB).batch(given)
    assert batch.tgt.values.shape == batch.labels["lm"].values.shape == (200, S - 1)
    for row, length in enumerate(lengths.tolist()):
        src = batch.src.values[row][batch.src.seg[row] > 0].tolist()
        assert src[0] == 2 and src[-1] == 3 and len(src) <= length
        assert not any(one == other == 4 for one, other in zip(src, src[1:]))  # noqa: RUF007
        labels = batch.labels["lm"].values[row]
        assert labels[labels != IGNORED].tolist() == stored[row, 1:length].tolist()
        assert batch.tgt.values[row][batch.tgt.seg[row] > 0].tolist() == stored[row, :length - 1].tolist()


def test_small_operations_by_hand():
    side = compacted(torch.tensor([[7, 8, 9, 4]]), torch.tensor([[True, False, True, False]]), 1)
    assert side.values.tolist() == [[7, 9, 1, 1]] and side.seg.tolist() == [[1, 1, 0, 0]]
    src = torch.tensor([[2, 7, 4, 4, 8, 4, 3, 0]])
    assert infilled(src, (src > 0).long(), 4, 0).values.tolist() == [[2, 7, 4, 8, 4, 3, 0, 0]]
    starts = torch.tensor([[1, 1, 0, 1, 1, 0, 0, 1, 0]], dtype=torch.uint8).expand(60, -1)
    orders = shuffled_sentences(starts, torch.full((60,), 8), torch.arange(60) << 20)
    found = {tuple(order) for order in orders.tolist()}
    assert (0, 3, 4, 5, 6, 1, 2, 7, 8) in found and len(found) == 6


def test_sorting_is_the_same_on_every_device():
    values = torch.randint(0, 1 << 40, (9, 31))
    assert torch.equal(ascending(values), values.sort(dim=1).values)


@pytest.mark.parametrize("name, config", [("t5", MlmConfig(span_masking=True)), ("bart", MaskingConfig()),
                                          ("gsg", GsgConfig(tgt_seq_length=S))])
def test_nothing_is_read_back(name, config):
    """Off the CPU, on tensors that have no values to read: the shapes are fixed."""
    processor = PROCESSORS[name](S, config, VOCAB)
    with torch.device("meta"):
        count = torch.ones(6, dtype=torch.int64)
        columns = {column: torch.ones(6, processor.lengths()[kind.axis], dtype=torch.int64 if kind.dtype == "ids" else
                                      torch.uint8) for column, kind in processor.schema().items()}
    batch = processor.batch(Rows(columns, dict.fromkeys(processor.lengths(), count), count, count))
    widths = processor.batch_lengths()
    assert batch.src.values.shape == (6, widths["src"]) and batch.tgt.seg.shape == (6, widths["tgt"])
    assert batch.labels["lm"].values.device.type == "meta" and batch.labels["lm"].side == "tgt"


@pytest.mark.parametrize("entries, count", [
    ([], "none"), (["<extra_id_0>"], "1"), (["<extra_id_0>", "<extra_id_2>"], "1")])
def test_t5_needs_sentinels(entries, count):
    tokenizer = BertTokenizer(Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", *entries]))
    with pytest.raises(UserError, match=f"needs a vocabulary with the entries <extra_id_0>.* has {count} of them"):
        build_settings(DatasetConfig(corpus_path=("x",), data_processor="t5"), {"src": tokenizer})


def test_sentinels_are_found_by_name():
    vocab = Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<extra_id_0>", "<extra_id_1>", "<extra_id_2>", "a"])
    assert (vocab.special_ids["sentinel"], vocab.special_ids["last_sentinel"]) == (5, 7)
    assert "sentinel" not in Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]).special_ids
    named = Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "S8", "S9", "S10"], {"sentinel_token": "S8"})
    assert named.special_ids["last_sentinel"] == 7
