"""The program run as a user runs it, in a process of its own, with an eye on its memory."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import BLAS_THREADS

EXAMPLE = Path(__file__).parents[1] / "examples" / "batch_imaging.json"
WORKERS = 2
SAMPLE_EVERY_S = 0.25  # reading page tables stops a process for a moment
WATCHING_SHARE = 0.1  # of one core at most: the kernel walks page tables to count shared pages

_PROGRAM = "import sys; from batch_imaging.cli import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class CommandLineRun:
    """What a run took.

    Attributes
    ----------
    wall_s: from the start of the process to its end.
    peak_bytes: most memory of all its processes together; pages they share count once (PSS).
    summary: its own report/summary.json.
    """

    wall_s: float
    peak_bytes: int
    summary: dict[str, Any]

    def stage_s(self, prefix: str) -> float:
        """Return the seconds of all stages whose names begin with ``prefix``."""
        stages = self.summary["stages"]
        return float(sum(s["wall_s"] for s in stages if s["name"].startswith(prefix)))

    @property
    def worker_bytes(self) -> int:
        """Peak resident memory of the largest worker."""
        return int(max(self.summary["peak_rss_bytes"]))


def run_example(settings: Sequence[str] = ()) -> CommandLineRun:
    """Run examples/batch_imaging.json with two workers and ``settings``, "path=value".

    Raises
    ------
    RuntimeError: it failed; with what it said.
    """
    options = [option for setting in settings for option in ("--set", setting)]
    environment = {name: value for name, value in os.environ.items() if name != BLAS_THREADS}
    with (
        tempfile.TemporaryDirectory(prefix="batch-imaging-benchmark-") as folder,
        tempfile.TemporaryFile("w+") as messages,
    ):
        command = [sys.executable, "-c", _PROGRAM, "run", str(EXAMPLE), "--output", folder]
        command += ["--workers", str(WORKERS), *options]
        begin = time.perf_counter()
        with subprocess.Popen(
            command, env=environment, stdout=messages, stderr=subprocess.STDOUT
        ) as process:
            peak_bytes = _watch(process)
        wall_s = time.perf_counter() - begin
        if process.returncode != 0:
            messages.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{messages.read()}")
        (summary,) = Path(folder).glob("*/report/summary.json")
        return CommandLineRun(wall_s, peak_bytes, json.loads(summary.read_text()))


def _watch(process: subprocess.Popen[bytes]) -> int:
    """Return the most memory of a process and its children until it ends."""
    peak_bytes, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        begin = time.perf_counter()
        try:
            members = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            members = []
        peak_bytes = max(peak_bytes, sum(map(_proportional_bytes, members)))
        spent_s = time.perf_counter() - begin
        time.sleep(max(SAMPLE_EVERY_S, spent_s / WATCHING_SHARE))
    return peak_bytes


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # it has just ended
        return 0
    return int(getattr(memory, "pss", memory.uss))
