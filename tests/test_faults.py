"""Bad input and faults that once crashed, hung or passed unseen, by the names they were found under.

Each case of `REFUSED` is a command that ends with status 2 and one line that names what is wrong. The others, which are
more than one refused command, are tests of their own below; their docstrings begin with the case's name.
"""

import contextlib
import dataclasses
import io
import json
import os
import pickle
import re
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from uer import cli, json_files
from uer.backbone import Backbone
from uer.checkpoint.files import load_weights, save_weights
from uer.config import ModelConfig
from uer.data.schema import SENTENCES, Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, open_dataset, save_dataset
from uer.errors import UserError
from uer.flops import parameter_count
from uer.model import build_model
from uer.runtime import lock
from uer.tokenizers import Vocab

ROOT = Path(__file__).resolve().parent.parent
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TINY = {"emb_size": 8, "hidden_size": 8, "feedforward_size": 16, "heads_num": 2, "layers_num": 1, "max_seq_length": 16,
        "embedding": ["word", "pos", "seg"], "tie_weights": True, "target": ["mlm"]}
STREAM = {**TINY, "encoder": "transformer"}
MASKING = {"whole_word_masking": False, "span_masking": False, "span_geo_prob": 0.2, "span_max_length": 10}
SQUAD_FILE = {"data": [{"paragraphs": [{"context": "一丁七万丈三", "qas": [
    {"id": "1", "question": "一丁", "answers": [{"text": "七", "answer_start": 2}]}]}]}]}
BOARD = {"tasks": {"a": {"train_path": "train.tsv", "dev_path": "train.tsv"}}, "grid": {"epochs_num_list": ["x"]},
         "models": [{"name": "m", "config_path": "c.json", "vocab_path": "vocab.txt"}]}
WORD = "embedding.word.embedding.weight"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder with a vocabulary, a dataset, settings, texts and checkpoints, good and bad."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + [chr(0x4E00 + n) for n in range(20)]) + "\n")
    (folder / "text.txt").write_text("一丁七\n万丈三\n", encoding="utf-8")
    (folder / "train.tsv").write_text("label\ttext_a\n" + "0\t一丁\n1\t七万\n" * 4, encoding="utf-8")
    vocab = Vocab.load(folder / "vocab.txt")
    write_dataset(folder / "d.pt", vocab)
    write_dataset(folder / "no_specials.pt", vocab, {})
    for name, length in (("lengths", b"7"), ("long", b"99999999")):
        content = (folder / "d.pt").read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = content[8:8 + size].replace(b'"seq_length": "8"', b'"seq_length": "%s"' % length)
        (folder / f"{name}.pt").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size:])
    write_dataset(folder / "bad_specials.pt", vocab, {**vocab.special_ids, "mask": 25})
    write_settings(folder)
    write_checkpoints(folder, len(vocab))
    os.mkfifo(folder / "fifo")
    (folder / "empty.txt").touch()
    (folder / "binary").write_bytes(bytes(range(256)))
    header = b"[" * 100_000
    (folder / "deep.pt").write_bytes(len(header).to_bytes(8, "little") + header)
    (folder / "user.txt").write_text("一丁 3\n", encoding="utf-8")
    (folder / "squad.json").write_text(json.dumps(SQUAD_FILE), encoding="utf-8")
    (folder / "board.json").write_text(json.dumps(BOARD))
    (folder / "deep.jsonl").write_text("[" * 100_000 + "\n{}\n")
    hf = folder / "hf_deep"
    hf.mkdir()
    (hf / "config.json").write_text("[" * 100_000)
    torch.save({"a": torch.ones(1)}, hf / "pytorch_model.bin")
    (folder / "x.index.json").write_text(json.dumps({"weight_map": {"a": "x.index.json"}}))
    shared = folder / "shared_roles"
    shared.mkdir()
    (shared / "vocab.txt").write_text((folder / "vocab.txt").read_text())
    (shared / "special_tokens_map.json").write_text('{"pad_token": "[UNK]"}')
    deep = folder / "deep_roles"
    deep.mkdir()
    (deep / "vocab.txt").write_text((folder / "vocab.txt").read_text())
    (deep / "special_tokens_map.json").write_text("[" * 100_000)
    yield folder


def write_dataset(path: Path, vocab: Vocab, special_ids: dict[str, int] | None = None) -> None:
    offsets = np.arange(0, 41, 5)
    tokens = np.tile([vocab.cls_id, 5, 6, 7, vocab.sep_id], 8)
    known = VocabInfo(vocab.fingerprint, len(vocab), vocab.special_ids if special_ids is None else special_ids,
                      {"kind": "char", "do_lower_case": "false"})
    info = DatasetInfo(FORMAT_VERSION, "mlm", 8, {"src": Column()}, {"src": 8}, {"src": known}, MASKING, True)
    save_dataset(path, info, {"src": tokens}, {"src": offsets})


def write_settings(folder: Path) -> None:
    for name, changes in (("c", {}), ("layers", {"layers_num": 10**8}), ("overflow", {"feedforward_size": 2**63 - 1}),
                          ("positions", {"max_seq_length": 2**40}), ("dict", {"embedding": {"word": 1}}),
                          ("decoder", {"decoder": "transformer"}), ("dual", {"embedding": "dual"}),
                          ("pairs", {"embedding": "dual", "encoder": "dual", "stream_0": STREAM, "stream_1": STREAM})):
        (folder / f"{name}.json").write_text(json.dumps({**TINY, **changes}))
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "half.json").write_text('{\n"mask": "\\ud800"}')


def write_checkpoints(folder: Path, vocab_size: int) -> None:
    config = ModelConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in TINY.items()})
    weights = build_model(config, vocab_size).state_dict()
    save_weights(weights, folder / "good.bin")
    odd = {"sparse": torch.eye(vocab_size).to_sparse(), "meta": torch.empty(3, device="meta"),
           "huge": torch.zeros(1).expand(10**7, 10**6), "int": torch.ones(vocab_size, 8, dtype=torch.int64),
           "complex": torch.ones(vocab_size, 8, dtype=torch.complex64)}
    nan = weights[WORD].clone()
    nan[3, 1] = float("nan")
    odd["nan"] = nan
    for name, tensor in odd.items():
        torch.save({**weights, WORD: tensor}, folder / f"{name}.bin")
    save_weights(weights, folder / "m-2")
    torch.save({**weights, "encoder.transformer.99999999.layer_norm_1.gamma": torch.ones(8)}, folder / "layers.bin")
    with zipfile.ZipFile(folder / "bomb.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(20_000_000))


@dataclasses.dataclass
class Done:
    status: int
    out: str
    err: str


def run(script: str, *argv: object) -> Done:
    """A script in this process, as the command line runs it."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    before, environment = (sys.argv, list(sys.path)), dict(os.environ)
    sys.argv, sys.path = [script, *map(str, argv)], [str((ROOT / script).parent), *sys.path]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main = runpy.run_path(str(ROOT / script), run_name="script")["main"]
            cli.run(main)
    except SystemExit as leaving:
        status = leaving.code or 0
    finally:
        sys.argv, sys.path = before
        os.environ.clear()
        os.environ.update(environment)  # benchmarks set threads for themselves
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return Done(status, *texts)


PRETRAIN = ("pretrain.py --dataset_path d.pt --vocab_path vocab.txt --tokenizer char --config_path c.json "
            "--data_processor mlm --target mlm --total_steps 2 --batch_size 2 --output_model_path out/m")
FINETUNE = ("finetune/run_classifier.py --vocab_path vocab.txt --tokenizer char --config_path c.json --train_path "
            "train.tsv --dev_path train.tsv --seq_length 8 --epochs_num 1 --output_model_path out/f.bin")
AVERAGE = "scripts/average_models.py --output_model_path out/a --model_list_path"
CONVERT = ("scripts/convert_bert_from_uer_to_huggingface.py --type mlm --no_check --config_path c.json "
           "--output_model_path out/h --input_model_path")
EMBED = "scripts/extract_embeddings.py --vocab_path vocab.txt --word_embedding_path out/e.txt --load_model_path"
FEATURES = ("scripts/extract_features.py --vocab_path vocab.txt --tokenizer char --config_path c.json --test_path "
            "text.txt --prediction_path out/p.npy --load_model_path")
CLOZE = ("scripts/cloze_test.py --vocab_path vocab.txt --tokenizer char --config_path c.json --text 一[MASK] "
         "--load_model_path")
FAMILY = "scripts/pretrain_family.py --dry_run --vocab_path vocab.txt"
BACK = ("scripts/convert_bert_from_huggingface_to_uer.py --type mlm --no_check --output_model_path out/u "
        "--input_model_path")
PREPROCESS = "preprocess.py --corpus_path text.txt --data_processor mlm --tokenizer char --dataset_path out/d.pt"

SQUAD = FINETUNE.replace("run_classifier", "run_cmrc").replace("train.tsv", "squad.json")

# name of the case -> (command, words of its one line).
REFUSED: dict[str, tuple[str, str]] = {
    "v_same_specials": (f"{PREPROCESS} --vocab_path shared_roles/vocab.txt", "pad_token and unk_token"),
    "v_map_deep": (f"{PREPROCESS} --vocab_path deep_roles/vocab.txt", "special_tokens_map.json: JSON nested"),
    "pt_out_is_folder": (f"{PRETRAIN} --output_model_path hf_deep", "--output_model_path hf_deep: is a folder"),
    "pt_accumulation": (f"{PRETRAIN} --accumulation_steps 100000000", "--accumulation_steps must be at most"),
    "pp_seq_length": (f"{PREPROCESS} --vocab_path vocab.txt --seq_length 1000000000", "--seq_length must be at most"),
    "pp_pair_length": (f"{PREPROCESS} --vocab_path vocab.txt --data_processor bert --seq_length 4",
                       "--seq_length must be at least 5 with --data_processor bert"),
    "cfg_decoder": (f"{PRETRAIN} --config_path decoder.json", "decoder"),
    "cfg_dual": (f"{PRETRAIN} --config_path dual.json", "encoder 'dual' and embedding 'dual' need one another"),
    "cfg_pairs": (f"{PRETRAIN} --config_path pairs.json", "encodes pairs of texts, .* nothing pretrains it"),
    "ds_long": (f"{PRETRAIN} --dataset_path long.pt", "long.pt: .*seq_length is 99999999"),
    "ds_lengths": (f"{PRETRAIN} --dataset_path lengths.pt", "lengths.pt: .*damaged .*seq_length is 7"),
    "fam_length_late": (f"{FAMILY} --sizes tiny --seq_length 16 1024", "--seq_length 1024: L-2_H-128 has 512"),
    "fam_mfu0": (f"{FAMILY} --mfu 0", "--mfu must lie"),
    "fam_sizes_flag": (f"{FAMILY} --sizes nope.json", "--sizes nope.json: No such file"),
    "cfg_layers": (f"{PRETRAIN} --config_path layers.json", "layers_num must lie"),
    "cfg_overflow": (f"{PRETRAIN} --config_path overflow.json", "feedforward_size must lie"),
    "cfg_positions": (f"{PRETRAIN} --config_path positions.json", "max_seq_length must lie"),
    "cfg_flag": (f"{PRETRAIN} --max_seq_length 10000000000", "max_seq_length must lie"),
    "cfg_embedding": (f"{PRETRAIN} --config_path dict.json", "'embedding' must be str or a list"),
    "cfg_deep": (f"{PRETRAIN} --config_path deep.json", "deep.json: JSON nested too deeply"),
    "cfg_half_pair": (f"{PRETRAIN} --config_path half.json", "half.json:2: .*surrogate"),
    "cfg_devzero": (f"{PRETRAIN} --config_path /dev/zero", "/dev/zero: is a device"),
    "cfg_fifo": (f"{PRETRAIN} --config_path fifo", "fifo: is a named pipe"),
    "ds_fifo": (f"{PRETRAIN} --dataset_path fifo", "fifo: is a named pipe"),
    "ds_no_specials": (f"{PRETRAIN} --dataset_path no_specials.pt", "no_specials.pt: .*special id 'pad'"),
    "ds_deep_header": (f"{PRETRAIN} --dataset_path deep.pt", "deep.pt: "),
    "ds_bad_specials": (f"{PRETRAIN} --dataset_path bad_specials.pt", "bad_specials.pt: .*special id 'mask' is 25"),
    "ft_fifo": (f"{FINETUNE} --train_path fifo", "fifo: is a named pipe"),
    "ef_fifo": (f"{FEATURES} good.bin --test_path fifo", "fifo: is a named pipe"),
    "cv_manylayers": (f"{CONVERT} layers.bin", "layers.bin: .*are missing"),
    "hf_deep": (f"{BACK} hf_deep", "config.json: JSON nested too deeply"),
    "hf_index_itself": (f"{BACK} x.index.json", "x.index.json: .*is an index itself"),
    "plot_deep": ("scripts/plot_training.py --metrics_path deep.jsonl", "deep.jsonl, line 1"),
    "plot_binary": ("scripts/plot_training.py --metrics_path binary", "binary"),
    "benchmark_rounds": ("scripts/benchmark_loader.py --rounds 0 --batch_size 0", "--batch_size .*--rounds"),
    "benchmark_rows": ("scripts/benchmark_loader.py --small_rows -1", "--small_rows"),
    "benchmark_lengths": ("scripts/benchmark_training.py --seq_lengths 0", "--seq_lengths"),
    "benchmark_fills": ("scripts/benchmark_training.py --fills 2 --seconds -1", "--seconds .*--fills"),
    "benchmark_precisions": ("scripts/benchmark_training.py --precisions fp8", "--precisions: 'fp8'"),
    "benchmark_threads": ("scripts/benchmark_finetune.py --train_path train.tsv --config_path c.json --threads -1",
                          "--threads"),
    "benchmark_corpus": ("scripts/benchmark_preprocess.py --corpus_path empty.txt", "empty.txt: the corpus is empty"),
    "ft_seed": (f"{FINETUNE} --seed -1", "--seed"),
    "ft_seeds": (f"{FINETUNE} --seeds 1 -1", "--seed"),
    "cmrc_seq5": (f"{SQUAD} --seq_length 5", "--seq_length 5"),
    "cmrc_seq4": (f"{SQUAD} --seq_length 4", "--seq_length 4"),
    "cmrc_shape": (f"{SQUAD} --train_path c.json", "c.json: .*data"),
    "c3_shape": (f"{FINETUNE.replace('run_classifier', 'run_c3')} --train_path squad.json --dev_path squad.json",
                 "squad.json: "),
    "simcse_dev": (FINETUNE.replace("run_classifier", "run_simcse"), "train.tsv.*text_b"),
    "sb_grid": ("scripts/scoreboard.py --scoreboard_path board.json --output_dir out/board", "board.json"),
}
# Outputs that are inputs; see also tests/contract/test_paths.py, which goes over all pairs of flags.
OVERWRITTEN: dict[str, tuple[str, str]] = {
    "ft_over_vocab": (f"{FINETUNE} --output_model_path vocab.txt", "vocab.txt"),
    "ft_over_config": (f"{FINETUNE} --output_model_path c.bin", "c.json"),
    "pp_over_vocab": (f"{PREPROCESS} --vocab_path vocab.txt --dataset_path vocab.txt", "vocab.txt"),
    "pp_over_userdict": (f"{PREPROCESS} --vocab_path vocab.txt --whole_word_masking --user_dict user.txt "
                         "--dataset_path user.txt", "user.txt"),
    "pp_over_corpus": (f"{PREPROCESS} --vocab_path vocab.txt --dataset_path text.txt", "text.txt"),
    "bv_over_corpus": ("scripts/build_vocab.py --corpus_path text.txt --output_path text.txt", "text.txt"),
    "pt_over_pretrained": (f"{PRETRAIN} --output_model_path m --pretrained_model_path m-2", "m-2"),
    "pt_over_teacher": (f"{PRETRAIN} --output_model_path m --teacher_model_path m-2 --teacher_config_path c.json",
                        "m-2"),
    "pt_log_over_dataset": (f"{PRETRAIN} --log_path d.pt", "d.pt"),
    "pt_metrics_over_dataset": (f"{PRETRAIN} --metrics_path d.pt", "d.pt"),
    "pt_log_over_vocab": (f"{PRETRAIN} --log_path vocab.txt", "vocab.txt"),
    "cv_over_input": (f"{CONVERT} good.bin --output_model_path good.bin", "good.bin"),
    "cv_over_vocab": (f"{CONVERT} good.bin --vocab_path vocab.txt --output_model_path vocab.txt", "vocab.txt"),
    "ev_over_model": ("scripts/extend_vocab.py --vocab_path vocab.txt --add_tokens x --output_vocab_path out/v "
                      "--pretrained_model_path good.bin --output_model_path good.bin", "good.bin"),
    "ev_same_outputs": ("scripts/extend_vocab.py --vocab_path vocab.txt --add_tokens x --output_vocab_path out/o "
                        "--pretrained_model_path good.bin --output_model_path out/o", "same file, out/o"),
    "ee_over_model": (f"{EMBED} good.bin --word_embedding_path good.bin", "good.bin"),
    "ee_over_vocab": (f"{EMBED} good.bin --word_embedding_path vocab.txt", "vocab.txt"),
    "ef_over_text": (f"{FEATURES} good.bin --prediction_path text.txt", "text.txt"),
    "cl_over_text": (f"{CLOZE} good.bin --test_path text.txt --prediction_path text.txt", "text.txt"),
    "mg_over_input": ("scripts/merge_datasets.py d.pt d.pt --output_path d.pt", "d.pt"),
    "ml_over_train": ("scripts/make_teacher_logits.py --teacher_model_path good.bin --input_path train.tsv "
                      "--output_path train.tsv", "train.tsv"),
    "ml_over_teacher": ("scripts/make_teacher_logits.py --teacher_model_path good.bin --input_path train.tsv "
                        "--output_path good.bin", "good.bin"),
    "inf_over_settings": ("inference/run_classifier_infer.py --load_model_path c.bin --test_path text.txt "
                          "--prediction_path c.json", "c.json"),
    "pp_device": (f"{PREPROCESS} --vocab_path vocab.txt --dataset_path /dev/null", "/dev/null: is not a regular file"),
}
REFUSED |= OVERWRITTEN
# Cases that are more than a refused command, and stand with what they are about.
ELSEWHERE = {
    "avg_nan": "tests/test_faults.py::test_refused_in_one_line",  # as ck_nan_average_models
    "cv_tmp_folder": "tests/test_files.py::test_the_users_own_files_beside_it_stay",
    "ft_nan_saved": "tests/finetuning/test_resume.py::test_weights_that_are_not_finite_are_never_used_or_saved",
    "ft_nan_pretrained": "tests/finetuning/test_resume.py::test_weights_that_are_not_finite_are_never_used_or_saved",
    "grid_ties": "tests/finetuning/test_resume.py::"
                 "test_ties_are_decided_by_the_settings_in_whatever_order_trials_finish",
    "rank_stopped": "tests/training/test_parallel_runs.py::test_a_stopped_rank_is_named",
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_cases_of_other_files_are_there(case):
    path, _, name = ELSEWHERE[case].partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
for case, words in {"sparse": "sparse tensor", "meta": "meta tensor", "huge": "stored numbers do not make",
                    "int": "int64", "complex": "complex64", "nan": "not finite", "bomb": "would unpack"}.items():
    for command in (AVERAGE, CONVERT, EMBED, FEATURES, CLOZE, f"{PRETRAIN} --pretrained_model_path",
                    f"{FINETUNE} --pretrained_model_path"):
        what = command.split()[0].rpartition("/")[2].removesuffix(".py")
        REFUSED[f"ck_{case}_{what}"] = (f"{command} {case}.bin", f"{case}.bin: .*{words}")


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, place, monkeypatch):
    monkeypatch.chdir(place)
    command, words = REFUSED[case]
    before = contents(place)
    done = run(*command.split())
    assert done.status == 2, done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert re.search(words, done.err), done.err
    assert contents(place) == before


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file in the folder that a command was given; its outputs are in `out`."""
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()
            if path.name != "out"}


def test_the_good_ones_are_not_refused(place, monkeypatch):
    """What the table refuses is refused for its fault alone."""
    monkeypatch.chdir(place)
    for command in (f"{AVERAGE} good.bin good.bin", f"{EMBED} good.bin", f"{FEATURES} good.bin", f"{CLOZE} good.bin",
                    f"{PRETRAIN} --pretrained_model_path good.bin", f"{PREPROCESS} --vocab_path vocab.txt"):
        done = run(*command.split())
        assert done.status == 0, (command, done.err)


def test_finished_runs_have_their_weights(place, monkeypatch, tmp_path):
    """pt_finished_gone, pt_finished_truncated: written again from the state, the same bytes."""
    monkeypatch.chdir(place)
    command = [*PRETRAIN.split(), "--output_model_path", tmp_path / "m"]
    assert run(*command).status == 0
    final = tmp_path / "m-2"
    whole = final.read_bytes()
    for damage in (final.unlink, lambda: final.write_bytes(whole[:10])):
        damage()
        done = run(*command)
        assert done.status == 0 and "written again" in done.out
        assert final.read_bytes() == whole
    assert "written again" not in run(*command).out


def test_a_model_larger_than_the_machine():
    """cfg_layers, within the bounds of the settings."""
    config = ModelConfig(layers_num=9000, emb_size=4096, hidden_size=4096, feedforward_size=16384, heads_num=1)
    assert 4 * parameter_count(config, 100) > 1 << 42
    with pytest.raises(UserError, match=r"layers_num 9000.* GiB"):
        Backbone(config, 100)


@pytest.fixture
def companion(place, tmp_path, monkeypatch) -> Callable[..., Done]:
    """A fine-tuned model; calling it changes its settings and predicts."""
    monkeypatch.chdir(place)
    assert run(*FINETUNE.split(), "--output_model_path", tmp_path / "f.bin").status == 0
    settings = json.loads((tmp_path / "f.json").read_text())

    def predict(**changes) -> Done:
        (tmp_path / "f.json").write_text(json.dumps({**settings, **changes}))
        return run("inference/run_classifier_infer.py", "--load_model_path", tmp_path / "f.bin", "--test_path",
                   place / "train.tsv", "--prediction_path", tmp_path / "p.tsv")

    return predict


def test_damaged_companions(companion, monkeypatch):
    """inf_seqneg, inf_json_seq, inf_json_labels."""
    assert companion().status == 0
    for changes, words in (({"seq_length": -3}, "seq_length"), ({"seq_length": "abc"}, "seq_length"),
                           ({"labels": 5}, "labels"), ({"labels": [1, 2]}, "labels"), ({"labels": None}, "damaged"),
                           ({"truncation": "middle"}, "truncation"), ({"model": {"layers_num": "2"}}, "layers_num"),
                           ({"model": 3}, "a JSON object"), ({"tokenizer": {}}, "damaged settings")):
        done = companion(**changes)
        assert done.status == 2 and words in done.err and done.err.count("\n") == 1, (changes, done.err)


PARAGRAPHS = "一丁七\n万丈三\n{}\n" * 12


@pytest.mark.parametrize("blank", ["", " ", "\t\f", "\r", "\u3000", "\u00a0"])
def test_whatever_is_blank_ends_a_document(place, tmp_path, blank):
    """pp_blank_lines: in shards of any size, and without a warning that there is none."""
    (tmp_path / "c.txt").write_text(PARAGRAPHS.format(*[blank] * 12), encoding="utf-8", newline="")
    done = run(*PREPROCESS.split(), "--corpus_path", tmp_path / "c.txt", "--dataset_path", tmp_path / "d.pt",
               "--data_processor", "bert", "--vocab_path", place / "vocab.txt")
    assert (done.status, done.err) == (0, "")
    assert open_dataset(tmp_path / "d.pt").info.counts["documents"] == 12
    assert SENTENCES.document_end.search(f"一\n{blank}\n".encode())


@pytest.mark.parametrize("processor", ["bert", "albert"])
def test_a_corpus_of_one_document(place, tmp_path, processor):
    """pp_one_document: bert's second parts cannot be of another one, and the run says so."""
    (tmp_path / "c.txt").write_text("一丁七\n" * 9, encoding="utf-8")
    done = run(*PREPROCESS.split(), "--corpus_path", tmp_path / "c.txt", "--dataset_path", tmp_path / "d.pt",
               "--data_processor", processor, "--vocab_path", place / "vocab.txt")
    assert done.status == 0 and ("the whole corpus is one document" in done.err) == (processor == "bert")


def test_no_warning_of_one_sentence_a_line(place, tmp_path):
    """pp_wrong_warning: thirty lines without a blank one."""
    (tmp_path / "c.txt").write_text("一丁七\n" * 30, encoding="utf-8")
    command = PREPROCESS.replace("text.txt", str(tmp_path / "c.txt")).replace("out/d.pt", str(tmp_path / "d.pt"))
    done = run(*command.split(), "--vocab_path", place / "vocab.txt")
    assert done.status == 0 and "warning" not in done.err


def preprocess(place: Path, tmp_path: Path, corpus: bytes = b"text.txt", **options) -> subprocess.CompletedProcess:
    argv = [sys.executable, str(ROOT / "preprocess.py"), "--corpus_path", corpus, "--data_processor", "mlm",
            "--tokenizer", "char", "--vocab_path", "vocab.txt", "--dataset_path", str(tmp_path / "d.pt")]
    return subprocess.run(argv, cwd=place, timeout=60, stderr=subprocess.PIPE,
                          **{"stdout": subprocess.PIPE, **options})


def test_two_conversions_to_one_folder(place, monkeypatch):
    """two_conversions: the second is told of the first; neither touches the other's files."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.2)
    command = CONVERT.replace("--output_model_path out/h", "--output_dir out/hf") + " good.bin --vocab_path vocab.txt"
    with lock.OutputLock(place / "out" / "hf"):
        done = run(*command.split())
    assert done.status == 2 and "--output_dir" in done.err and "another run" in done.err
    assert not (place / "out" / "hf").exists()


@pytest.mark.parametrize("encoding", ["gbk", "ascii"])
def test_terminals_of_other_encodings(place, tmp_path, encoding):
    """pp_gbk_terminal, pp_C_locale: an unknown character that the encoding has not is shown as an escape."""
    (place / "rare.txt").write_text("\U0002a6b2" * 9 + "一\n", encoding="utf-8")
    done = preprocess(place, tmp_path, b"rare.txt", env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"})
    assert done.returncode == 0, done.stderr
    assert b"\\U0002a6b2" in done.stdout


def test_file_names_that_are_not_utf8(place, tmp_path):
    """pp_gbk_name: the name is in the metadata, readable by everything."""
    name = "文.txt".encode("gbk")
    try:
        (place / os.fsdecode(name)).write_bytes("一丁七\n".encode())
    except OSError:
        pytest.skip("this file system takes no such names")
    done = preprocess(place, tmp_path, name)
    assert done.returncode == 0, done.stderr
    command = open_dataset(tmp_path / "d.pt").info.command
    assert "\\udc" in command
    command.encode("utf-8")


def test_output_that_cannot_be_printed(place, tmp_path):
    """pp_stdout_full, `preprocess.py | head`: the dataset is there, and the status says so."""
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            done = preprocess(place, tmp_path, stdout=full)
        assert done.returncode == 0 and done.stderr.count(b"\n") == 1 and b"d.pt is finished" in done.stderr
    read, write = os.pipe()
    os.close(read)
    done = preprocess(place, tmp_path, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(open_dataset(tmp_path / "d.pt")) == 2


# A script as the command line runs it, in a folder, without its standard output.
SCRIPT = """
import os, runpy, sys
os.chdir({folder!r})
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
sys.argv = {argv!r}
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_full_disks_are_named(place, tmp_path, server):
    """ef_full_disk, bv_full_disk, mg_full_disk, pp_file_limit, embeddings, inference: one line with the file's name."""
    (place / "long.txt").write_text("一丁七\n" * 3000, encoding="utf-8")
    (place / "many.txt").write_text("\n".join(map(chr, range(0x4E00, 0x5200))), encoding="utf-8")
    target = tmp_path / "target"
    commands = {
        "ef_full_disk": f"{FEATURES} good.bin --test_path long.txt --prediction_path {target}",
        "extract_embeddings": f"{EMBED} good.bin --word_embedding_path {target}",
        "bv_full_disk": f"scripts/build_vocab.py --corpus_path many.txt --output_path {target}",
        "mg_full_disk": f"scripts/merge_datasets.py d.pt d.pt --output_path {target}",
        "pp_file_limit": PREPROCESS.replace("text.txt", "long.txt").replace("out/d.pt", str(target))
        + " --vocab_path vocab.txt",
    }
    for case, command in commands.items():
        script, *argv = command.split()
        log = tmp_path / f"{case}.log"
        pid = server.ask({"program": SCRIPT.format(folder=str(place), argv=[str(ROOT / script), *argv]),
                          "file_limit": 600, "log": str(log)})
        status, error = server.ask({"wait": pid, "seconds": 120}), log.read_text()
        assert status == 2, (case, error)
        assert error.startswith("error: ") and error.count("\n") == 1 and str(tmp_path) in error, (case, error)
        assert not target.exists()


@pytest.mark.parametrize("flag", ["--log_path", "--metrics_path"])
def test_full_logs_are_named(place, monkeypatch, flag):
    """pt_log_full_disk: one line that names the flag, in pretraining as in fine-tuning."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    monkeypatch.chdir(place)
    for module in ("logs", "metrics_writer"):
        monkeypatch.setattr(f"uer.runtime.{module}.prepare_file", lambda *arguments: None)
    done = run(*PRETRAIN.split(), "--output_model_path", "out/log", "--report_steps", "1", flag, "/dev/full")
    assert done.status == 2 and done.err.count("\n") == 1, done.err
    assert done.err.startswith(f"error: {flag}") and "No space left" in done.err


def test_json_of_any_kind_is_one_line(tmp_path):
    """*_deep at every depth, byte order marks, sizes, numbers of thousands of digits."""
    path = tmp_path / "x.json"
    path.write_text('\ufeff{"a": [1, "\\ud83d\\ude00"]}', encoding="utf-8")
    assert json_files.read_json(path) == {"a": [1, "\U0001f600"]}
    for depth in (101, 500, 990, 3000, 200_000):
        path.write_text("[" * depth + "]" * depth)
        with pytest.raises(UserError, match=r"x\.json: JSON nested too deeply"):
            json_files.read_json(path)
    for content, words in ((b"\xff", "x.json:1: not UTF-8"), (b"{\n\n1}", "x.json:3: not JSON"), (b"", "x.json:1"),
                           (b"1" * 5000, "x.json: not JSON"), (b'"\\udc00"', "surrogate")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words) as error:
            json_files.read_json(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="has 8 bytes"):
        json_files.read_json(path, most=5)


def test_text_with_half_pairs_is_written_readable():
    text = json_files.json_text({"name": "a\udcb5", "pair": "\U0001f600"})
    text.encode("utf-8")
    assert json.loads(text) == {"name": "a\\udcb5", "pair": "\U0001f600"}


def test_a_storage_that_claims_more_than_its_record(tmp_path):
    """torch itself would read beyond the record's end."""
    torch.save({"a": torch.arange(44.0)}, tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.bin") as source, zipfile.ZipFile(tmp_path / "lie.bin", "w") as lie:
        for entry in source.infolist():
            lie.writestr(entry.filename, source.read(entry).replace(b"K,", b"J\x00\x00\x00\x40"))
    with pytest.raises(UserError, match=r"lie\.bin: a claims 4,294,967,296 bytes"):
        load_weights(tmp_path / "lie.bin")


def test_older_files_and_views_are_still_read(tmp_path):
    weights = {"a": torch.randn(3, 4).t(), "b": torch.nn.Parameter(torch.ones(2)), "c": torch.arange(9.0)[2:5],
               "large": torch.full((1000,), 3e38), "half": torch.full((9999,), 6e4, dtype=torch.float16)}
    for zipped in (True, False):
        torch.save(weights, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
        loaded = load_weights(tmp_path / "x.bin")
        assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
