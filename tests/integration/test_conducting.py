"""A flow led by a worker: its units on the others, its stages told, its end and its failure."""

import os
import signal

import pytest

from batch_imaging.errors import DataError
from batch_imaging.execution.conducting import conduct
from batch_imaging.execution.engines.local import local_executor
from batch_imaging.execution.executor import SerialExecutor
from batch_imaging.execution.progress import Progress

pytestmark = pytest.mark.integration


def flow(executor, progress, mark):
    if not mark.exists():
        mark.touch()
        if not isinstance(executor, SerialExecutor):
            os.kill(os.getpid(), signal.SIGKILL)
    with progress.stage("doubling", 3) as bar:
        return list(bar.track(executor.map(double, [0, 1, 2]))), os.getpid()


def double(number):
    return 2 * number


def fail(executor, progress):
    raise DataError("a.ms: no data")


def test_a_leader_that_dies_is_followed_by_another(tmp_path):
    told = []
    progress = Progress(lambda *stage: told.append(stage), show_bar=False)
    with local_executor(1, 2**30) as executor:
        result, leader = conduct(executor, progress, flow, tmp_path / "mark")
        assert (tmp_path / "mark").exists()
        assert result == [0, 2, 4]
        assert leader != os.getpid()
        assert [stage.name for stage in progress.stages] == ["doubling"]
        assert ("doubling", 1.0) in told
        with pytest.raises(DataError, match=r"a\.ms: no data"):
            conduct(executor, progress, fail)


def test_without_workers_this_process_leads(tmp_path):
    progress = Progress(show_bar=False)
    result, leader = conduct(SerialExecutor(), progress, flow, tmp_path / "mark")
    assert (result, leader) == ([0, 2, 4], os.getpid())
