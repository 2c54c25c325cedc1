"""Batches: the same samples and masks for any number of ranks, micro-batches and restarts; coverage; mixtures."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from uer.config import MaskingConfig
from uer.data import loader as loader_module
from uer.data import row_fetcher
from uer.data.batch import IGNORED
from uer.data.loader import EvaluationLoader, Loader, open_processor
from uer.data.masking import budget
from uer.data.processors.mlm import MlmConfig
from uer.data.row_fetcher import RowFetcher, open_fetchers, widened
from uer.data.schema import Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, open_dataset, save_dataset
from uer.errors import UserError

SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
SEQ_LENGTH, VOCAB_SIZE = 13, 5000


def write(path, instances=50, first_id=100, word_start=True, seed=0, vocab_size=VOCAB_SIZE, **changes):
    """Rows of unlike lengths; the second token of instance i, where there is one, is first_id + i."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, SEQ_LENGTH + 1, instances)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = generator.integers(5, 100, offsets[-1])
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = SPECIAL_IDS["cls"], SPECIAL_IDS["sep"]
    tokens[offsets[:-1] + 1] = first_id + np.arange(instances)
    schema, columns = {"src": Column()}, {"src": tokens}
    if word_start:
        schema["word_start"], columns["word_start"] = Column(dtype="uint8"), generator.random(len(tokens)) < 0.6
    info = DatasetInfo(FORMAT_VERSION, "mlm", SEQ_LENGTH, schema, {"src": SEQ_LENGTH},
                       {"src": VocabInfo("abc", vocab_size, SPECIAL_IDS)}, dataclasses.asdict(MlmConfig()),
                       dynamic_masking=True)
    save_dataset(path, dataclasses.replace(info, **changes), columns, {"src": offsets})
    return open_dataset(path)


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "dataset.pt")


def build(datasets, batch_size=4, masking=MaskingConfig(), kind=Loader, **settings):  # noqa: B008 (frozen)
    datasets = datasets if isinstance(datasets, list) else [datasets]
    return kind(datasets, open_processor(datasets, masking), batch_size=batch_size, **settings)


def unmasked(batch):
    """The tokens as they are stored, (B, S)."""
    tokens = batch.src.values.clone()
    for row, positions, labels in zip(tokens, batch.labels["mlm"].positions, batch.labels["mlm"].values):
        row[positions[labels != IGNORED]] = labels[labels != IGNORED]
    return tokens


def real_tokens(batch):
    """The tokens of each row that are no padding."""
    return (batch.src.seg > 0).sum(1).tolist()


def counted(batch):
    """Whether each row has a label; rows that only fill a batch have none."""
    return (batch.labels["mlm"].values != IGNORED).any(1).tolist()


def instances(batches, first_id=100):
    return [int(tokens[1]) - first_id for batch in batches for tokens in unmasked(batch)]


def joined(batches):
    """Everything about the rows of several batches, in the order of their samples."""
    parts = [(b.samples, b.src.values, b.src.seg, b.labels["mlm"].values, b.labels["mlm"].positions) for b in batches]
    columns = [torch.cat(column) for column in zip(*parts)]
    return [column[columns[0].argsort()] for column in columns]


def assert_same(one, other):
    for left, right in zip(joined(one), joined(other)):
        assert torch.equal(left, right)


def test_a_batch_is_what_the_contract_says(dataset):
    (batch,) = build(dataset).step(3)
    assert batch.samples.tolist() == [12, 13, 14, 15]
    assert batch.src.values.shape == batch.src.seg.shape == (4, SEQ_LENGTH) and batch.tgt is None
    assert batch.src.values.dtype == batch.src.seg.dtype == torch.int64
    assert list(batch.labels) == ["mlm"] and batch.labels["mlm"].side == "src"
    assert batch.labels["mlm"].values.shape == batch.labels["mlm"].positions.shape == (4, budget(SEQ_LENGTH))
    stored = [dataset[instance] for instance in instances([batch])]
    assert real_tokens(batch) == [len(tokens) for tokens in stored]
    assert (batch.real_tokens(), batch.token_slots()) == (sum(map(len, stored)), 4 * SEQ_LENGTH)
    assert batch.counts()["mlm"] == sum(budget(len(tokens)) for tokens in stored)
    for tokens, row, seg in zip(stored, unmasked(batch), batch.src.seg):
        padding = SEQ_LENGTH - len(tokens)
        assert row.tolist() == [*tokens.tolist(), *[0] * padding]
        assert seg.tolist() == [1] * len(tokens) + [0] * padding
    assert_same([batch.to("cpu")], [batch])


@pytest.mark.parametrize("word", [False, True])
@pytest.mark.parametrize("split", [{"world_size": 2}, {"accumulation_steps": 2}, {"world_size": 2, "batch_size": 1,
                                                                                   "accumulation_steps": 4}])
def test_ranks_and_micro_batches_change_nothing(dataset, split, word, monkeypatch):
    monkeypatch.setattr(loader_module, "POSITIONS_AT_ONCE", 400)
    masking = MaskingConfig(whole_word_masking=word)
    whole = build(dataset, batch_size=8, masking=masking)
    split = {"batch_size": 4, **split}
    ranks = [build(dataset, masking=masking, rank=rank, **split) for rank in range(split.get("world_size", 1))]
    for step in (0, 1, 5, 6, 100):
        parts = [rank.step(step) for rank in ranks]
        assert all(len(part) == split.get("accumulation_steps", 1) for part in parts)
        assert_same(whole.step(step), [batch for part in parts for batch in part])
        # Micro-batch m of all ranks comes before micro-batch m + 1 of any.
        samples = torch.cat([part[m].samples for m in range(len(parts[0])) for part in parts])
        assert torch.equal(samples, torch.arange(8 * step, 8 * step + 8))


def test_every_epoch_covers_every_instance_once(dataset):
    loader = build(dataset, batch_size=5)
    batches = [loader.step(step)[0] for step in range(30)]
    orders = [instances(batches[10 * epoch:10 * epoch + 10]) for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    other_seed = build(dataset, batch_size=50, seed=8)
    assert instances(other_seed.step(0)) != orders[0]


def test_an_epoch_may_end_within_a_batch(dataset):
    loader = build(dataset, batch_size=7)
    seen = instances([loader.step(step)[0] for step in range(15)])
    assert sorted(seen[:50]) == sorted(seen[50:100]) == list(range(50))


def test_resuming_anywhere_equals_running_through(dataset, monkeypatch):
    monkeypatch.setattr(loader_module, "POSITIONS_AT_ONCE", 4 * SEQ_LENGTH * 3)
    through = build(dataset)
    batches = {step: through.step(step) for step in range(20)}
    for step in (19, 0, 7, 8, 3):
        assert_same(build(dataset).step(step), batches[step])
        assert_same(through.step(step), batches[step])
    monkeypatch.setattr(loader_module, "POSITIONS_AT_ONCE", 1)
    assert_same(build(dataset).step(11), batches[11])
    assert build(dataset).step(10_000_000)[0].samples[0] == 40_000_000


def masks_by_instance(loader, steps):
    found = {}
    for step in range(steps):
        for batch in loader.step(step):
            for instance, src in zip(instances([batch]), batch.src.values.tolist()):
                found.setdefault(instance, []).append(tuple(src))
    return found


def test_dynamic_masks_differ_from_epoch_to_epoch(tmp_path):
    dataset = write(tmp_path / "dynamic.pt", seed=5)
    found = masks_by_instance(build(dataset, batch_size=50), 4)
    assert all(len(masks) == 4 for masks in found.values())
    assert sum(len(set(masks)) > 1 for masks in found.values()) > 40
    other = masks_by_instance(build(dataset, batch_size=50, seed=8), 4)
    assert sum(other[instance] != found[instance] for instance in found) > 40


def test_static_masks_are_dup_factor_versions_in_every_epoch(tmp_path):
    dataset = write(tmp_path / "static.pt", dynamic_masking=False, dup_factor=3)
    loader = build(dataset, batch_size=50)
    assert loader.samples_per_epoch == 150
    assert loader.tokens_per_epoch == 3 * len(dataset.tokens)
    first = masks_by_instance(loader, 3)
    assert all(len(masks) == 3 for masks in first.values())
    assert sum(len(set(masks)) > 1 for masks in first.values()) > 40
    through = masks_by_instance(loader, 9)
    elsewhere = masks_by_instance(build(dataset, batch_size=25, seed=99), 6)
    for instance, masks in first.items():
        assert set(masks) == set(through[instance]) == set(elsewhere[instance])
    remade = write(tmp_path / "other_seed.pt", dynamic_masking=False, dup_factor=3, seed=0)
    remade = dataclasses.replace(remade, info=dataclasses.replace(remade.info, seed=8))
    other = masks_by_instance(build(remade, batch_size=50), 3)
    assert sum(set(other[instance]) != set(first[instance]) for instance in first) > 40


def test_static_masks_are_made_as_the_dataset_says(tmp_path):
    words = dataclasses.asdict(MlmConfig(whole_word_masking=True))
    dataset = write(tmp_path / "static.pt", dynamic_masking=False, dup_factor=2, processor_settings=words)
    asked_for_spans = build(dataset, masking=MaskingConfig(span_masking=True))
    assert_same(asked_for_spans.step(0), build(dataset).step(0))
    plain = write(tmp_path / "plain.pt", dynamic_masking=False, dup_factor=2)
    assert not torch.equal(asked_for_spans.step(0)[0].src.values, build(plain).step(0)[0].src.values)
    with pytest.raises(UserError, match="made otherwise"):
        build([dataset, plain])


def test_weights_mix_datasets_in_closed_form(tmp_path):
    datasets = [write(tmp_path / "a.pt", 50), write(tmp_path / "b.pt", 30, first_id=1000, seed=1),
                write(tmp_path / "c.pt", 20, first_id=2000, seed=2)]
    loader = build(datasets, batch_size=100, weights=(0.7, 0.25, 0.05))
    steps = [instances(loader.step(step), first_id=0) for step in range(110)]
    drawn = np.array(steps).reshape(-1)[:10_000]
    counts = [((drawn >= low) & (drawn < low + 900)).sum() for low in (100, 1000, 2000)]
    assert counts == [7000, 2500, 500]  # a round of slots holds each share exactly
    for low, size in ((100, 50), (1000, 30), (2000, 20)):
        each = np.bincount(drawn[(drawn >= low) & (drawn < low + 900)] - low, minlength=size)
        assert len(each) == size and each.max() - each.min() <= 1
    shares = [np.mean([(100 <= i < 1000) for i in step]) for step in steps]
    assert min(shares) > 0.5 and max(shares) < 0.9
    halves = [build(datasets, batch_size=50, weights=(0.7, 0.25, 0.05), rank=r, world_size=2) for r in (0, 1)]
    assert_same(loader.step(105), [batch for half in halves for batch in half.step(105)])


def test_without_weights_an_epoch_is_every_sample_of_every_dataset(tmp_path):
    datasets = [write(tmp_path / "a.pt", 50), write(tmp_path / "b.pt", 30, first_id=1000, seed=1)]
    loader = build(datasets, batch_size=8)
    assert loader.samples_per_epoch == 80
    for epoch in (0, 1):
        seen = instances([loader.step(step)[0] for step in range(10 * epoch, 10 * epoch + 10)], first_id=0)
        assert sorted(seen) == [*range(100, 150), *range(1000, 1030)]
        assert 1 <= sum(i >= 1000 for i in seen[:16]) <= 15


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5])
@pytest.mark.parametrize("static", [False, True])
def test_held_out_instances_are_evaluated_and_never_trained_on(tmp_path, fraction, static):
    dataset = write(tmp_path / "a.pt", 50, **({"dynamic_masking": False, "dup_factor": 2} if static else {}))
    held_out = max(1, round(50 * fraction))
    training = build(dataset, batch_size=10, dev_fraction=fraction)
    assert training.samples_per_epoch == (50 - held_out) * (2 if static else 1)
    trained = instances([training.step(step)[0] for step in range(20)])
    ranks = [build(dataset, kind=EvaluationLoader, rank=rank, world_size=3, dev_fraction=fraction) for rank in range(3)]
    assert len({len(rank) for rank in ranks}) == 1
    batches = [batch for rank in ranks for batch in rank]
    evaluated = [instance for batch in batches for instance, real in zip(instances([batch]), counted(batch)) if real]
    assert len(evaluated) == held_out == ranks[0].instances
    assert sorted([*set(trained), *evaluated]) == list(range(50))
    other_seed = build(dataset, batch_size=10, dev_fraction=fraction, seed=8)
    assert set(instances(other_seed.step(0))) <= set(trained)


def test_evaluation_covers_whole_datasets_with_masks_that_stay(tmp_path):
    datasets = [write(tmp_path / "a.pt", 50), write(tmp_path / "b.pt", 31, first_id=1000, seed=1)]
    one = list(build(datasets, kind=EvaluationLoader, batch_size=7))
    assert_same(one, list(build(datasets, kind=EvaluationLoader, batch_size=7)))
    ranks = [list(build(datasets, kind=EvaluationLoader, rank=rank, world_size=2, batch_size=5, trim=True))
             for rank in (0, 1)]
    rows = {}
    for batch in [*one, *(batch for rank in ranks for batch in rank)]:
        for place, real in enumerate(real_tokens(batch)):
            labels = batch.labels["mlm"].values[place]
            assert real  # a row of nothing but padding has no attention to compute
            if not counted(batch)[place]:
                continue
            key = int(unmasked(batch)[place, 1])
            row = (batch.src.values[place, :real].tolist(), labels.tolist(),
                   batch.labels["mlm"].positions[place].tolist())
            assert rows.setdefault(key, [row]) == [row] or rows[key].append(row)
    assert sorted(rows) == [*range(100, 150), *range(1000, 1031)]


def test_trimmed_batches_hold_the_same(dataset):
    whole, trimmed = build(dataset), build(dataset, trim=True)
    widths = set()
    for step in range(12):
        (one,), (other,) = whole.step(step), trimmed.step(step)
        width = max(real_tokens(one))
        widths.add(width)
        assert other.src.values.shape == (4, width)
        assert torch.equal(one.src.values[:, :width], other.src.values)
        assert torch.equal(one.src.seg[:, :width], other.src.seg)
        assert torch.equal(one.labels["mlm"].values, other.labels["mlm"].values)
    assert len(widths) > 1


def test_rows_at_the_end_of_the_file_and_high_ids(tmp_path):
    tokens = np.array([2, 65535, 3, 2, 32768, 40000, 3, 2, 3])
    info = write(tmp_path / "info.pt", word_start=False, vocab_size=65536).info
    for width in (4, 8, 9, 64):
        save_dataset(tmp_path / "a.pt", dataclasses.replace(info, lengths={"src": width}), {"src": tokens},
                     {"src": np.array([0, 3, 7, 9])})
        fetcher = RowFetcher(open_dataset(tmp_path / "a.pt"), ["src"], torch.device("cpu"))
        columns, lengths = fetcher.fetch(torch.tensor([2, 0, 1]))
        assert lengths["src"].tolist() == [2, 3, 4]
        rows = widened(columns["src"])
        assert rows.shape == (3, width)
        assert [row[:length].tolist() for row, length in zip(rows, lengths["src"])] == [
            [2, 3], [2, 65535, 3], [2, 32768, 40000, 3]]


def test_a_vocabulary_of_more_than_65536_entries(tmp_path):
    dataset = write(tmp_path / "a.pt", 50, first_id=3_000_000, vocab_size=4_000_000)
    assert dataset.tokens.dtype == np.uint32
    assert sorted(instances(build(dataset, batch_size=50).step(0), first_id=3_000_000)) == list(range(50))


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("column, value, message", [
    ("src", VOCAB_SIZE, "token id 5000 in a vocabulary of 5000 entries"),
    ("src", 65535, "token id 65535 in a vocabulary"),
    ("src.starts", 65535, "an instance begins or ends where none can"),
    ("src.starts", 0, "an instance begins or ends where none can")])
def test_damage_inside_the_file_is_noticed(dataset, column, value, message, mapped):
    raw = bytearray(dataset.path.read_bytes())
    header_bytes = int.from_bytes(raw[:8], "little")
    place = 8 + header_bytes + json.loads(raw[8:8 + header_bytes])[column]["data_offsets"][0] + 2 * 7
    raw[place:place + 2] = value.to_bytes(2, "little")
    dataset.path.write_bytes(raw)
    with pytest.raises(UserError, match=rf"dataset\.pt: the dataset is damaged: {message}"):
        RowFetcher(open_dataset(dataset.path), ["src"], torch.device("cpu"), mapped).fetch(torch.arange(50))


def test_what_cannot_be_used_is_refused(tmp_path):
    dataset = write(tmp_path / "a.pt", word_start=False)
    with pytest.raises(UserError, match=r"a\.pt: --whole_word_masking needs"):
        build(dataset, masking=MaskingConfig(whole_word_masking=True))
    with pytest.raises(UserError, match=r"b\.pt: its seq_length \(16\) differs from that of .*a\.pt \(13\)"):
        build([dataset, write(tmp_path / "b.pt", seq_length=16)])
    with pytest.raises(UserError, match="no instances"):
        build(write(tmp_path / "empty.pt", 0))
    for kind in (Loader, EvaluationLoader):
        with pytest.raises(UserError, match=r"--dev_fraction 0\.999 leaves none"):
            build(dataset, kind=kind, dev_fraction=0.999)


def test_loaders_share_one_copy_of_the_datasets(tmp_path, monkeypatch):
    datasets = [write(tmp_path / "a.pt", 50), write(tmp_path / "b.pt", 31, first_id=1000, seed=1)]
    copies = []
    copied = row_fetcher._copied
    monkeypatch.setattr(row_fetcher, "_copied", lambda *arguments: copies.append(1) or copied(*arguments))
    masking = MaskingConfig(whole_word_masking=True)
    fetchers = open_fetchers(datasets, ["src", "word_start"], "cpu", mapped=False)
    shared, alone = ([build(datasets, masking=masking, kind=kind, dev_fraction=0.1, **settings)
                      for kind in (Loader, EvaluationLoader)] for settings in ({"fetchers": fetchers}, {}))
    assert len(copies) == 4  # two columns of two files
    assert_same(shared[0].step(3), alone[0].step(3))
    assert_same(list(shared[1]), list(alone[1]))


@pytest.mark.gpu
@pytest.mark.parametrize("dataset_device", ["cpu", "cuda"])
@pytest.mark.parametrize("masking", [MaskingConfig(), MaskingConfig(span_masking=True),
                                     MaskingConfig(whole_word_masking=True)])
def test_same_bits_on_cuda(tmp_path, dataset_device, masking):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    datasets = [write(tmp_path / "a.pt", 50), write(tmp_path / "b.pt", 30, first_id=1000, seed=1)]
    settings = {"masking": masking, "weights": (0.6, 0.4), "dev_fraction": 0.1}
    host = build(datasets, **settings)
    device = build(datasets, device="cuda", dataset_device=dataset_device, **settings)
    for step in (0, 7, 10_000_000):
        assert_same(host.step(step), [batch.to("cpu") for batch in device.step(step)])


# The worked example of the docstring in uer/data/loader.py.

def test_the_example_of_samples(tmp_path):
    loader = build([write(tmp_path / "a.pt")], batch_size=2, accumulation_steps=2, world_size=2, rank=1)
    assert [batch.samples.tolist() for batch in loader.step(0)] == [[2, 3], [6, 7]]
    assert [batch.samples.tolist() for batch in loader.step(1)] == [[10, 11], [14, 15]]
