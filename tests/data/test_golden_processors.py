"""Instances and batches of the processors beside those of the original toolkit."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.tools.datasets import make_dataset, whole_batch
from uer.config import MaskingConfig, TokenizerConfig
from uer.data.batch import IGNORED, Rows
from uer.data.masking import Masker
from uer.data.noise import infilled, shuffled_sentences
from uer.data.processors import PROCESSORS
from uer.data.processors.mlm import MlmConfig
from uer.data.schema import VocabInfo
from uer.data.sides import decoder_side
from uer.tokenizers import build_tokenizer
from uer.tokenizers.bert import BertTokenizer
from uer.tokenizers.vocab import Vocab


@pytest.fixture(scope="module")
def tokenizer(google_vocab):
    return build_tokenizer(TokenizerConfig(vocab_path=str(google_vocab)))


@pytest.fixture(scope="module")
def breadth(golden):
    return golden / "breadth"


@pytest.fixture(scope="module")
def summary(breadth):
    return json.loads((breadth / "data" / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("seq_length", [16, 64])
def test_lm(tmp_path, breadth, summary, tokenizer, seq_length):
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "lines.txt", "lm", tokenizer,
                           seq_length=seq_length)
    expected = np.load(breadth / "data" / f"lm_seq{seq_length}.npz")
    assert dataset.tokens.tolist() == expected["ids"].tolist()
    assert dataset.offsets["src"][:].tolist() == expected["offsets"].tolist()
    batch = whole_batch(dataset)
    assert np.array_equal(batch.src.values, expected["batch_src"]) and np.array_equal(batch.src.seg,
                                                                                     expected["batch_seg"])
    labels = batch.labels["lm"].values.numpy()
    real = labels != IGNORED
    assert np.array_equal(labels[real], expected["batch_tgt"][real]) and not expected["batch_tgt"][~real].any()
    figures = summary[f"lm_seq{seq_length}"]  # the original's loss counts [PAD] behind the end of a text
    assert real.sum() == figures["positions_in_the_original_loss"] - figures["of_these_with_target_pad"]


@pytest.mark.parametrize("seq_length", [16, 64])
def test_bilm(tmp_path, breadth, tokenizer, seq_length):
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "lines.txt", "bilm", tokenizer,
                           seq_length=seq_length)
    expected = np.load(breadth / "data" / f"bilm_seq{seq_length}.npz")
    assert dataset.tokens.tolist() == expected["ids"].tolist()
    assert dataset.offsets["src"][:].tolist() == expected["offsets"].tolist()
    batch = whole_batch(dataset)
    seg = expected["batch_seg"]
    assert np.array_equal(batch.src.values, expected["batch_src"]) and np.array_equal(batch.src.seg, seg)
    labels = batch.labels["bilm"].values.numpy()
    assert np.array_equal(labels[..., 0][seg > 0], expected["batch_tgt_forward"][seg > 0])
    assert np.array_equal(labels[..., 1][seg > 0], expected["batch_tgt_backward"][seg > 0])
    assert (labels[seg == 0] == IGNORED).all()


def figures_of(dataset):
    """What the golden summary says of pairs."""
    lengths = np.diff(dataset.offsets["src"][:])
    first = dataset.columns["split"].astype(np.int64)  # [CLS] and [SEP] included
    return {"instances": len(dataset), "tokens": int(lengths.sum()), "mean_length": lengths.mean(),
            "mean_first_part": first.mean(), "full_rows": (lengths == dataset.info.seq_length).mean(),
            "empty_second_part": int((lengths - first == 1).sum()), "empty_first_part": int((first == 2).sum())}


@pytest.mark.parametrize("seq_length", [64, 128])
@pytest.mark.parametrize("short", [0.0, 0.1])
def test_distributions_of_bert(tmp_path, breadth, summary, tokenizer, seq_length, short):
    """The mean over seeds lies within three standard errors of the original's, both means of 20 seeds."""
    found = []
    for seed in range(20):
        dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "sentences.txt", "bert", tokenizer,
                               seq_length=seq_length, dup_factor=1, seed=seed, members={"short_seq_prob": short})
        found.append({**figures_of(dataset), "label_1": dataset.columns["is_random"].mean()})
    for name, original in summary[f"bert_seq{seq_length}_short{short}"].items():
        if isinstance(original, dict):
            mean = np.mean([figures[name] for figures in found])
            error = original["sd"] * (2 / 20) ** 0.5
            assert abs(mean - original["mean"]) <= 3.5 * error, (name, mean, original)


@pytest.mark.parametrize("seq_length", [64, 128])
def test_chunks_of_albert(tmp_path, breadth, tokenizer, seq_length):
    """Which sentences each instance is made of; it has all of their tokens, or a full row of them."""
    corpus = (breadth / "corpora" / "sentences.txt").read_text(encoding="utf-8")
    documents = [[tokenizer.encode(line) for line in paragraph.splitlines()] for paragraph in
                 corpus.strip("\n").split("\n\n")]
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "sentences.txt", "albert", tokenizer,
                           seq_length=seq_length, dup_factor=1, members={"short_seq_prob": 0.0})
    expected = np.load(breadth / "data" / f"albert_chunks_seq{seq_length}_short0.npy")
    assert len(dataset) == len(expected)
    for number, (document, first, end, tokens) in enumerate(expected.tolist()):
        text = [token for sentence in documents[document][first:end] for token in sentence]
        assert len(text) == tokens
        row, split = dataset[number].tolist(), int(dataset.columns["split"][number])
        one, other = row[1:split - 1], row[split:-1]
        assert len(row) == min(tokens + 3, seq_length)
        assert row[0] == 101 and row[split - 1] == row[-1] == 102
        if tokens + 3 <= seq_length:
            assert one + other == text
            borders = np.cumsum([len(sentence) for sentence in documents[document][first:end]])[:-1]
            assert end - first == 1 or len(one) in borders
        assert not tokens > 1 or (one and other)  # the original leaves a part empty where there is one sentence


def test_distributions_of_albert(tmp_path, breadth, summary, tokenizer):
    """Over 20 seeds, short rows included; the parts of one-sentence chunks are ours."""
    found = [figures_of(make_dataset(tmp_path / "d.pt", breadth / "corpora" / "sentences.txt", "albert", tokenizer,
                                     seq_length=64, dup_factor=1, seed=seed)) for seed in range(20)]
    for name in ("instances", "tokens", "mean_length", "mean_first_part", "full_rows"):
        original = summary["albert_seq64_short0.1"][name]
        mean = np.mean([figures[name] for figures in found])
        assert abs(mean - original["mean"]) <= 3.5 * original["sd"] * (2 / 20) ** 0.5, (name, mean, original)


def test_albert_swaps_half_of_the_rows_and_says_which(tmp_path, breadth, tokenizer):
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "sentences.txt", "albert", tokenizer, seq_length=64,
                           dup_factor=1)
    swapped = []
    for keys in range(0, 50_000, 1000):
        batch = whole_batch(dataset, keys=keys)
        labels = batch.labels["mlm"]
        src = batch.src.values.scatter(1, torch.where(labels.wanted(), labels.positions, 0),
                                       torch.where(labels.wanted(), labels.values, batch.src.values[:, :1]))
        for number in range(0, len(dataset), 37):
            stored, split = dataset[number].tolist(), int(dataset.columns["split"][number])
            one, other = stored[1:split - 1], stored[split:-1]
            if batch.labels["sp"].values[number, 0] == 1:
                one, other = other, one
            assert src[number, :len(stored)].tolist() == [101, *one, 102, *other, 102]
            seg = batch.src.seg[number].tolist()
            assert seg == [1] * (len(one) + 2) + [2] * (len(other) + 1) + [0] * (64 - len(stored))
        swapped.append((batch.labels["sp"].values == 1).float().mean().item())
    assert abs(np.mean(swapped) - 0.5) < 0.02


def row_tokens(dataset, axis="src"):
    """The stored sequences as lists."""
    return [dataset.sequence(number, axis).tolist() for number in range(len(dataset))]


def without_padding(src, seg):
    return [row[:count].tolist() for row, count in zip(src, (seg > 0).sum(1))]


def test_cls(tmp_path, breadth, summary, tokenizer):
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "labelled.tsv", "cls", tokenizer, seq_length=32)
    expected = np.load(breadth / "data" / "cls_seq32.npz")
    batch = whole_batch(dataset)
    assert np.array_equal(batch.src.values, expected["batch_src"]) and np.array_equal(batch.src.seg,
                                                                                     expected["batch_seg"])
    assert batch.labels["cls"].values[:, 0].tolist() == expected["batch_tgt"].tolist()
    assert (batch.labels["cls"].positions == 0).all()
    figures = summary["cls_seq32"]
    assert (len(dataset), len(dataset.tokens)) == (figures["instances"], figures["tokens"])


def test_cls_mlm(tmp_path, breadth, tokenizer):
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "labelled.tsv", "cls_mlm", tokenizer, seq_length=32)
    expected = np.load(breadth / "data" / "cls_mlm_seq32.npz")
    batch = whole_batch(dataset)
    assert row_tokens(dataset) == without_padding(expected["src_before_masking"], expected["seg"])
    assert np.array_equal(batch.src.seg, expected["seg"])
    assert batch.labels["cls"].values[:, 0].tolist() == expected["tgt_cls"].tolist()
    labels = batch.labels["mlm"]
    original = torch.from_numpy(expected["src_before_masking"].astype(np.int64))
    assert torch.equal(original.gather(1, labels.positions)[labels.wanted()], labels.values[labels.wanted()])
    shown = batch.src.values.scatter(1, torch.where(labels.wanted(), labels.positions, 0),
                                     torch.where(labels.wanted(), labels.values, 101))
    assert torch.equal(shown, original)


def test_prefixlm(tmp_path, breadth, summary, tokenizer):
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "prefix.tsv", "prefixlm", tokenizer, seq_length=32)
    expected = np.load(breadth / "data" / "prefixlm_seq32.npz")
    batch = whole_batch(dataset)
    assert np.array_equal(batch.src.values, expected["batch_src"]) and np.array_equal(batch.src.seg,
                                                                                     expected["batch_seg"])
    labels = batch.labels["lm"].values.numpy()
    assert np.array_equal(np.where(labels == IGNORED, 0, labels), expected["batch_tgt"])
    assert len(dataset) == summary["prefixlm_seq32"]["instances"]
    assert (labels != IGNORED).sum() == summary["prefixlm_seq32"]["positions_with_a_target"]
    assert dataset.info.counts["left_out_lines"] == 3  # two prefixes that are too long, one line without a tab


@pytest.fixture
def english(tmp_path, breadth):
    """A vocabulary in which the corpus' words have the ids of the original's English vocabulary.

    Every word of the corpus is one entry of it, so the ids of the batch are those of the words, one after another.
    """
    lines = (breadth / "corpora" / "parallel.tsv").read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t")[0].lower().replace("ï", "i").replace("é", "e") for line in lines if line.count("\t") == 1]
    batch = np.load(breadth / "data" / "mt.npz")["batch_src"]
    known = {101: "[CLS]", 102: "[SEP]", 0: "[PAD]", 100: "[UNK]", 103: "[MASK]"}
    for text, row in zip(texts, batch):
        for word, index in zip(re.findall(r"\w+|[^\w\s]", text), row[1:].tolist()):
            assert known.setdefault(index, word) == word
    path = tmp_path / "english.txt"
    path.write_text("".join(f"{known.get(index, f'[unused{index}]')}\n" for index in range(30522)))
    return build_tokenizer(TokenizerConfig(vocab_path=str(path)))


def test_mt(tmp_path, breadth, summary, tokenizer, english):
    figures = summary["mt"]
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "parallel.tsv", "mt", english,
                           tgt_tokenizer=tokenizer, seq_length=24, members={"tgt_seq_length": 16})
    expected = np.load(breadth / "data" / "mt.npz")
    batch = whole_batch(dataset)
    assert np.array_equal(batch.src.values, expected["batch_src"]) and np.array_equal(batch.src.seg,
                                                                                     expected["batch_seg"])
    assert np.array_equal(batch.tgt.values, expected["batch_tgt_in"])
    assert np.array_equal(batch.tgt.seg, expected["batch_tgt_seg"])
    labels = batch.labels["lm"]
    assert labels.side == "tgt"
    assert np.array_equal(np.where(labels.wanted(), labels.values, 0), expected["batch_tgt_out"])
    wanted = figures["tgt_positions_in_the_original_loss"] - figures["of_these_with_target_pad"]
    assert int(labels.wanted().sum()) == wanted
    assert (len(dataset), len(dataset.tokens)) == (figures["instances"], figures["src_tokens"])
SENTINELS = [f"<extra_id_{number}>" for number in range(100)]


@pytest.fixture(scope="module")
def sentinel_tokenizer(tokenizer):
    """With the 100 sentinels behind the other entries."""
    return BertTokenizer(Vocab([*tokenizer.vocab.tokens, *SENTINELS]))


def padded(ids, offsets, fill: int, width: int = 0) -> torch.Tensor:
    """Rows of `ids`, each filled up: (R, S) int64."""
    rows = [ids[begin:end].astype(np.int64) for begin, end in pairwise(offsets)]
    width = width or max(map(len, rows))
    return torch.from_numpy(np.stack([np.pad(row, (0, width - len(row)), constant_values=fill) for row in rows]))


def test_t5_with_given_masks(breadth, sentinel_tokenizer, monkeypatch):
    """The original's batch, but for [SEP] as an input of the decoder, whose label is padding."""
    expected = np.load(breadth / "data" / "t5_fixed_masks.npz")
    vocab = sentinel_tokenizer.vocab
    processor = PROCESSORS["t5"](48, MlmConfig(), {"src": VocabInfo("", len(vocab), vocab.special_ids)})
    positions = padded(expected["masked_places"], expected["masked_offsets"], 48).flip(1)  # in any order
    monkeypatch.setattr(Masker, "choose", lambda *arguments: (positions, positions))
    rows = Rows({"src": padded(expected["ids"], expected["offsets"], 7, 48)},
                {"src": torch.from_numpy(np.diff(expected["offsets"]).astype(np.int64))}, torch.arange(12),
                torch.arange(12))
    batch = processor.batch(rows)
    assert np.array_equal(batch.src.values, expected["batch_src"])
    assert np.array_equal(batch.src.seg, expected["mended_seg"])
    batch, real = batch.trimmed(), expected["mended_tgt_seg"][:, :14]
    assert np.array_equal(batch.tgt.seg, real)
    assert np.array_equal(batch.tgt.values, expected["batch_tgt_in"][:, :14] * real)
    written = expected["batch_tgt_out"][:, :14].astype(np.int64)
    assert np.array_equal(batch.labels["lm"].values, np.where(real, written, IGNORED))


@pytest.mark.parametrize("span, name", [((0.2, 10), "masking_span"), ((0.3, 5), "masking_span_0.3_5")])
def test_distributions_of_t5(tmp_path, breadth, summary, sentinel_tokenizer, span, name):
    """How much is hidden, and the lengths of the runs, over 20 epochs; golden figures are rounded means of as many."""
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "lines.txt", "t5", sentinel_tokenizer,
                           seq_length=64, dynamic_masking=True)
    asked = MaskingConfig(span_masking=True, span_geo_prob=span[0], span_max_length=span[1])
    runs, hidden = np.zeros(40), 0
    for epoch in range(20):
        labels = whole_batch(dataset, asked, keys=1000 * epoch).labels["lm"].values.numpy()
        first = len(sentinel_tokenizer.vocab) - 100
        for row in labels:
            row = row[row != IGNORED][:-1]
            lengths = np.diff(np.flatnonzero(row >= first)) - 1
            np.add.at(runs, lengths, 1)
            hidden += lengths.sum()
    golden = summary[name]
    assert hidden / (20 * len(dataset.tokens)) == pytest.approx(golden["masked_share"], abs=0.003)
    for length, share in golden["run_lengths"].items():
        error = (share * (1 - share) * 2 / runs.sum()) ** 0.5
        assert abs(runs[int(length)] / runs.sum() - share) < 4 * error + 0.002, length


def test_bart_with_given_masks(breadth, tokenizer):
    expected = np.load(breadth / "data" / "bart_fixed_masks.npz")
    src = padded(expected["src_ids"], expected["src_offsets"], 0, 64)
    places = padded(expected["masked_places"], expected["masked_offsets"], 64)
    masked = torch.cat([src, src[:, :1]], 1).scatter(1, places, tokenizer.vocab.mask_id)[:, :64]
    found = infilled(masked, (src > 0).long(), tokenizer.vocab.mask_id, 0)
    assert np.array_equal(found.values, expected["batch_src"]) and np.array_equal(found.seg, expected["batch_seg"])
    lengths = torch.from_numpy(np.diff(expected["tgt_offsets"]).astype(np.int64))
    tgt, labels = decoder_side(padded(expected["tgt_ids"], expected["tgt_offsets"], 9, 64), lengths, 0)
    real = expected["mended_tgt_seg"]
    assert np.array_equal(tgt.seg, real) and np.array_equal(tgt.values, expected["batch_tgt_in"] * real)
    assert np.array_equal(labels.values, np.where(real, expected["batch_tgt_out"].astype(np.int64), IGNORED))


@pytest.mark.parametrize("seq_length", [64, 128])
def test_instances_of_bart(tmp_path, breadth, tokenizer, seq_length):
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "sentences.txt", "bart", tokenizer,
                           seq_length=seq_length)
    expected = np.load(breadth / "data" / f"bart_seq{seq_length}.npz")
    assert dataset.tokens.tolist() == expected["tgt_ids"].tolist()
    assert dataset.offsets["src"][:].tolist() == expected["tgt_offsets"].tolist()
    assert dataset.info.dynamic_masking and dataset.info.dup_factor == 1


@pytest.mark.parametrize("seq_length", [64, 128])
def test_how_often_bart_shuffles(tmp_path, breadth, summary, tokenizer, seq_length):
    """The share of instances whose sentences are in another order; nothing but whole sentences moves."""
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "sentences.txt", "bart", tokenizer,
                           seq_length=seq_length)
    starts = padded(dataset.columns["sentence_start"][:], dataset.offsets["src"][:], 0, seq_length)
    lengths = torch.from_numpy(np.diff(dataset.offsets["src"][:]))
    counts, shares = starts.sum(1) - 2, []
    for epoch in range(20):
        order = shuffled_sentences(starts, lengths, torch.arange(len(dataset)) + 1000 * epoch)
        assert torch.equal(order.sort(1).values, torch.arange(seq_length).expand_as(order))
        jumps = order[:, 1:] != order[:, :-1] + 1
        assert not (jumps & (starts.gather(1, order)[:, 1:] == 0) & (torch.arange(1, seq_length) < lengths[:, None]
                                                                      )).any()
        shares.append(jumps.any(1).float().mean().item())
    expected = (1 - torch.exp(-torch.lgamma(counts + 1.0))).mean().item()  # 1 - 1 / n!
    assert np.mean(shares) == pytest.approx(expected, abs=0.02)
    original = summary[f"bart_seq{seq_length}"]["shuffled"] / len(dataset)
    assert abs(original - expected) < 4 * (expected * (1 - expected) / len(dataset)) ** 0.5


@pytest.mark.parametrize("seq_length, tgt_seq_length", [(64, 32), (128, 64)])
def test_gsg_lead(tmp_path, breadth, tokenizer, seq_length, tgt_seq_length):
    dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "sentences.txt", "gsg", tokenizer,
                           seq_length=seq_length, members={"tgt_seq_length": tgt_seq_length})
    expected = np.load(breadth / "data" / f"gsg_lead_seq{seq_length}_tgt{tgt_seq_length}.npz")
    for axis in ("src", "tgt"):
        assert dataset.columns[axis].tolist() == expected[f"{axis}_ids"].tolist()
        assert dataset.offsets[axis][:].tolist() == expected[f"{axis}_offsets"].tolist()


@pytest.mark.parametrize("seq_length, tgt_seq_length", [(64, 32), (128, 64)])
def test_distributions_of_gsg_random(tmp_path, breadth, summary, tokenizer, seq_length, tgt_seq_length):
    found = []
    for seed in range(20):
        dataset = make_dataset(tmp_path / "d.pt", breadth / "corpora" / "sentences.txt", "gsg", tokenizer, dup_factor=1,
                               seq_length=seq_length, seed=seed, members={
                                   "tgt_seq_length": tgt_seq_length, "sentence_selection_strategy": "random"})
        src = dataset.columns["src"]
        found.append({"instances": len(dataset), "src_tokens": len(src), "tgt_tokens": len(dataset.columns["tgt"]),
                      "masked_sentences": int((src[:] == tokenizer.vocab.mask_id).sum())})
    for name, original in summary[f"gsg_random_seq{seq_length}_tgt{tgt_seq_length}"].items():
        mean = np.mean([figures[name] for figures in found])
        assert abs(mean - original["mean"]) <= 3.5 * original["sd"] * (2 / 20) ** 0.5, (name, mean, original)
