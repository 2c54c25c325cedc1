"""The export as ONNX: what onnxruntime computes for rows of our task, and what is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import Batch
from uer.finetuning.labels import LabelSet
from uer.finetuning.saved_model import save_finetuned
from uer.finetuning.task import Task, TextToRows
from uer.finetuning.tasks.classification import Classification
from uer.finetuning.tasks.cmrc import ReadingComprehension
from uer.finetuning.tasks.ner import Ner
from uer.tokenizers import BertTokenizer
from uer.tokenizers.vocab import Vocab

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"这本书很好看太差了她住在北京哪里?。"]
CONFIG = ModelConfig(emb_size=48, hidden_size=48, feedforward_size=53, heads_num=3, layers_num=2, max_seq_length=41,
                     embedding=("word", "pos", "seg"))


def save_random(task: Task, path: Path) -> torch.nn.Module:
    torch.manual_seed(6)
    model = task.build(CONFIG, len(TOKENS)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.3)
    save_finetuned(path, model.state_dict(), task, CONFIG, TextToRows(BertTokenizer(Vocab(TOKENS)), 23), {})
    return model


@pytest.mark.parametrize(("task", "outputs"), [
    (Classification(LabelSet(("坏", "好"))), ["logits"]), (Ner(LabelSet(("O", "B-A", "I-A"))), ["logits"]),
    (ReadingComprehension(8, 5), ["start_logits", "end_logits"])])
def test_onnxruntime_gives_our_outputs(run_script: Callable[..., str], tmp_path: Path, task: Task, outputs: list[str]
                                       ) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = save_random(task, tmp_path / "m.bin")
    assert "checked: on " in run_script("export_onnx.py", "--load_model_path", tmp_path / "m.bin",
                                        "--output_dir", tmp_path / "onnx")
    described = json.loads((tmp_path / "onnx" / "model.json").read_text())
    assert described["outputs"] == outputs and described["seq_length"] == 23
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    for rows, length in ((1, 5), (7, 30)):
        src = torch.randint(5, len(TOKENS), (rows, length))
        seg = torch.ones_like(src)
        seg[:, 3:], seg[0, 4:] = 2, 0
        found = session.run(outputs, {"input_ids": src.numpy(), "attention_mask": (seg > 0).long().numpy(),
                                      "token_type_ids": (seg == 2).long().numpy()})
        with torch.no_grad():
            expected = model(Batch(src, seg))
        for ours, theirs in zip(expected.unbind(-1) if len(outputs) > 1 else [expected], found):
            real = (seg > 0).numpy() if theirs.shape[:2] == seg.shape else slice(None)
            assert np.allclose(ours.numpy()[real], theirs[real], atol=1e-4)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(run_script: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=f"the export needs .*{missing}.*: pip install "):
        run_script("export_onnx.py", "--load_model_path", tmp_path, "--output_dir", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_what_cannot_be_exported(tmp_path: Path, run_script: Callable[..., str], monkeypatch: pytest.MonkeyPatch
                                 ) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, sys)
    save_random(Ner(LabelSet(("O", "B-A")), crf=True), tmp_path / "m.bin")
    with pytest.raises(UserError, match="a CrfTagger cannot be exported"):
        run_script("export_onnx.py", "--load_model_path", tmp_path / "m.bin", "--output_dir", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
