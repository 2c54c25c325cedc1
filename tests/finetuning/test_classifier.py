"""The whole of a classifier's life on a task small enough to learn in a second."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from uer.checkpoint.files import load_weights, save_weights
from uer.errors import UserError
from uer.finetuning import command
from uer.finetuning.command import finetune, parse_command
from uer.finetuning.infer import infer
from uer.finetuning.tasks.classification import Classification, balanced_weights, report_lines
from uer.model import build_model


def train(tiny, **changes) -> dict:
    """Fine-tune; returns the saved settings."""
    finetune("test", Classification, tiny.flags(**changes))
    return json.loads(Path(tiny.path("out/model.json")).read_text(encoding="utf-8"))


def predictions(tiny, **changes) -> list[list[str]]:
    flags = {"load_model_path": tiny.path("out/model.bin"), "test_path": tiny.path("dev.tsv"),
             "prediction_path": tiny.path("predictions.tsv"), "device": "cpu", **changes}
    infer("test", Classification, [word for name, value in flags.items() if value is not None
                                   for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])])
    return [line.split("\t") for line in Path(tiny.path("predictions.tsv")).read_text("utf-8").splitlines()]


def weights_equal(left: str, right: str) -> bool:
    one, other = load_weights(left), load_weights(right)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns_and_inference_agrees_with_the_evaluation(tiny):
    settings = train(tiny, train_path=tiny.path("many.tsv"), epochs_num=8, learning_rate=0.003, seed=8,
                     test_path=tiny.path("test.tsv"))
    dev = settings["training"]["dev"]
    assert dev["accuracy"] >= 0.9
    rows = predictions(tiny, output_logits=True, output_prob=True)
    assert rows[0] == ["label", "logits", "prob"]
    gold = [line.split("\t")[0] for line in Path(tiny.path("dev.tsv")).read_text("utf-8").splitlines()[1:]]
    assert sum(row[0] == label for row, label in zip(rows[1:], gold)) == dev["correct"]
    for label, logits, prob in rows[1:]:
        values, probs = np.array(logits.split(), float), np.array(prob.split(), float)
        assert label == str(values.argmax())
        np.testing.assert_allclose(probs, np.exp(values) / np.exp(values).sum(), rtol=1e-5)


def test_the_same_seed_gives_the_same_weights_twice(tiny):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        finetune("test", Classification, tiny.flags(output_model_path=tiny.path(f"{name}.bin"), seed=seed, dropout=0.1,
                                                    epochs_num=1))
    assert weights_equal(tiny.path("a.bin"), tiny.path("b.bin"))
    assert not weights_equal(tiny.path("a.bin"), tiny.path("c.bin"))


def test_cudnn_attention_is_refused_where_it_would_round_the_dropout(tiny):
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        for dropout, cudnn in ((0.125, True), (0.1, False)):
            torch.backends.cuda.enable_cudnn_sdp(True)
            train(tiny, epochs_num=1, dropout=dropout)
            assert torch.backends.cuda.cudnn_sdp_enabled() is cudnn
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_two_ranks_equal_one_to_rounding(tiny):
    one = train(tiny, epochs_num=1)
    first = load_weights(tiny.path("out/model.bin"))
    two = train(tiny, epochs_num=1, world_size=2, gpu_ranks=(0, 1), master_ip="tcp://localhost:29731")
    assert two["training"]["dev"] == pytest.approx(one["training"]["dev"])
    for name, value in load_weights(tiny.path("out/model.bin")).items():
        torch.testing.assert_close(value, first[name], rtol=1e-3, atol=2e-4)


def test_pairs_string_labels_and_a_folder(tiny):
    lines = [{"sentence1": "甲" if number % 2 else "乙", "sentence2": "丙丁", "label": ("yes", "no", "-")[number % 3]}
             for number in range(24)]
    for name in ("train.json", "dev.json"):
        tiny.write(name, "\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    finetune("test", Classification, tiny.flags(train_path=tiny.path("train.json"), dev_path=tiny.path("dev.json"),
                                                output_model_path=tiny.path("folder") + "/", epochs_num=1))
    settings = json.loads(Path(tiny.path("folder/model.json")).read_text("utf-8"))
    assert settings["labels"] == ["no", "yes"]
    assert settings["training"]["dev"]["total"] == 16
    rows = predictions(tiny, load_model_path=tiny.path("folder"), test_path=tiny.path("dev.json"))
    assert len(rows) == 25
    assert {row[0] for row in rows[1:]} <= {"yes", "no"}


def test_pretrained_weights_are_used_and_the_rest_is_named(tiny, capsys):
    config = parse_command("test", Classification, tiny.flags()).model
    torch.manual_seed(3)
    pretrained = build_model(config, 27)
    save_weights(pretrained.state_dict(), tiny.path("pretrained.bin"))
    finetune("test", Classification, tiny.flags(pretrained_model_path=tiny.path("pretrained.bin"), log_level="INFO",
                                                learning_rate=1e-9, epochs_num=1))
    out = capsys.readouterr().out
    assert re.search(r"\d+ parameters are not used: target.mlm", out)
    assert "new parameters, random at the start: output_layer_1.weight" in out
    tuned = load_weights(tiny.path("out/model.bin"))
    torch.testing.assert_close(tuned["embedding.word.embedding.weight"],
                               pretrained.state_dict()["embedding.word.embedding.weight"], rtol=0, atol=1e-5)


def test_pretrained_model_of_another_size_or_incomplete_is_refused(tiny):
    config = parse_command("test", Classification, tiny.flags()).model
    state = build_model(config, 30).state_dict()
    save_weights(state, tiny.path("other.bin"))
    with pytest.raises(UserError, match=r"other.bin has 30 vocabulary entries, but --vocab_path has 27"):
        finetune("test", Classification, tiny.flags(pretrained_model_path=tiny.path("other.bin")))
    state = build_model(config, 27).state_dict()
    save_weights({name: value for name, value in state.items() if ".0.layer_norm_1" not in name}, tiny.path("part.bin"))
    with pytest.raises(UserError, match=r"part.bin: 2 parameters of the embedding and encoder are missing"):
        finetune("test", Classification, tiny.flags(pretrained_model_path=tiny.path("part.bin")))
    deeper = {**state, "encoder.layer_norm.gamma": torch.ones(16)}
    save_weights(deeper, tiny.path("deep.bin"))
    with pytest.raises(UserError, match=r"deep.bin: this model has no parameters for 1 of the file's"):
        finetune("test", Classification, tiny.flags(pretrained_model_path=tiny.path("deep.bin")))


def test_columns_name_those_of_files_without_a_header(tiny):
    rows = {name: Path(tiny.path(name)).read_text("utf-8").partition("\n")[2] for name in ("train.tsv", "dev.tsv")}
    expected = train(tiny, epochs_num=1)["training"]["dev"]
    for name, text in rows.items():
        tiny.write(name, text)
    with pytest.raises(UserError, match=r"train.tsv:1: no header; .*: --columns label text_a"):
        train(tiny, epochs_num=1)
    assert train(tiny, epochs_num=1, columns=("label", "text_a"))["training"]["dev"] == expected
    infer("test", Classification, ["--load_model_path", tiny.path("out/model.bin"), "--test_path", tiny.path("dev.tsv"),
                                   "--prediction_path", tiny.path("p.tsv"), "--columns", "label", "text_a"])
    assert len(Path(tiny.path("p.tsv")).read_text("utf-8").splitlines()) == 38
    for columns, message in ((("label",), "must name text_a"), (("text_a", "text_a"), "names a column twice")):
        with pytest.raises(UserError, match=message):
            train(tiny, columns=columns)


def test_many_labels_are_summed_up_and_all_of_them_shown_where_asked():
    matrix = np.diag(np.arange(40) + 1)
    matrix[0, 3], matrix[3, 3], matrix[39, 39] = 4, 0, 0
    names = [f"n{number}" for number in range(40)]
    lines = report_lines(matrix, names)
    assert lines[0].startswith("40 labels, 1 of them without examples; F1: median 1.000, 1 labels with F1 0")
    assert len(lines) == 3 + 20 and lines[2] == "  Label n3: 0.000, 0.000, 0.000 (4 examples)"
    assert lines[12] == "Precision, recall, F1 of the 10 best labels:" and "Label n9:" in lines[13]
    assert len(report_lines(matrix, names, all_labels=True)) == 41
    assert len(report_lines(matrix[:20, :20], names[:20])) == 42


def test_inference_refuses_what_is_not_fine_tuned(tiny):
    config = parse_command("test", Classification, tiny.flags()).model
    save_weights(build_model(config, 27).state_dict(), tiny.path("pretrained.bin"))
    with pytest.raises(UserError, match=r"not a fine-tuned model .*it is a pretrained model: fine-tune it first"):
        predictions(tiny, load_model_path=tiny.path("pretrained.bin"))
    with pytest.raises(UserError, match="No such file"):
        predictions(tiny, load_model_path=tiny.path("nothing.bin"))


def test_missing_files_are_named_before_any_is_tokenized(tiny, capsys):
    for flag in ("pretrained_model_path", "dev_path", "test_path"):
        with pytest.raises(UserError, match="nothing: No such file or directory"):
            finetune("test", Classification, tiny.flags(log_level="INFO", **{flag: tiny.path("nothing")}))
    assert "Reading and tokenizing" not in capsys.readouterr().out


def test_weights_without_settings_take_uers_flags(tiny):
    train(tiny, epochs_num=1)
    expected = predictions(tiny, output_logits=True)
    Path(tiny.path("out/model.json")).unlink()
    with pytest.raises(UserError, match="--config_path is required"):
        predictions(tiny)
    known = {"config_path": tiny.path("config.json"), "vocab_path": tiny.path("vocab.txt"), "seq_length": 16}
    with pytest.raises(UserError, match="--labels_num is required"):
        predictions(tiny, **known)
    with pytest.raises(UserError, match=r"of another size: output_layer_2\.weight"):
        predictions(tiny, **known, labels_num=3)
    assert predictions(tiny, **known, labels_num=2, output_logits=True) == expected


def test_flags_must_not_contradict_the_saved_settings(tiny):
    train(tiny, epochs_num=1)
    assert predictions(tiny, labels_num=2, config_path=tiny.path("config.json"), vocab_path=tiny.path("vocab.txt"))
    with pytest.raises(UserError, match=r"--labels_num 3: .* has 2 labels"):
        predictions(tiny, labels_num=3)
    for flag, value, ours in (("pooling", "mean", "max"), ("tokenizer", "char", "bert"),
                              ("do_lower_case", "false", "True")):
        with pytest.raises(UserError, match=f"--{flag} (?i:{value}): .* was fine-tuned with {ours}"):
            predictions(tiny, **{flag: value})
    tiny.write("wide.json", json.dumps({"hidden_size": 32, "emb_size": 32, "heads_num": 2}))
    with pytest.raises(UserError, match="emb_size is 32, but 16"):
        predictions(tiny, config_path=tiny.path("wide.json"))
    tiny.write("vocab2.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(UserError, match="not the vocabulary of"):
        predictions(tiny, vocab_path=tiny.path("vocab2.txt"))


def test_a_saved_model_can_be_moved_and_renamed(tiny):
    finetune("test", Classification, tiny.flags(epochs_num=1, output_model_path=tiny.path("a/tiny_v1.5")))
    expected = predictions(tiny, load_model_path=tiny.path("a/tiny_v1.5"), output_logits=True)
    Path(tiny.path("b")).mkdir()
    for suffix in ("", ".json", ".vocab.txt"):
        Path(tiny.path(f"a/tiny_v1.5{suffix}")).rename(tiny.path(f"b/other{suffix}"))
    assert predictions(tiny, load_model_path=tiny.path("b/other"), output_logits=True) == expected


def test_predictions_name_lines_that_have_none_and_fit_the_training(tiny, capsys):
    train(tiny, epochs_num=1)
    tiny.write("test.tsv", "text_a\n甲\n\n乙\n")
    new_folder = tiny.path("new/predictions.tsv")
    predictions(tiny, test_path=tiny.path("test.tsv"))
    infer("test", Classification, ["--load_model_path", tiny.path("out/model.bin"), "--test_path",
                                   tiny.path("test.tsv"), "--prediction_path", new_folder])
    assert f"2 predictions written to {new_folder}; 1 blank line of {tiny.path('test.tsv')} without" in \
        capsys.readouterr().out
    with pytest.raises(UserError, match=r"test.tsv is read by this command"):
        predictions(tiny, test_path=tiny.path("test.tsv"), prediction_path=tiny.path("test.tsv"))
    tiny.write("pairs.tsv", "text_a\ttext_b\n甲\t乙\n")
    with pytest.raises(UserError, match=r"pairs.tsv: a column 'text_b', but the model is trained on single texts"):
        predictions(tiny, test_path=tiny.path("pairs.tsv"))


def test_a_log_that_cannot_be_written_ends_the_run(tiny):
    for flag in ("log_path", "metrics_path"):
        with pytest.raises(UserError, match="/dev/full: No space left on device"):
            train(tiny, epochs_num=1, **{flag: "/dev/full"})


@pytest.mark.parametrize("changes, message", [
    ({"seq_length": 25}, "--seq_length 25 exceeds the model's max_seq_length 24"),
    ({"save_best_by": "f1"}, "--save_best_by: 'f1' is unknown for this task; choose from: accuracy, macro_f1"),
    ({"soft_targets": True}, "--soft_targets needs a column 'logits'"),
    ({"sharding": "fsdp"}, "are for pretraining"),
    ({"output_model_path": "{folder}/dev.tsv"}, "dev.tsv is read by this command"),
    ({"output_model_path": "{folder}/config.json/model.bin"}, "config.json cannot be written to"),
    ({"train_path": "none.tsv"}, "none.tsv: No such file"),
    ({"epochs_num": 0}, "--epochs_num must be at least 1"),
])
def test_settings_are_checked_before_training(tiny, changes, message):
    changes = {name: value.replace("{folder}", str(tiny.folder)) if isinstance(value, str) else value
               for name, value in changes.items()}
    with pytest.raises(UserError, match=re.escape(message)):
        finetune("test", Classification, tiny.flags(**changes))


@pytest.mark.parametrize("adversarial", [{"adv_type": "fgm", "fgm_epsilon": 0.5}, {"adv_type": "pgd", "pgd_k": 2}])
def test_adversarial_training_learns_something_else(tiny, adversarial):
    train(tiny, epochs_num=1)
    plain = load_weights(tiny.path("out/model.bin"))
    train(tiny, epochs_num=1, use_adv=True, **adversarial)
    other = load_weights(tiny.path("out/model.bin"))
    assert not torch.equal(plain["output_layer_2.weight"], other["output_layer_2.weight"])


def test_soft_targets_teach_a_student(tiny):
    rows = [line.split("\t") for line in Path(tiny.path("many.tsv")).read_text("utf-8").splitlines()[1:]]
    tiny.write("soft.tsv", "label\ttext_a\tlogits\n" + "".join(
        f"{number % 2}\t{text}\t{'-3 3' if '甲' in text else '3 -3'}\n" for number, (_, text) in enumerate(rows[::-1])))
    settings = train(tiny, train_path=tiny.path("soft.tsv"), soft_targets=True, soft_alpha=1.0, epochs_num=6)
    assert settings["training"]["dev"]["accuracy"] >= 0.9


def test_early_stop_and_metrics_file(tiny):
    train(tiny, epochs_num=5, early_stop=1, learning_rate=1e-9, metrics_path=tiny.path("metrics.jsonl"),
          test_path=tiny.path("test.tsv"), save_best_by="macro_f1", class_weights="balanced")
    lines = [json.loads(line) for line in Path(tiny.path("metrics.jsonl")).read_text().splitlines()]
    assert [(line["kind"], line["step"], line["epoch"]) for line in lines] == [
        ("train", 5, 1), ("eval", 5, 1), ("train", 10, 2), ("eval", 10, 2), ("test", 10, 1)]
    assert [line["set"] for line in lines if line["kind"] != "train"] == ["dev", "dev", "test"]
    assert all(line["acc"] == line["accuracy"] for line in lines if line["kind"] == "eval")
    assert all(line["total_steps"] == 25 and line["loss"] > 0 for line in lines if line["kind"] == "train")


def test_several_seeds_report_their_spread(tiny, capsys, monkeypatch):
    trials, report = [], command.report
    monkeypatch.setattr(command, "report", lambda *given: trials.extend(given[1]) or report(*given))
    settings = train(tiny, epochs_num=1, seeds=(1, 2, 3), log_level="INFO")
    assert len(trials) == 3 and not any(trial.fit.state or trial.fit.frozen for trial in trials), "no weights stay"
    out = capsys.readouterr().out
    assert re.search(r"3 seeds, dev accuracy: median 0\.\d{4}, 0\.\d{4} to \d\.\d{4}", out)
    best = max(float(found) for found in re.findall(r"Epoch 1 of 1: dev accuracy (\S+)", out))
    assert settings["training"]["dev"]["accuracy"] == pytest.approx(best, abs=1e-4)


def test_balanced_weights_make_labels_weigh_the_same():
    numbers = np.array([0] * 6 + [1] * 3 + [2])
    weights = balanced_weights(numbers, 3)
    np.testing.assert_allclose([weights[label] * (numbers == label).sum() for label in range(3)], 10 / 3, rtol=1e-6)


def test_a_teacher_writes_the_logits_column(tiny, root, monkeypatch):
    train(tiny, epochs_num=1)
    monkeypatch.setattr("sys.argv", ["make_teacher_logits.py", "--teacher_model_path", tiny.path("out/model.bin"),
                                     "--input_path", tiny.path("train.tsv"), "--output_path", tiny.path("soft.tsv"),
                                     "--device", "cpu"])
    runpy.run_path(str(root / "scripts" / "make_teacher_logits.py"), run_name="__main__")
    assert Path(tiny.path("soft.tsv")).read_text("utf-8").splitlines()[0] == "label\ttext_a\tlogits"
    settings = train(tiny, train_path=tiny.path("soft.tsv"), soft_targets=True, epochs_num=1)
    assert settings["training"]["dev"]["total"] == 37
