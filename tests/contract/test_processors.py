"""What every entry of PROCESSORS must do. A new entry needs a corpus and settings in CASES; all tests then run it."""

import os
import random
import signal
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch

from tests.tools.datasets import make_dataset, whole_batch
from uer.config import DatasetConfig, MaskingConfig
from uer.data import build
from uer.data import corpus as corpora
from uer.data.batch import IGNORED
from uer.data.loader import EvaluationLoader, Loader, open_processor
from uer.data.processors import PROCESSORS, pools
from uer.data.schema import axes_of, schema_problem
from uer.data.shards import Shard, build_shard
from uer.targets import TARGETS
from uer.tokenizers.char import CharTokenizer
from uer.tokenizers.vocab import Vocab

CHARACTERS = [chr(0x4E00 + number) for number in range(90)]
SENTINELS = [f"<extra_id_{number}>" for number in range(4)]
SEQ_LENGTH = 13
SHARDS = 6  # of a corpus, or a few more


def lines(documents: int, longest: int = 40) -> str:
    """A document a line, some of them blank."""
    draw = random.Random(3)
    return "".join("".join(draw.choices(CHARACTERS, k=draw.choice((0, 3, 9, draw.randrange(1, longest))))) + "\n"
                   for _ in range(documents))


def sentences(documents: int, longest: int = 15) -> str:
    """A sentence a line, one or two blank lines between documents."""
    draw = random.Random(4)
    paragraphs = []
    for _ in range(documents):
        count = draw.choice((1, 1, 2, 4, 9))
        paragraphs.append("".join("".join(draw.choices(CHARACTERS, k=draw.randrange(1, longest))) + "\n"
                                  for _ in range(count)))
    return "".join(paragraph + "\n" * draw.choice((1, 2)) for paragraph in paragraphs)


def text(draw: random.Random, longest: int) -> str:
    return "".join(draw.choices(CHARACTERS, k=draw.randrange(1, longest)))


def labelled(documents: int, longest: int = 25) -> str:
    """The label 0 and a text, or 1 and two texts; some lines are blank or have another number of fields."""
    draw = random.Random(5)
    rows = ["\t".join((str(label), *(text(draw, longest) for _ in range(label + 1))))
            for label in draw.choices((0, 1), (1, 5), k=documents)]
    return "".join(row + draw.choice(("\n", "\n", "\n\n", "\nno label\n")) for row in rows)


def text_pairs(documents: int, longest: int = 15) -> str:
    """Two texts a line; some lines are blank, have another number of fields, or an empty field."""
    draw = random.Random(6)
    rows = [f"{text(draw, min(longest, 12))}\t{text(draw, longest)}" for _ in range(documents)]
    return "".join(row + draw.choice(("\n", "\n", "\n\n", "\na\tb\tc\n", "\na\t\n")) for row in rows)


# Each processor's name -> its corpus, and the settings of the cases that are run.
CASES: dict[str, tuple] = {
    "mlm": (lines, [{}, {"dup_factor": 3, "members": {"span_masking": True}}, {"members": {"full_sentences": True}}]),
    "lm": (lines, [{}, {"members": {"full_sentences": True}}]),
    "bilm": (lines, [{}]),
    "bert": (sentences, [{"dup_factor": 2}, {"dynamic_masking": True, "members": {"short_seq_prob": 1.0}}]),
    "albert": (sentences, [{"dup_factor": 2}, {"dynamic_masking": True, "members": {"span_masking": True}}]),
    "cls": (labelled, [{}]),
    "cls_mlm": (labelled, [{"dup_factor": 3}, {"dynamic_masking": True, "members": {"span_masking": True}}]),
    "prefixlm": (text_pairs, [{}]),
    "mt": (text_pairs, [{"members": {"tgt_seq_length": 7}}, {"members": {"tgt_seq_length": 11}}]),
    "t5": (lines, [{"dup_factor": 2, "members": {"span_masking": True}}, {"dynamic_masking": True}]),
    "gsg": (sentences, [{"members": {"tgt_seq_length": 9}},
                        {"dup_factor": 3, "members": {"sentence_selection_strategy": "random",
                                                      "tgt_seq_length": 9}}]),
    "bart": (sentences, [{}, {"members": {"span_masking": True}}]),
}
EVERY = [pytest.param(name, settings, id=f"{name} {number}") for name, (_, cases) in CASES.items()
         for number, settings in enumerate(cases)]


@pytest.fixture(scope="module")
def tokenizer():
    return CharTokenizer(Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS[:-5], *SENTINELS]))


def maker(folder, tokenizer):
    """Makes a dataset of a processor's example corpus in a folder."""
    def made(name: str, settings: dict, documents: int = 120, path: str = "d.pt", shards: int = 1, **options):
        corpus = folder / f"{name}-{documents}.txt"
        if not corpus.exists():
            corpus.write_text(CASES[name][0](documents), encoding="utf-8")
        shard_bytes = corpus.stat().st_size // shards if shards > 1 else None
        return make_dataset(folder / path, corpus, name, tokenizer, seq_length=SEQ_LENGTH, shard_bytes=shard_bytes,
                            **settings, **options)
    return made


@pytest.fixture
def make(tmp_path, tokenizer):
    return maker(tmp_path, tokenizer)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tokenizer):
    """`stored(name, settings)` -> the dataset that `make` gives for a case, made once: tests only read it."""
    return each_once(maker(tmp_path_factory.mktemp("stored"), tokenizer))


def each_once(make, **options):
    """Calls `make` once for each name, settings and further options; later calls get the same dataset."""
    known = {}

    def made(name: str, settings: dict, **more):
        key = name, repr(settings), repr(more)
        if key not in known:
            known[key] = make(name, settings, path=f"{len(known)}.pt", **options, **more)
        return known[key]
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer):
    """The same made by one process in `SHARDS`."""
    return each_once(maker(tmp_path_factory.mktemp("whole"), tokenizer), shards=SHARDS)


def test_every_entry_has_a_case():
    assert CASES.keys() == PROCESSORS.keys(), "a new entry of PROCESSORS needs a corpus and settings in CASES"


@pytest.mark.parametrize("name, settings", EVERY)
def test_what_is_declared_is_what_is_stored(stored, name, settings):
    dataset = stored(name, settings)
    processor = open_processor([dataset], MaskingConfig())
    schema, info = processor.schema(), dataset.info
    assert schema_problem(schema) is None and schema == info.schema and processor.lengths() == info.lengths
    assert set(processor.labels) <= set(TARGETS)
    for axis in axes_of(schema):
        lengths = np.diff(dataset.offsets[axis][:])
        assert lengths.min() >= 1 and lengths.max() == info.lengths[axis]
        assert dataset.columns[axis].max() < info.vocabs[schema[axis].vocab].size


@pytest.mark.parametrize("name, settings", EVERY)
def test_the_bytes_do_not_depend_on_the_number_of_processes(make, whole, name, settings):
    dataset = make(name, settings, processes_num=2, shards=SHARDS)
    assert dataset.path.read_bytes() == whole(name, settings).path.read_bytes()


@pytest.mark.parametrize("name, settings", EVERY)
def test_a_killed_run_goes_on_to_the_same_bytes(make, whole, tmp_path, name, settings):
    child = os.fork()
    if not child:  # a process of its own, which kills itself before its fourth shard
        left, work_on = [1, 2, 3], build.build_shard

        def build_some(*arguments):
            if not left:
                os.killpg(0, signal.SIGKILL)
            left.pop()
            return work_on(*arguments)

        os.setpgid(0, 0)
        build.build_shard = build_some
        make(name, settings, path="killed.pt", shards=SHARDS)
        os._exit(3)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (tmp_path / "killed.pt").exists() and list(tmp_path.glob("killed.pt.work-*"))
    killed = make(name, settings, path="killed.pt", shards=SHARDS)
    assert killed.path.read_bytes() == whole(name, settings).path.read_bytes()
    assert not list(tmp_path.glob("killed.pt.work-*"))


@pytest.mark.parametrize("name", CASES)
def test_a_shard_cuts_no_document(make, stored, name):
    """Small shards, of one or two documents, hold the same documents as a large one."""
    few = {"documents": 40}
    whole, cut = (dataset.info.counts for dataset in (stored(name, {}, **few), make(name, {}, **few, shards=20)))
    assert whole["documents"] == cut["documents"] > 20 and whole["lines"] == cut["lines"]
    assert whole["blank_lines"] == cut["blank_lines"]


@pytest.mark.parametrize("name", CASES)
def test_memory_does_not_grow_with_the_corpus(tmp_path, tokenizer, name, monkeypatch):
    """With small blocks and pools, of which a small corpus has many."""
    monkeypatch.setattr(corpora, "READ_BYTES", corpora.READ_BYTES // 8)
    monkeypatch.setattr(pools, "POOL_TOKENS", pools.POOL_TOKENS // 32)
    peaks = []
    for size in (1 << 16, 3 << 17, 3 << 18):  # the first time modules are imported, whose memory counts
        corpus = tmp_path / "corpus.txt"
        text = CASES[name][0](50, longest=250)
        corpus.write_text(text * (size // len(text.encode())), encoding="utf-8")
        config = DatasetConfig(corpus_path=(str(corpus),), dataset_path=str(tmp_path / "d.pt"), data_processor=name,
                               seq_length=256, dup_factor=1)
        settings = build.build_settings(config, {"src": tokenizer, "tgt": tokenizer})
        peaks.append(traced_peak(settings, corpus, tmp_path))
    assert peaks[2] < 1.2 * peaks[1], peaks


def traced_peak(settings, corpus, folder) -> int:
    """The most memory that numpy and Python held while one shard of the whole file was worked on."""
    tracemalloc.start()
    build_shard(Shard(0, 0, str(corpus), 0, corpus.stat().st_size), settings, folder, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("name, settings", EVERY)
def test_a_batch_is_padded_on_the_right_and_labelled_inside(stored, name, settings):
    dataset = stored(name, settings)
    processor = open_processor([dataset], MaskingConfig())
    batch = whole_batch(dataset)
    assert set(batch.labels) == set(processor.labels)
    sides = {"src": batch.src, **({"tgt": batch.tgt} if batch.tgt else {})}
    for axis, side in sides.items():
        assert side.values.shape == side.seg.shape == (len(dataset), processor.batch_lengths()[axis])
        real = side.seg > 0
        assert (real[:, :-1] >= real[:, 1:]).all() and real[:, 0].all()
        assert (side.values[~real] == dataset.info.vocabs["src"].special_ids["pad"]).all()
    for labels in batch.labels.values():
        wanted, real = labels.wanted(), sides[labels.side].seg > 0
        assert labels.values.dtype == torch.int64 and wanted.any()
        inside = real if labels.positions is None else real.gather(1, labels.positions)
        assert inside[wanted].all(), "a label lies on padding"


@pytest.mark.parametrize("name, settings", EVERY)
def test_batches_are_cut_emptied_and_divided_as_a_whole(stored, name, settings):
    """Trimming, filler rows, slices and counts treat every kind of labels as what it is."""
    batch = whole_batch(stored(name, settings)).rows(0, 7)
    trimmed = batch.trimmed()
    sides = {"src": batch.src, **({"tgt": batch.tgt} if batch.tgt else {})}
    longest = {name: int((side.seg > 0).sum(1).max()) for name, side in sides.items()}
    assert trimmed.src.values.shape == (7, longest["src"])
    assert trimmed.tgt is None or trimmed.tgt.values.shape == (7, longest["tgt"])
    for target, labels in trimmed.labels.items():
        before = batch.labels[target]
        assert labels.wanted().sum() == before.wanted().sum() == batch.counts()[target]
        assert labels.values.shape[1] == (before.values.shape[1] if before.positions is not None
                                          else longest[labels.side])
    filling = torch.tensor([False, True, False, False, True, False, True])
    emptied = batch.without(filling)
    for target, labels in emptied.labels.items():
        assert labels.values.shape == batch.labels[target].values.shape
        assert (labels.values[filling] == IGNORED).all()
        assert torch.equal(labels.values[~filling], batch.labels[target].values[~filling])
    parts = [batch.rows(0, 3), batch.rows(3, 7)]
    for target, count in batch.counts().items():
        assert sum(part.counts()[target] for part in parts) == count
    real = sum((side.seg > 0).sum() for side in sides.values())
    assert sum(part.real_tokens() for part in parts) == batch.real_tokens() == batch.row_tokens().sum() == real
    assert batch.token_slots() == sum(side.values.numel() for side in sides.values())


@pytest.mark.parametrize("name, settings", EVERY)
def test_what_a_sample_is_depends_on_nothing_but_its_number(stored, name, settings):
    """One rank, two ranks, micro-batches, a later start: the same rows with the same labels."""
    dataset = stored(name, settings)

    def rows(**options):
        loader = Loader([dataset], open_processor([dataset], MaskingConfig()), **options)
        found = {}
        for step in (5, 2):
            for batch in loader.step(step):
                tensors = (batch.src.values, batch.src.seg, *(part.values for part in batch.labels.values()),
                           *((batch.tgt.values, batch.tgt.seg) if batch.tgt else ()))
                for row, sample in enumerate(batch.samples.tolist()):
                    found[sample] = [tensor[row].tolist() for tensor in tensors]
        return found

    alone = rows(batch_size=12)
    ranks = {**rows(batch_size=3, rank=0, world_size=2, accumulation_steps=2),
             **rows(batch_size=3, rank=1, world_size=2, accumulation_steps=2)}
    assert alone == ranks and len(alone) == 24


@pytest.mark.parametrize("name, settings", EVERY)
def test_an_epoch_holds_every_instance_and_draws_anew(stored, name, settings):
    dataset = stored(name, settings)
    loader = Loader([dataset], open_processor([dataset], MaskingConfig()), batch_size=10)
    versions = 1 if dataset.info.dynamic_masking else dataset.info.dup_factor
    assert loader.samples_per_epoch == versions * len(dataset)
    evaluated = EvaluationLoader([dataset], open_processor([dataset], MaskingConfig()), batch_size=10)
    total = dict.fromkeys(open_processor([dataset], MaskingConfig()).labels, 0.0)
    for batch in evaluated:
        for target, count in batch.counts().items():
            total[target] += count.item()
    whole = whole_batch(dataset).counts()
    for target, count in total.items():
        assert count == pytest.approx(whole[target].item(), rel=0.02), target


def texts(name: str, batch) -> Counter:
    """How often each text occurs: a row's tokens in any order, those that are masked put back.

    A decoder writes the whole text (bart), or what the source lacks (t5, gsg).
    """
    src = batch.src.values.clone()
    if batch.tgt is not None:
        special = torch.tensor([number for number in range(5 + len(CHARACTERS)) if not 5 <= number < len(CHARACTERS)])
        written = batch.labels["lm"].values
        sequences = [written] if name == "bart" else [src, written]
        return Counter(tuple(sorted(torch.cat([each[row][~torch.isin(each[row], special) & (each[row] >= 0)]
                                               for each in sequences]).tolist())) for row in range(len(src)))
    if "mlm" in batch.labels:
        labels = batch.labels["mlm"]
        for row, positions in enumerate(labels.wanted()):
            src[row, labels.positions[row][positions]] = labels.values[row][positions]
    return Counter(tuple(sorted(row[seg > 0].tolist())) for row, seg in zip(src, batch.src.seg))


@pytest.mark.parametrize("name", CASES)
def test_an_epoch_of_two_datasets_holds_the_texts_of_both(stored, name):
    datasets = [stored(name, {}, documents=count) for count in (120, 80)]
    versions = datasets[0].info.dup_factor
    samples = versions * sum(map(len, datasets))
    loader = Loader(datasets, open_processor(datasets, MaskingConfig()), batch_size=samples)
    expected = texts(name, whole_batch(datasets[0])) + texts(name, whole_batch(datasets[1]))
    assert texts(name, loader.step(0)[0]) == Counter({text: versions * count for text, count in expected.items()})


@pytest.mark.parametrize("name", CASES)
def test_weights_mix_the_rows_of_two_datasets(stored, name):
    """Of 4 rows 3 are the first dataset's, which is the smaller one, so that its rows come again."""
    datasets = [stored(name, {}, documents=count) for count in (20, 120)]
    processor = open_processor(datasets, MaskingConfig())
    mixed = Loader(datasets, processor, batch_size=600, weights=[3, 1]).step(0)[0]
    found = texts(name, mixed)
    first, second = (texts(name, whole_batch(dataset)) for dataset in datasets)
    assert found.keys() <= first.keys() | second.keys() and found.total() == 600
    shared = sum(second[text] for text in first) / second.total()  # rows of the second dataset that are in both
    assert sum(found[text] for text in first) == pytest.approx(450 + 150 * shared, abs=45)


@pytest.mark.parametrize("name", CASES)
def test_packed_batches_get_a_size_that_holds_them(stored, name):
    dataset = stored(name, {})
    plain, packed = (Loader([dataset], open_processor([dataset], MaskingConfig()), batch_size=10, pack=pack)
                     for pack in (False, True))
    taken = []
    for step in range(12):
        (one,), (two,) = plain.step(step), packed.step(step)
        assert torch.equal(one.src.values, two.src.values) and one.packing is None
        if two.packing is not None:
            assert (two.src.seg > 0).sum() < two.packing.tokens
            assert two.tgt is None or (two.tgt.seg > 0).sum() < two.packing.tgt_tokens
        taken.append(two.packing)
    assert any(taken) == bool(packed.sizes)
