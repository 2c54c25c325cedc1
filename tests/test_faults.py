"""Faults that once crashed, hung or passed unseen; each docstring begins with the names they were found under.

Those that are one refused command are in test_refused_commands.py.
"""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tools.faults import (
    CONVERT,
    EMBED,
    FEATURES,
    FINETUNE,
    PREPROCESS,
    PRETRAIN,
    ROOT,
    Done,
    run,
    write_inputs,
)
from uer import json_files
from uer.backbone import Backbone
from uer.checkpoint.files import load_weights
from uer.config import ModelConfig
from uer.data.schema import SENTENCES
from uer.data.store import open_dataset
from uer.errors import UserError
from uer.planning.flops import parameter_count
from uer.runtime import lock


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with inputs, good and bad."""
    return write_inputs(tmp_path_factory.mktemp("faults"))


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


def test_two_values_of_one_key_are_refused(tmp_path):
    """Of {"layers_num": 2, "layers_num": 12}, Python's json takes the last in silence."""
    path = tmp_path / "x.json"
    path.write_text('{"a": [{"layers_num": 2, "b": 1, "layers_num": 12}]}')
    with pytest.raises(UserError, match=r"x\.json: the key 'layers_num' stands twice in one object, with different va"):
        json_files.read_json(path)
    with pytest.raises(UserError, match=r"x.jsonl:7: the key 'text_a' stands twice"):
        json_files.parse_json(b'{"text_a": "x", "text_a": "y"}', "x.jsonl", 7)
    path.write_text('{"a": 1, "b": {"a": 2}, "a": 1}')
    assert json_files.read_json(path) == {"a": 1, "b": {"a": 2}}


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
