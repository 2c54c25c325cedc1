"""Log lines and metrics lines on disks and terminals that do not take them as they are."""

import json
import logging
import sys

import pytest

from uer.config import LogConfig
from uer.runtime.failures import describe
from uer.runtime.logs import BarHandler, set_up_logging
from uer.runtime.metrics_writer import MetricsWriter


def test_a_name_that_is_not_utf_8_is_logged_with_escapes(tmp_path, capsys):
    set_up_logging(LogConfig(log_path=str(tmp_path / "log"), log_level="ERROR"), "test of logs")
    logging.getLogger("test of logs").info("saved b\udcb5-12")
    assert (tmp_path / "log").read_text().endswith(" saved b\\udcb5-12\n")
    assert "Logging error" not in capsys.readouterr().err


@pytest.mark.parametrize(("errno", "status", "message"), [
    (28, 2, "standard output: No space left on device"), (32, 141, "")])
def test_standard_output_is_named_when_it_fails(monkeypatch, errno, status, message):
    class Failing:
        def write(self, text):
            raise OSError(errno, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Failing())
    with pytest.raises(OSError) as caught:
        BarHandler().emit(logging.makeLogRecord({"msg": "a line"}))
    assert (describe(caught.value).status, describe(caught.value).message) == (status, message)


@pytest.mark.parametrize(("end", "kept"), [
    ('{"kind": "train", "step": 2, "lo', ""), ('{"ki', ""), ("notes of mine", "notes of mine"), ("", "")])
def test_metrics_go_on_behind_the_last_whole_line(tmp_path, end, kept):
    """A full disk cuts a line off; a file of the user's keeps its own last line."""
    path = tmp_path / "m.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n' + end)
    writer = MetricsWriter(LogConfig(metrics_path=str(path)))
    writer.write("train", 2, {"loss": 1.0}, {})
    writer.close()
    record = json.dumps({"kind": "train", "step": 2, "loss": 1.0})
    assert path.read_text() == '{"kind": "train", "step": 1}\n' + kept + record + "\n"


def test_a_line_that_the_disk_takes_in_parts_is_written_whole(tmp_path):
    class Slow:
        written = b""

        def write(self, line):
            self.written += line[:7]
            return len(line[:7])

    writer = MetricsWriter(LogConfig())
    writer._file = Slow()
    writer.write("train", 2, {"loss": 1.0}, {})
    assert json.loads(writer._file.written) == {"kind": "train", "step": 2, "loss": 1.0}
