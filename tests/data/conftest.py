"""A small vocabulary, so that tests of the data path need no data folder."""

import string
from pathlib import Path

import pytest

from uer.tokenizers import BertTokenizer, Vocab

ENTRIES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, *string.digits, *string.punctuation,
           *(f"##{char}" for char in string.ascii_lowercase), *map(chr, range(0x4E00, 0x4F00)),
           *"中国语言模型使用首都北京，。"]


@pytest.fixture(scope="session")
def small_vocab_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("".join(f"{entry}\n" for entry in dict.fromkeys(ENTRIES)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_tokenizer(small_vocab_path: Path) -> BertTokenizer:
    return BertTokenizer(Vocab.load(small_vocab_path))
