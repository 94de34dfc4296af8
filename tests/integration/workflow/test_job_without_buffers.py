"""A process that cannot see the buffers leads a job: only its workers touch them.

Buffers are relative paths, and the workers stand in another directory than the process that leads.
"""

import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from distributed import Worker, WorkerPlugin

from batch_imaging.errors import DataError, EngineError, ResourceError
from batch_imaging.execution.engines.local import local_executor
from batch_imaging.execution.executor import DaskExecutor, SerialExecutor
from batch_imaging.execution.progress import Progress
from batch_imaging.pipelines.batch import Buffers, RunIdentity
from batch_imaging.pipelines.simulate import run_simulation
from batch_imaging.workflow.job import Job

pytestmark = pytest.mark.integration

IDENTITY = RunIdentity("pb-test-20200523-00001", "eb-test-20200523-00001")


@pytest.fixture(scope="module")
def executor():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1590323400")  # equal products have equal bytes
        with local_executor(2, 2**30) as dask_executor:
            yield dask_executor


@pytest.fixture
def mounted(executor, tmp_path, monkeypatch) -> Path:
    """The directory in which the workers stand; this process stands in an empty one."""
    mounted, empty = tmp_path / "mounted", tmp_path / "empty"
    for folder in (mounted / "vis", mounted / "img", empty):
        folder.mkdir(parents=True)
    executor.client.unregister_worker_plugin("worker-log")  # it comes again, after this one
    executor.client.register_plugin(StandIn(mounted))
    monkeypatch.chdir(empty)
    yield mounted
    assert list(empty.iterdir()) == []


class StandIn(WorkerPlugin):
    """Has every worker stand in a directory."""

    name = "stand-in"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def setup(self, worker: Worker) -> None:
        os.chdir(self._folder)


def make_job(parameters, parent: Path, **values) -> Job:
    buffers, progress = Buffers(parent / "vis", parent / "img"), Progress(show_bar=False)
    return Job(parameters, IDENTITY, buffers, "dask-ee", progress=progress, **values)


def test_products_are_those_of_a_process_that_sees_them(
    executor, mounted, tmp_path, make_parameters
):
    parameters = make_parameters(spectral={"enabled": True})
    page = make_job(parameters, Path()).run(nullcontext(executor))
    assert not page.exists()
    assert (mounted / page).is_file()
    seen = tmp_path / "seen"
    for name in ("vis", "img"):
        (seen / name).mkdir(parents=True)
    make_job(parameters, seen).run(nullcontext(executor))
    names = {path.relative_to(seen) for path in seen.rglob("*") if path.is_file()}
    assert {path.relative_to(mounted) for path in mounted.rglob("*") if path.is_file()} == names
    images = [name for name in names if name.suffix in (".fits", ".csv", ".png")]
    assert len(images) > 15
    for name in images:
        assert (mounted / name).read_bytes() == (seen / name).read_bytes(), name
    summary = json.loads((mounted / "img/report/summary.json").read_text())
    assert summary["outcome"] == "finished"


def test_images_of_an_input_are_led_by_a_worker(executor, mounted, make_parameters):
    parameters = make_parameters(
        nfreqwin=2, input={"buffer": "vis"}, image={"clean": False, "cellsize": 0.002, "moments": 5}
    )
    run_simulation(parameters, mounted / "vis", SerialExecutor(), Progress(show_bar=False))
    job = make_job(parameters, Path(), source=Path("vis"), limit_bytes=2**30)
    job.run(nullcontext(executor))
    assert mounted / "img/report.html" in job.products()
    assert all(path.is_file() for path in job.products())
    assert statuses(mounted) == {"done"}
    assert "imaging planes" in {stage.name for stage in job.progress.stages}
    job = make_job(parameters, mounted, source=mounted / "vis", limit_bytes=10**6)
    with pytest.raises(ResourceError, match=r"a worker takes about .* and may have 1 MB"):
        job.run(nullcontext(SerialExecutor()))
    assert "may have 1 MB" in json.loads((mounted / "img/report/summary.json").read_text())["error"]
    assert "failure" in statuses(mounted)


def test_an_input_without_images_goes_through_ical(tmp_path, make_parameters):
    for name in ("vis", "img"):
        (tmp_path / name).mkdir()
    parameters = make_parameters(nfreqwin=2, input={"buffer": "vis"})
    run_simulation(parameters, tmp_path / "vis", SerialExecutor(), Progress(show_bar=False))
    job = make_job(parameters, tmp_path, source=tmp_path / "vis", limit_bytes=2**30)
    page = job.run(nullcontext(SerialExecutor()))
    assert page.is_file()
    assert len(job.sets) == 2
    assert (tmp_path / "img/ska_pipeline_ical_restored.fits").is_file()
    assert statuses(tmp_path) == {"done"}


def statuses(mounted: Path) -> set[str]:
    metadata = yaml.safe_load((mounted / "img/ska-data-product.yaml").read_text())
    return {file["status"] for file in metadata["files"]}


def test_a_failed_run_is_reported_and_leaves_nothing_half_done(
    executor, mounted, make_parameters, caplog
):
    caplog.set_level("INFO", "batch_imaging")
    (mounted / "vis/set_0.ms.partial").mkdir()
    (mounted / "img/image.fits.partial").touch()
    job = make_job(make_parameters(), Path(), sets=(Path("vis/absent.ms"),))
    with pytest.raises(DataError, match=r"absent\.ms"):
        job.run(nullcontext(executor))
    assert "What was reached is in img/report/index.html" in caplog.text
    assert "absent.ms" in json.loads((mounted / "img/provenance.json").read_text())["error"]
    assert not list(mounted.glob("*/*.partial"))


def test_a_report_that_cannot_be_written_hides_no_error(
    executor, mounted, make_parameters, caplog, monkeypatch
):
    def fail(self, deadline_s):
        raise EngineError("the Dask scheduler went away")

    monkeypatch.setattr(DaskExecutor, "abandon", fail)
    job = make_job(make_parameters(), Path(), sets=(Path("vis/absent.ms"),))
    with pytest.raises(DataError, match=r"absent\.ms"):
        job.run(nullcontext(executor))
    assert "no report of the failed run: the Dask scheduler went away" in caplog.text
