"""A small vocabulary and random corpora, so that tests of the data path need no data folder."""

import random
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from uer.config import DatasetConfig
from uer.data.build import build_dataset
from uer.data.summary import Summary
from uer.tokenizers import BertTokenizer, Tokenizer, Vocab

ENTRIES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, *string.digits, *string.punctuation,
           *(f"##{char}" for char in string.ascii_lowercase), *map(chr, range(0x4E00, 0x4F00)),
           *"中国语言模型使用首都北京，。"]
SHARD_BYTES = 3000


@pytest.fixture(scope="session")
def small_vocab_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("".join(f"{entry}\n" for entry in dict.fromkeys(ENTRIES)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_tokenizer(small_vocab_path: Path) -> BertTokenizer:
    return BertTokenizer(Vocab.load(small_vocab_path))


@pytest.fixture(scope="session", autouse=True)
def one_dictionary() -> Iterator[None]:
    """jieba reads its dictionary once, which takes a second; each further segmenter gets a copy of it."""
    try:
        import jieba
    except ImportError:
        yield
        return
    whole, read = jieba.Tokenizer(), jieba.Tokenizer.initialize

    def initialize(self: "jieba.Tokenizer", dictionary: str | None = None) -> None:
        if self is whole or self.initialized or dictionary or self.dictionary:
            return read(self, dictionary)
        whole.check_initialized()
        self.FREQ, self.total, self.initialized = dict(whole.FREQ), whole.total, True
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jieba.Tokenizer, "initialize", initialize)
        yield


def random_text(documents: int, seed: int = 1) -> str:
    chance = random.Random(seed)
    alphabet = [chr(code) for code in range(0x4E00, 0x4F20)] + [" ", "a", "b", "，"]
    return "".join("".join(chance.choices(alphabet, k=chance.choice([0, 3, 40, 200]))) + "\n" for _ in range(documents))


def make(folder: Path, tokenizer: Tokenizer, *corpus: Path, shard_bytes=SHARD_BYTES, name="d.pt", notes=None,
         full_sentences=False, **flags) -> Summary:
    notes = [] if notes is None else notes
    dataset = DatasetConfig(corpus_path=tuple(map(str, corpus)), dataset_path=str(folder / name),
                            members={"full_sentences": full_sentences},
                            **{"data_processor": "mlm", "seq_length": 16, **flags})
    return build_dataset(dataset, {"src": tokenizer}, note=notes.append, shard_bytes=shard_bytes)


@pytest.fixture
def corpus(tmp_path) -> Path:
    (tmp_path / "corpus.txt").write_text(random_text(160), encoding="utf-8")
    return tmp_path / "corpus.txt"
