"""A fine-tuned teacher's answers as a column that a student learns from."""

import pytest
import torch

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.config import ClassifierConfig
from uer.finetuning.labels import LabelSet
from uer.finetuning.saved_model import save_finetuned
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import Classification
from uer.tokenizers import BertTokenizer, Vocab

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"这本书很好看太差了她住在北京"]
CONFIG = ModelConfig(emb_size=24, hidden_size=24, feedforward_size=37, heads_num=3, layers_num=2, max_seq_length=32,
                     embedding=("word", "pos", "seg"))


@pytest.fixture
def teacher(tmp_path):
    """A classifier of 坏 and 好 with random weights, and its answer to a text."""
    torch.manual_seed(5)
    task, encoder = Classification(LabelSet(("坏", "好"))), TextToRows(BertTokenizer(Vocab(TOKENS)), 13)
    model = task.build(CONFIG, len(TOKENS)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.4)
    save_finetuned(tmp_path / "teacher.bin", model.state_dict(), task, CONFIG, encoder, {})

    def answer(text):
        from uer.finetuning.batches import Batch

        src = torch.tensor([[2, *(TOKENS.index(char) for char in text), 3]])
        with torch.no_grad():
            return model(Batch(src, torch.ones_like(src)))[0]

    return tmp_path / "teacher.bin", answer


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_are_kept_and_the_rest_is_the_teachers(run_script, tmp_path, teacher):
    path, answer = teacher
    labelled = write(tmp_path / "a.tsv", "label\ttext_a\n好\t太差了\n坏\t这本书很好看\n")
    unlabelled = write(tmp_path / "b.jsonl", '{"sentence": "她住在北京", "label": "-"}\n'
                                             '{"sentence": "好\\t书", "label": "- "}\n')
    output = tmp_path / "soft.tsv"
    said = run_script("make_teacher_logits.py", "--teacher_model_path", path, "--input_path", labelled, unlabelled,
                      "--output_path", output)
    assert "4 texts written" in said and "2 keep their label, 2 have the teacher's" in said
    header, *rows = [line.split("\t") for line in output.read_text(encoding="utf-8").splitlines()]
    assert header == ["label", "text_a", "logits"]
    assert [row[1] for row in rows] == ["太差了", "这本书很好看", "她住在北京", "好 书"]
    assert [row[0] for row in rows[:2]] == ["好", "坏"]
    for _, text, logits in rows[:3]:
        assert [float(value) for value in logits.split()] == pytest.approx(answer(text).tolist(), abs=1e-4)
    assert rows[2][0] == ("坏", "好")[int(answer("她住在北京").argmax())]

    student = Classification.of_training_file(str(output), ClassifierConfig(soft_targets=True))
    assert student.labels.names == ("坏", "好")
    examples = student.examples(str(output), TextToRows(BertTokenizer(Vocab(TOKENS)), 13))
    assert examples.targets["soft"].shape == (4, 2)


def test_pairs_keep_their_second_text(run_script, tmp_path, teacher):
    pairs = write(tmp_path / "a.tsv", "text_a\ttext_b\tlabel\n好\t书\t好\n太差\t书\t坏\n")
    run_script("make_teacher_logits.py", "--teacher_model_path", teacher[0], "--input_path", pairs,
               "--output_path", tmp_path / "o.tsv")
    lines = (tmp_path / "o.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "label\ttext_a\ttext_b\tlogits" and lines[1].startswith("好\t好\t书\t")


@pytest.mark.parametrize("text,message", [
    ("label\ttext_a\n中\t书\n", "label '中' is not one of the teacher's: 坏, 好"),
    ("label\ttext_a\n好\t书\n", "no text has the label '坏'"),
    ("label\tother\n好\t书\n", "no column 'text_a'")])
def test_what_does_not_fit_is_refused(run_script, tmp_path, teacher, text, message):
    path = write(tmp_path / "a.tsv", text)
    with pytest.raises(UserError, match=message):
        run_script("make_teacher_logits.py", "--teacher_model_path", teacher[0], "--input_path", path,
                   "--output_path", tmp_path / "o.tsv")
    assert not (tmp_path / "o.tsv").exists()


def test_a_teacher_must_be_a_classifier(run_script, tmp_path, teacher):
    (tmp_path / "teacher.json").unlink()
    with pytest.raises(UserError, match=r"--teacher_model_path .*there are no settings beside it"):
        run_script("make_teacher_logits.py", "--teacher_model_path", teacher[0], "--input_path", "x",
                   "--output_path", tmp_path / "o.tsv")
