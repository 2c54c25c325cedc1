"""Word vectors and sentence vectors."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from uer.checkpoint.files import save_weights
from uer.checkpoint.settings import write_settings
from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.labels import LabelSet
from uer.finetuning.saved_model import save_finetuned
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import Classification
from uer.model import build_model
from uer.tokenizers import BertTokenizer, Vocab

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"中国的首都是北京东南", *(f"w{n}" for n in range(13))]
CONFIG = ModelConfig(emb_size=64, hidden_size=64, feedforward_size=37, heads_num=1, layers_num=2, max_seq_length=19,
                     embedding=("word", "pos", "seg"))
Run = Callable[..., str]


@pytest.fixture
def model_files(tmp_path: Path) -> tuple[Path, Path]:
    """A small random checkpoint and its vocabulary."""
    torch.manual_seed(4)
    save_weights(build_model(CONFIG, len(TOKENS)).state_dict(), tmp_path / "m.bin")
    (tmp_path / "v.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    return tmp_path / "m.bin", tmp_path / "v.txt"


def test_word_vectors_as_text_and_as_array(run_script: Run, model_files: tuple[Path, Path], tmp_path: Path) -> None:
    weights = torch.load(model_files[0])["embedding.word.embedding.weight"].numpy()
    for name in ("e.txt", "e.npy"):
        run_script("extract_embeddings.py", "--load_model_path", model_files[0], "--vocab_path", model_files[1],
                   "--word_embedding_path", tmp_path / name)
    assert np.array_equal(np.load(tmp_path / "e.npy"), weights)
    header, *lines = (tmp_path / "e.txt").read_text().split("\n")[:-1]
    assert header == f"{len(TOKENS)} 64" and [line.split(" ")[0] for line in lines] == TOKENS
    assert np.array_equal(np.array([line.split(" ")[1:] for line in lines], np.float32), weights)


def test_vocabulary_of_another_size_is_refused(run_script: Run, model_files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("".join(f"{token}\n" for token in TOKENS[:-1]))
    for name, extra in (("extract_embeddings.py", ["--word_embedding_path", tmp_path / "out.npy"]),
                        ("extract_features.py", ["--prediction_path", tmp_path / "out.npy", "--test_path", __file__])):
        with pytest.raises(UserError, match=r"v.txt has 27 entries, but .*m.bin has 28"):
            run_script(name, "--load_model_path", model_files[0], "--vocab_path", model_files[1], *extra)
    assert not (tmp_path / "out.npy").exists()


def test_another_vocabulary_than_that_of_the_training_is_refused(run_script: Run, model_files: tuple[Path, Path],
                                                                 tmp_path: Path) -> None:
    """A vocabulary of the right size would name each vector, and spell each text, wrongly."""
    write_settings(model_files[0], 5, {**CONFIG.values(), "vocabulary": Vocab(TOKENS).fingerprint})
    flags = {"extract_embeddings.py": ["--load_model_path", model_files[0], "--word_embedding_path",
                                       tmp_path / "e.npy"],
             "convert_bert_from_uer_to_huggingface.py": ["--input_model_path", model_files[0], "--output_dir",
                                                         tmp_path / "hf", "--no_check"]}
    for script, own in flags.items():
        run_script(script, *own, "--vocab_path", model_files[1])
    (tmp_path / "v.txt").write_text("".join(f"{token}\n" for token in TOKENS[:5] + TOKENS[:4:-1]))
    for script, own in flags.items():
        with pytest.raises(UserError, match=r"v\.txt: not the vocabulary that m\.bin was trained with"):
            run_script(script, *own, "--vocab_path", model_files[1])


@pytest.mark.parametrize("pooling", ["first", "last", "mean", "max"])
def test_sentence_vectors_in_the_order_of_the_lines(run_script: Run, model_files: tuple[Path, Path], tmp_path: Path,
                                                    pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["中国的首都是北京", "北", "", "中国的首都是北京中国的首都是北京中国的首都是北京", "东京 w3"]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    run_script("extract_features.py", "--load_model_path", model_files[0], "--vocab_path", model_files[1],
               "--test_path", tmp_path / "t.txt", "--prediction_path", tmp_path / "f.npy", "--pooling", pooling,
               "--batch_size", 2, "--device", "cpu")
    model = build_model(CONFIG, len(TOKENS)).eval()
    model.load_state_dict(torch.load(model_files[0]))
    found = np.load(tmp_path / "f.npy")
    assert found.shape == (5, 64) and found.dtype == np.float32
    for line, vector in zip(lines, found):
        ids = [TOKENS.index(token) for token in (line if " " not in line else ["东", "京", "w3"])]
        src = torch.tensor([[2, *ids[:17], 3]])
        hidden = model.encode(src, torch.ones_like(src))[0]
        expected = {"first": hidden[0], "last": hidden[-1], "mean": hidden.mean(0), "max": hidden.amax(0)}[pooling]
        assert np.allclose(vector, expected.detach().numpy(), atol=1e-5), line


def test_a_fine_tuned_model_has_its_own_settings_and_vocabulary(run_script: Run, tmp_path: Path) -> None:
    config, task = replace(CONFIG, heads_num=4), Classification(LabelSet(("0", "1")))
    torch.manual_seed(4)
    model = task.build(config, len(TOKENS)).eval()
    encoder = TextToRows(BertTokenizer(Vocab(TOKENS[:5] + TOKENS[:4:-1])), 19)
    save_finetuned(tmp_path / "m.bin", model.state_dict(), task, config, encoder, {})
    (tmp_path / "t.txt").write_text("北京\n")
    run_script("extract_features.py", "--load_model_path", tmp_path / "m.bin", "--test_path", tmp_path / "t.txt",
               "--prediction_path", tmp_path / "f.npy")
    src = torch.tensor([[2, *(encoder.tokenizer.vocab.ids[char] for char in "北京"), 3]])
    with torch.no_grad():
        expected = model.encode(src, torch.ones_like(src))[0, 0]
    assert np.allclose(np.load(tmp_path / "f.npy")[0], expected, atol=1e-6)
    run_script("extract_embeddings.py", "--load_model_path", tmp_path / "m.bin", "--word_embedding_path",
               tmp_path / "e.txt")
    words = [line.split(" ")[0] for line in (tmp_path / "e.txt").read_text().split("\n")[1:-1]]
    assert words == encoder.tokenizer.vocab.tokens
    save_finetuned(f"{tmp_path / 'folder'}/", model.state_dict(), task, config, encoder, {})
    run_script("extract_features.py", "--load_model_path", tmp_path / "folder", "--test_path", tmp_path / "t.txt",
               "--prediction_path", tmp_path / "g.npy")
    assert np.array_equal(np.load(tmp_path / "g.npy"), np.load(tmp_path / "f.npy"))


def test_whitened_vectors_have_unit_covariance(run_script: Run, model_files: tuple[Path, Path], tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    text = "\n".join("".join(generator.choice(list("中国的首都是北京东南"), 9)) for _ in range(60)) + "\n"
    (tmp_path / "t.txt").write_text(text)
    run_script("extract_features.py", "--load_model_path", model_files[0], "--vocab_path", model_files[1],
               "--test_path", tmp_path / "t.txt", "--prediction_path", tmp_path / "f.npy", "--whitening_size", 5)
    found = np.load(tmp_path / "f.npy")
    assert found.shape == (60, 5)
    assert np.allclose(found.mean(0), 0, atol=1e-4) and np.allclose(found.T @ found / 60, np.eye(5), atol=1e-3)
    run_script("extract_features.py", "--load_model_path", model_files[0], "--vocab_path", model_files[1],
               "--test_path", tmp_path / "t.txt", "--prediction_path", tmp_path / "f.pt", "--whitening_size", 5)
    assert torch.equal(torch.load(tmp_path / "f.pt", weights_only=True), torch.from_numpy(found))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy", "f.pt", "m.bin", "t.txt", "v.txt"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--test_path", "TMP/none.txt"], r"--test_path .*none.txt: No such file"),
    (["--test_path", "TMP/empty.txt"], "the file is empty"),
    (["--test_path", "TMP/mark.txt"], "the file is empty"),
    (["--test_path", "TMP/v.txt", "--whitening_size", "65"], "the vectors have 64 dimensions"),
    (["--test_path", "TMP/v.txt", "--whitening_size", "64"], "needs more than 64 lines; .*v.txt has"),
    (["--test_path", "TMP/v.txt", "--pooling", "median"], "'median' is unknown; choose from: first, last, mean, max"),
    (["--test_path", "TMP/v.txt", "--pretrained_model_path", "x"], "one of --load_model_path and --pretrained"),
    (["--test_path", "TMP/v.txt", "--config_path", "TMP/c.json"], r"m.bin: \d+ parameters do not fit this model"),
])
def test_bad_settings_are_refused(run_script: Run, model_files: tuple[Path, Path], tmp_path: Path, arguments: list[str],
                                  message: str) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbf")
    (tmp_path / "c.json").write_text('{"emb_size": 64, "hidden_size": 64, "heads_num": 1, "feedforward_size": 37, '
                                     '"layers_num": 3, "max_seq_length": 19, "embedding": ["word", "pos", "seg"]}')
    with pytest.raises(UserError, match=message):
        run_script("extract_features.py", "--load_model_path", model_files[0], "--vocab_path", model_files[1],
                   "--prediction_path", tmp_path / "f.npy",
                   *(argument.replace("TMP", str(tmp_path)) for argument in arguments))
    assert not (tmp_path / "f.npy").exists()
