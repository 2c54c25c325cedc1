"""SentencePiece models: the numbers of their pieces, digits before commas, and what is refused."""

import io
import json
import sys
from typing import Any

import pytest
from sentencepiece import SentencePieceTrainer

from uer.config import TokenizerConfig
from uer.errors import UserError
from uer.tokenizers import Vocab, build_tokenizer, sentence_piece
from uer.tokenizers.sentence_piece import SentencePieceTokenizer


class Numbers:
    """Gives known ids for known texts; the pieces have no meaning."""

    def __init__(self, ids: dict[str, list[int]], size: int):
        self._ids = ids
        self._pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"▁{index}" for index in range(5, size))]

    def get_piece_size(self) -> int:
        return len(self._pieces)

    def id_to_piece(self, ids: list[int]) -> list[str]:
        return [self._pieces[index] for index in ids]

    def unk_id(self) -> int:
        return 1

    def encode(self, text: Any, out_type: type = int, num_threads: int = 1) -> list:
        return [self.encode(line) for line in text] if isinstance(text, list) else self._ids.get(text, [])


def test_golden_numbers_of_both_kinds(golden, monkeypatch, tmp_path):
    figures = json.loads((golden / "breadth" / "tokenizers" / "tokenizers.json").read_text(encoding="utf-8"))
    texts = [text for text in figures["texts"] if "\n" not in text]
    known = {text: figures["spm_bert"][figures["texts"].index(text)] for text in texts}
    monkeypatch.setattr(sentence_piece, "open_model", lambda model, source: Numbers(known, figures["spm_vocab_size"]))
    path = tmp_path / "m.model"
    path.write_bytes(b"model")
    for kind, name in (("bert", "spm_bert"), ("xlmroberta", "spm_xlmroberta")):
        tokenizer = build_tokenizer(TokenizerConfig(kind, spm_model_path=str(path)))
        for text in texts:
            assert tokenizer.encode(text) == figures[name][figures["texts"].index(text)], text
    assert len(tokenizer.vocab) == figures["spm_xlmroberta_vocab_size"]
    specials = figures["spm_xlmroberta_specials"]
    assert {entry: tokenizer.vocab.ids[entry] for entry in specials} == specials


@pytest.fixture
def model(tmp_path) -> str:
    """A small model with BERT's special pieces and a piece that ends in a digit and a comma."""
    content = io.BytesIO()
    SentencePieceTrainer.train(sentence_iterator=iter(["ab ab cd 1 5 a b c d , ."] * 20), model_writer=content,
                               vocab_size=60, hard_vocab_limit=False, minloglevel=2, num_threads=1,
                               user_defined_symbols="[PAD],[UNK],[CLS],[SEP],[MASK],5,")
    (tmp_path / "m.model").write_bytes(content.getvalue())
    return str(tmp_path / "m.model")


def test_bert_with_a_model_needs_no_vocabulary(model):
    tokenizer = build_tokenizer(TokenizerConfig("bert", spm_model_path=model))
    assert tokenizer.decode(tokenizer.encode("ab  cd a")) == "ab cd a"
    assert tokenizer.settings["kind"] == "bert" and len(tokenizer.settings["spm_sha256"]) == 64
    target = build_tokenizer(TokenizerConfig(tgt_spm_model_path=model), "tgt")
    assert target.settings == tokenizer.settings and target.vocab.fingerprint == tokenizer.vocab.fingerprint


def test_a_digit_before_a_comma_is_a_token_of_its_own(monkeypatch):
    pieces = ["<unk>", "<s>", "</s>", "▁", "1", "2,", ",", "▁5,", "12", "▁12", "5"]
    splits = {"2": ["▁", "2"], "5": ["▁", "5"]}

    class Divided(Numbers):
        def __init__(self) -> None:
            self._pieces = pieces

        def piece_to_id(self, piece: str) -> int:
            return pieces.index(piece) if piece in pieces else 0

        def unk_id(self) -> int:
            return 0

        def encode(self, text: Any, out_type: type = int, num_threads: int = 1) -> list:
            if out_type is str:
                return splits[text]
            return [[4, 5, 7, 4]] if isinstance(text, list) else []

    monkeypatch.setattr(sentence_piece, "open_model", lambda model, source: Divided())
    vocab = sentence_piece.Vocab(sentence_piece.XlmRobertaTokenizer.entries(pieces),
                                 defaults=sentence_piece.ROBERTA_SPECIAL_TOKENS)
    tokenizer = sentence_piece.XlmRobertaTokenizer(vocab, b"")
    assert tokenizer.tokenize("12,5,1") == ["1", "<unk>", ",", "▁", "5", ",", "1"]


def test_a_saved_model_that_is_damaged_is_named():
    vocab = Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], source="model.json")
    with pytest.raises(UserError, match=r"model\.json: the SentencePiece model is damaged"):
        SentencePieceTokenizer.from_saved(vocab, {"spm_model": "AAAAA"})


def test_a_model_without_the_roles_is_refused(tmp_path):
    content = io.BytesIO()
    SentencePieceTrainer.train(sentence_iterator=iter(["ab ab cd a b c d"] * 20), model_writer=content, vocab_size=20,
                               hard_vocab_limit=False, minloglevel=2, num_threads=1)
    (tmp_path / "m.model").write_bytes(content.getvalue())
    with pytest.raises(UserError, match=r"m.model: no entry '\[PAD\]' \(pad_token\)"):
        build_tokenizer(TokenizerConfig("bert", spm_model_path=str(tmp_path / "m.model")))


def test_a_file_that_is_no_model_and_a_missing_package_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "m.model").write_bytes(b"something else")
    config = TokenizerConfig("xlmroberta", spm_model_path=str(tmp_path / "m.model"))
    with pytest.raises(UserError, match=r"m.model: not a SentencePiece model"):
        build_tokenizer(config)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match="needs the package sentencepiece"):
        build_tokenizer(config)


@pytest.mark.parametrize("kind", ["bpe", "char", "space"])
def test_a_model_is_not_ignored(kind):
    assert "--spm_model_path is for --tokenizer bert or xlmroberta" in TokenizerConfig(
        kind, spm_model_path="m").problems()[0]
