"""preprocess.py as a user runs it: what it prints, its status, and that bad input is one clear line."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.processes import wait_for
from uer.data.store import open_dataset

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc北京"]


@pytest.fixture
def command(root, tmp_path):
    """`command("--flag", ...)` -> the arguments of a run on tmp_path/corpus.txt with a small vocabulary."""
    (tmp_path / "vocab.txt").write_text("".join(f"{entry}\n" for entry in VOCAB), encoding="utf-8")
    (tmp_path / "corpus.txt").write_text("北京 a\n\nb c\n", encoding="utf-8")

    def arguments(*flags: str) -> list[str]:
        usual = ["--corpus_path", "corpus.txt", "--vocab_path", "vocab.txt", "--data_processor", "mlm"]
        return [sys.executable, str(root / "preprocess.py"), *usual, *flags]

    return arguments


def _run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=240)


def test_a_run_writes_the_default_file_and_sums_up(command, tmp_path):
    done = _run(command("--processes_num", "2", "--seq_length", "4", "--dynamic_masking"), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    dataset = open_dataset(tmp_path / "dataset.pt")
    assert [dataset[i].tolist() for i in range(len(dataset))] == [[2, 8, 9, 5], [3], [2, 6, 7, 3]]
    assert "--processes_num" not in dataset.info.command and dataset.info.command.startswith("preprocess.py --corpus")
    assert "documents: 2 (1 blank line skipped)" in done.stdout
    assert "instances of up to 4 tokens: 3, of them full: 2 (66.7%)" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.txt", "dataset.pt", "vocab.txt"]


def test_it_starts_without_torch(command, tmp_path):
    flags = command()
    code = f"import sys, runpy; sys.argv = {flags[1:]!r}; runpy.run_path({flags[1]!r}, run_name='__main__'); "
    done = _run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(flags[1]).parent)!r}); {code}"
                                       "sys.exit('torch' in sys.modules)"], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("flags", "message"), [
    (("--data_processor", "nsp"), "--data_processor: 'nsp' is unknown; choose from: bert, mlm"),
    (("--corpus_path", "none.txt"), "--corpus_path none.txt: No such file or directory"),
    (("--corpus_path", "vocab.txt", "corpus.txt", "--encoding_errors", "ignore"), "--encoding_errors: 'ignore'"),
    (("--vocab_path", "corpus.txt"), "corpus.txt"),
    (("--dataset_path", "corpus.txt/d.pt"), "--dataset_path corpus.txt/d.pt: corpus.txt cannot be written to: "),
    (("--user_dict", "none.dict", "--whole_word_masking"), "--user_dict none.dict: No such file"),
    (("--seq_length", "3"), "--seq_length must be at least 4"),
])
def test_bad_input_is_one_line_and_status_2(flags, message, command, run_forked, tmp_path):
    if "--whole_word_masking" in flags:
        pytest.importorskip("jieba")
    done = run_forked("preprocess.py", *command(*flags)[2:], cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def _start_long_run(command, tmp_path) -> subprocess.Popen:
    (tmp_path / "corpus.txt").write_text("北京 a b\n" * 2_000_000, encoding="utf-8")
    process = subprocess.Popen(command("--processes_num", "2"), cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_heed_ctrl_c)
    wait_for(lambda: list(tmp_path.glob("dataset.pt.work-*/*.json")) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process


def _heed_ctrl_c() -> None:
    """As in a terminal. A shell starts background jobs, these tests among them, with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_it_with_status_130_and_no_traceback(command, tmp_path):
    process = _start_long_run(command, tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == "interrupted\n"
    assert not (tmp_path / "dataset.pt").exists()


def test_workers_leave_when_the_command_is_killed(command, tmp_path):
    process = _start_long_run(command, tmp_path)
    lock = tmp_path / "dataset.pt.lock"
    process.kill()
    process.communicate(timeout=120)
    wait_for(lambda: not _held(lock))


def _held(lock: Path) -> bool:
    """Whether some process still has the lock that workers share with the command that started them."""
    with open(lock, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
