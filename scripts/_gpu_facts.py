"""What `check_gpu.py` found, a JSON line each, and the time that is left. Not a command. Imports no torch.

The sections run in a process that may die with its GPU; the process that watches it reads the same file.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "facts.jsonl"
PASS, FAIL, INFO, BEGIN = "PASS", "FAIL", "INFO", "BEGIN"


@dataclass
class Facts:
    """Records facts and prints them.

    Attributes:
        out: the folder of all files.
        section: which one runs.
        ends: when it has to be done, in seconds of `time.monotonic`, which all processes share.
    """

    out: Path
    section: str = ""
    ends: float = 0.0

    def begin(self, section: str, seconds: float) -> None:
        """A section begins that may take `seconds`."""
        self.section, self.ends = section, time.monotonic() + seconds
        self._write({"kind": BEGIN, "section": section, "ends": self.ends})

    def info(self, name: str, **figures: Any) -> None:
        """Something that is neither right nor wrong. `use` names flags that are faster here."""
        self._record(INFO, name, figures)

    def check(self, holds: bool, name: str, **figures: Any) -> bool:
        """Something that must hold; returns whether it does. `otherwise` names the flags that do without it."""
        self._record(PASS if holds else FAIL, name, figures)
        return holds

    def out_of_time(self, before: str, needed: float = 10.0) -> bool:
        """Whether fewer than `needed` seconds are left, and says so: what comes next is left out."""
        if time.monotonic() + needed < self.ends:
            return False
        self.info("out of time", before=before)
        return True

    def read(self) -> list[dict[str, Any]]:
        """All records so far; a last line that is not whole is left out."""
        path = self.out / FILE
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _record(self, kind: str, name: str, figures: dict[str, Any]) -> None:
        self._write({"kind": kind, "section": self.section, "name": name, **figures})
        known = {key: value for key, value in figures.items() if kind == FAIL or key != "otherwise"}
        print(f"{kind:4} {self.section:11} {name}: {shown(known)}".rstrip(": "), flush=True)

    def _write(self, record: dict[str, Any]) -> None:
        with open(self.out / FILE, "a") as file:
            file.write(json.dumps(record, default=str) + "\n")


def shown(figures: dict[str, Any]) -> str:
    """The figures of a fact for people.

    >>> shown({"step_ms": 1.23456, "at": ["a.py:3"]})
    "step_ms=1.235 at=['a.py:3']"
    """
    return " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                    for name, value in figures.items())
