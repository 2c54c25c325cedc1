"""The command line: merge order, kinds, and one clear line for everything wrong."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from uer import cli, config
from uer.config import REQUIRED, DatasetConfig, ModelConfig, ParallelConfig, TrainConfig, flag
from uer.data.processors.pairs import PairConfig
from uer.encoders.gatedcnn import GatedCnnConfig
from uer.errors import UserError
from uer.sections import from_json, member_classes
from uer.targets.lm import LmConfig

REQUIRED_FLAGS = ["--output_model_path", "out.bin"]
STREAM = {"encoder": "transformer", "embedding": ["word"], "hidden_size": 24, "emb_size": 24, "heads_num": 4}


@dataclasses.dataclass(frozen=True)
class Pie:
    """A section with one field of each kind."""

    pie_path: str = flag(REQUIRED, "Where it goes, 100% sure.")
    config_path: str | None = flag(None, "JSON file.")
    dropout: float = flag(0.5, "A share.")
    heads_num: int = flag(3, "A number.")
    tie_weights: bool = flag(False, "A switch.")
    do_lower_case: bool = flag(True, "A choice of true or false.")
    embedding: tuple[str, ...] = flag(("word",), "Several.")
    mask: str = flag("causal", "One of a few.", choices=("causal", "full"))
    labels_num: int | None = flag(None, "May be absent.")


def parse(*argv: str) -> Pie:
    return cli.parse("A test.", (Pie,), argv)[0]


def write(tmp_path, content) -> str:
    path = tmp_path / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def test_defaults():
    assert parse("--pie_path", "x") == Pie(pie_path="x")


def test_merge_order_is_default_then_file_then_flag(tmp_path):
    path = write(tmp_path, {"dropout": 0.25, "heads_num": 7, "tie_weights": True})
    pie = parse("--pie_path", "x", "--config_path", path, "--heads_num", "9")
    assert (pie.dropout, pie.heads_num, pie.tie_weights, pie.mask) == (0.25, 9, True, "causal")


def test_a_flag_switches_off_what_the_file_switched_on(tmp_path):
    path = write(tmp_path, {"tie_weights": True})
    assert not parse("--pie_path", "x", "--config_path", path, "--no-tie_weights").tie_weights


def test_kinds():
    pie = parse("--pie_path", "x", "--do_lower_case", "false", "--embedding", "word", "pos", "--labels_num", "13")
    assert (pie.do_lower_case, pie.embedding, pie.labels_num) == (False, ("word", "pos"), 13)


def test_file_values_of_other_spellings(tmp_path):
    path = write(tmp_path, {"do_lower_case": "false", "dropout": 0, "embedding": "word"})
    pie = parse("--pie_path", "x", "--config_path", path)
    assert (pie.do_lower_case, pie.dropout, pie.embedding) == (False, 0.0, ("word",))
    assert isinstance(pie.dropout, float)


def test_keys_of_other_commands_are_passed_over(tmp_path):
    path = write(tmp_path, {"learning_rate": 1e-4, "heads_num": 5})
    assert parse("--pie_path", "x", "--config_path", path).heads_num == 5


@pytest.mark.parametrize("argv, message", [
    ([], "--pie_path is required"),
    (["--pie_path", "x", "--heads", "3"], r"unknown argument '--heads'.*--heads_num"),
    (["--pie_path", "x", "--heads_num", "three"], "--heads_num: 'three' is not a whole number"),
    (["--pie_path", "x", "--heads_num", "9" * 20], "--heads_num: 9+ is too large"),
    (["--pie_path", "x", "--dropout", "nan"], "--dropout: nan is not a finite number"),
    (["--pie_path", "x", "--dropout", "half"], "--dropout: 'half' is not a number"),
    (["--pie_path", "x", "--do_lower_case", "maybe"], "neither true nor false"),
    (["--pie_path", "x", "--mask", "none"], "--mask: 'none' is unknown; choose from: causal, full"),
    (["--pie_path", "x", "stray"], "unknown argument 'stray'"),
    (["--pie_path", "x", "--config_path", "/nonexistent.json"], "/nonexistent.json: No such file"),
])
def test_bad_command_lines(argv, message):
    with pytest.raises(UserError, match=message):
        parse(*argv)


@pytest.mark.parametrize("content, message", [
    ('{"heads_num": 3', "not JSON"),
    ([1, 2], "a JSON object is needed, not list"),
    ({"heads_nums": 3}, "unknown key 'heads_nums'; did you mean 'heads_num'"),
    ({"heads_num": "3"}, "'heads_num' must be int, not \"3\""),
    ('{"dropout": NaN}', "'dropout' must be float, not NaN"),
    ({"heads_num": 10 ** 30}, "'heads_num' must be int, not 10+"),
    ({"heads_num": True}, "'heads_num' must be int, not true"),
    ({"heads_num": 2.5}, "'heads_num' must be int, not 2.5"),
    ({"mask": "none"}, "mask in --config_path: 'none' is unknown"),
])
def test_bad_files_name_the_file_and_the_key(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        parse("--pie_path", "x", "--config_path", path)
    assert path in str(error.value) or "--config_path" in str(error.value)


def test_contradictions_are_gathered_and_raised_once(tmp_path):
    path = write(tmp_path, {"emb_size": 32, "hidden_size": 37, "heads_num": 7})
    argv = [*REQUIRED_FLAGS, "--config_path", path, "--total_steps", "0", "--gpu_ranks", "0", "5"]
    with pytest.raises(UserError) as error:
        cli.parse("A test.", (ModelConfig, TrainConfig, ParallelConfig), argv)
    for part in ("hidden_size 37 is not divisible", "emb_size 32 differs", "--total_steps must be", "--gpu_ranks must"):
        assert part in str(error.value)


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="--encoder: 'mamba' is unknown; choose from: transformer"):
        cli.parse("A test.", (ModelConfig,), ["--encoder", "mamba"])


@pytest.mark.parametrize("streams, message", [
    ({}, "encoder 'dual' needs stream_0 and stream_1 in --config_path"),
    ({"encoder": "transformer"}, "encoder 'dual' and embedding 'dual' need one another"),
    ({"stream_0": {"kernal_size": 3}}, r"stream_0: unknown key 'kernal_size'; did you mean 'kernel_size'\?"),
    ({"stream_1": {"layers_num": "2"}}, "stream_1: 'layers_num' must be int"),
    ({"stream_0": {"mask": "half"}}, "mask in --config_path: 'half' is unknown"),
    ({"stream_0": {}, "stream_1": {}}, "stream_0 and stream_1 must each name an encoder and embeddings other than"),
    ({"stream_0": STREAM, "stream_1": {**STREAM, "encoder": "lstn"}}, "encoder: 'lstn' is unknown; choose from: tra"),
    ({"stream_0": STREAM, "stream_1": {**STREAM, "heads_num": 5}}, "stream_1: hidden_size 24 is not divisible by"),
    ({"stream_0": STREAM, "stream_1": {**STREAM, "layers_num": 0}}, "stream_1: layers_num must lie between 1 and"),
    ({"stream_0": STREAM, "stream_1": {**STREAM, "encoder": "gatedcnn", "kernel_size": 0}}, "stream_1: kernel_size"),
    ({"stream_0": STREAM, "stream_1": {**STREAM, "hidden_size": 36, "emb_size": 36}}, "must have one hidden_size, not"),
    ({"stream_0": STREAM, "stream_1": {**STREAM, "dropout": 0.2}, "tie_weights": True}, "but their settings differ")])
def test_the_streams_of_a_dual_encoder_are_checked(tmp_path, streams, message):
    path = write(tmp_path, {"encoder": "dual", "embedding": ["dual"], **streams})
    with pytest.raises(UserError, match=message):
        cli.parse("A test.", (ModelConfig, TrainConfig), [*REQUIRED_FLAGS, "--config_path", path])


def test_a_stream_overrides_the_rest_and_can_be_hashed(tmp_path):
    own = {**STREAM, "encoder": "gatedcnn", "kernel_size": 7, "vocab_size": 9, "remove_embedding_layernorm": "false"}
    both = {"encoder": "dual", "embedding": "dual", "stream_0": STREAM, "stream_1": own}
    path = write(tmp_path, {**both, "dropout": 0.3})
    model = cli.parse("A test.", (ModelConfig, TrainConfig), [*REQUIRED_FLAGS, "--config_path", path])[0]
    first, second = model.stream(0), model.stream(1)
    assert (first.encoder, first.embedding, first.hidden_size, first.dropout) == ("transformer", ("word",), 24, 0.3)
    assert second.of(GatedCnnConfig).kernel_size == 7 and second.stream(1) is second
    assert second.remove_embedding_layernorm is False  # as UER-py's files have it
    assert len({model: 0, first: 1, second: 2}) == 3
    assert from_json(ModelConfig, json.loads(json.dumps(model.values())), "x") == model


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240,
                          cwd=Path(__file__).resolve().parent.parent)


@pytest.mark.parametrize("raised, status, shown", [
    ("UserError('bad flag')", 2, "error: bad flag\n"),
    ("OSError(28, 'No space left on device', 'a.bin')", 2, "error: a.bin: No space left on device\n"),
    ("KeyboardInterrupt()", 130, "interrupted\n"),
])
def test_run_turns_what_a_user_can_mend_into_one_line(raised, status, shown):
    code = f"from uer import cli\nfrom uer.errors import UserError\ndef main(): raise {raised}\ncli.run(main)"
    done = run_python(code)
    assert (done.returncode, done.stderr) == (status, shown)


def test_run_turns_a_lack_of_memory_into_one_line(monkeypatch, capsys):
    """As of a prediction script, which has no ranks that would describe it."""
    monkeypatch.setenv("GOMP_SPINCOUNT", "1")  # so that nothing else is set

    def main():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: out of memory: CUDA out of memory; a smaller --batch_size")


def test_run_keeps_the_traceback_of_a_bug():
    done = run_python("from uer import cli\ndef main(): raise KeyError('x')\ncli.run(main)")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_mistyped_flag_waits_for_no_torch():
    """Of preprocess.py. A model's settings come from its parts, which import torch: pretrain.py has to wait for it."""
    done = run_python("import sys, preprocess, uer.errors\nsys.argv = ['preprocess.py', '--bogus']\n"
                      "try:\n    preprocess.main()\nexcept uer.errors.UserError:\n    print('torch' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_help_shows_defaults_but_no_empty_ones(capsys):
    @dataclasses.dataclass(frozen=True)
    class Part:
        """A section"""

        size: str = flag("", "Such as 5GB.")
        rate: float = flag(0.0, "A number.")

    with pytest.raises(SystemExit):
        cli.parse("A test.", (Part,), ["--help"])
    shown = capsys.readouterr().out
    assert "Such as 5GB.\n" in shown and "A number. (default: 0.0)" in shown


def test_every_setting_is_read_or_says_that_it_is_not(root):
    """A field that the sources never name is accepted for the sake of UER-py's commands."""
    paths = [*root.glob("*.py"), *(root / "uer").rglob("*.py")]
    words = {word for path in paths if path.name not in ("config.py", "model_config.py")
             for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    sections = [known for known in vars(config).values() if dataclasses.is_dataclass(known)]
    for section in [*sections, *(part for known in sections for part in member_classes(known))]:
        for field in dataclasses.fields(section):
            if "help" not in field.metadata:
                assert field.name == "members"
                continue
            unread = field.metadata["help"].startswith("Accepted for")
            read = field.name.removeprefix("tgt_") if section is config.TokenizerConfig else field.name  # `of_side`
            assert unread or read in words, field.name


def test_settings_of_members_are_flags_and_keys_and_go_where_they_belong(tmp_path):
    """The lm target's bias is a flag of every command with a model; processors' settings are preprocess.py's."""
    path = write(tmp_path, {"has_lmtarget_bias": True, "label_smoothing": 0.25, "target": ["lm"]})
    model = cli.parse("A test.", (ModelConfig, TrainConfig), [*REQUIRED_FLAGS, "--config_path", path])[0]
    assert (model.of(LmConfig).has_lmtarget_bias, model.of(LmConfig).label_smoothing) == (True, 0.25)
    assert model.values()["has_lmtarget_bias"] and "members" not in model.values()
    assert from_json(ModelConfig, json.loads(json.dumps(model.values())), "x") == model
    given = [*REQUIRED_FLAGS, "--config_path", path, "--no-has_lmtarget_bias"]
    assert not cli.parse("A test.", (ModelConfig, TrainConfig), given)[0].of(LmConfig).has_lmtarget_bias
    flags = ["--corpus_path", "x", "--data_processor", "albert", "--short_seq_prob", "0.5"]
    assert cli.parse("A test.", (DatasetConfig,), flags)[0].of(PairConfig) == PairConfig(short_seq_prob=0.5)
    with pytest.raises(UserError, match="--short_seq_prob must lie between 0 and 1"):
        cli.parse("A test.", (DatasetConfig,), [*flags, "--short_seq_prob", "1.5"])
    with pytest.raises(UserError, match="label_smoothing must lie"):
        from_json(ModelConfig, {"target": ["lm"], "label_smoothing": 1.5}, "x")


def test_settings_that_earlier_versions_wrote_are_read():
    """Every key that a model's settings had beside a fine-tuned model before members had settings of their own."""
    old = {"bidirectional": False, "has_lmtarget_bias": False, "decoder": "transformer", "prefix_lm_loss": False,
           "target": ["mlm"], "heads_num": 6, "hidden_size": 48, "emb_size": 48}
    read = from_json(ModelConfig, old, "x")
    assert (read.heads_num, read.target, read.decoder) == (6, ("mlm",), "transformer")
    assert from_json(ModelConfig, json.loads(json.dumps(read.values())), "x") == read
