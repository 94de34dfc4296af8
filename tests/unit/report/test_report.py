"""The report of a small run: whole, half-way and without anything."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from astropy.io import fits

from batch_imaging.execution.executor import SerialExecutor
from batch_imaging.execution.progress import Progress
from batch_imaging.parameters import load_parameters, parameter_hash
from batch_imaging.pipelines.batch import BatchResult, Buffers, RunIdentity, run_pipelines
from batch_imaging.report import RunRecord, declare_products, write_report
from batch_imaging.report.data_product import execution_block_id
from batch_imaging.report.fingerprint import take_fingerprint
from batch_imaging.report.provenance import git_commit

PARAMETERS = load_parameters(
    {
        "rmax": 300.0,
        "nfreqwin": 3,
        "ntimes": 2,
        "imaging": {"npixel": 256, "cellsize": 0.001},
        "simulation": {"noise": 0.1, "flux_limit": 5.0},
    }
)
IDENTITY = RunIdentity("pb-test-20200523-00001", "eb-test-20200523-00001", "")
PNG = b"\x89PNG\r\n\x1a\n"
VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Checks that elements nest, and collects addresses and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.words, self.ids = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def run_serially(parameters, folder):
    buffers = Buffers(folder / "vis", folder / "img")
    buffers.vis.mkdir()
    buffers.img.mkdir()
    started = datetime.now(UTC)
    executor, progress, result = SerialExecutor(), Progress(show_bar=False), BatchResult()
    run_pipelines(parameters, buffers, IDENTITY, executor, progress, result)
    return RunRecord(
        parameters,
        IDENTITY,
        buffers,
        result,
        started,
        datetime.now(UTC),
        stages=tuple(progress.stages),
        peak_rss_bytes=executor.peak_rss_bytes,
        engine="serial",
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = run_serially(PARAMETERS, tmp_path_factory.mktemp("run"))
    return run, write_report(run)


def with_files_in(folder, ical):
    """The same result, its products in another folder."""
    return replace(ical, files={name: folder / path.name for name, path in ical.files.items()})


def failed_run(folder, result=None):
    buffers = Buffers(folder / "vis", folder / "img")
    buffers.img.mkdir()
    now = datetime.now(UTC)
    return RunRecord(
        PARAMETERS,
        RunIdentity("", ""),
        buffers,
        result or BatchResult(),
        now - timedelta(seconds=5),
        now,
        error="WorkerLost: no worker is left <in> cluster & so on",
    )


def test_page_needs_no_other_file_and_no_network(finished):
    _, path = finished
    text = path.read_text()
    page = Page(text)
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"@import|url\(|<script|<link", text)


def test_page_shows_everything_in_order(finished):
    _, path = finished
    page = Page(path.read_text())
    assert page.ids == [
        *("restored", "residual", "psf", "cycles", "gains", "phase_error"),
        *("channels", "spectra", "cut"),
    ]
    words = " ".join(page.words)
    for wanted in ("dynamic range", "brightest sources", "ICAL windows", "Stopped:", "Versions"):
        assert wanted in words
    assert "nan" not in words.lower().split()


def test_pictures_stand_beside_the_page(finished):
    _, path = finished
    pictures = sorted(path.parent.glob("*.png"))
    assert len(pictures) == 9
    for picture in pictures:
        content = picture.read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 5000


def test_summary_tells_the_truth(finished):
    run, path = finished
    summary = json.loads((path.parent / "summary.json").read_text())
    assert summary["outcome"] == "finished"
    assert len(summary["windows"]) == len(summary["channels"]) == 3
    window = summary["windows"][summary["chosen_window"]]
    n_vis = run.result.ical.observation.infos[0].n_rows
    assert window["thermal_noise_jy_per_beam"] == pytest.approx(0.1 / np.sqrt(n_vis), rel=1e-3)
    assert window["dynamic_range"] == pytest.approx(
        window["peak_jy_per_beam"] / window["rms_jy_per_beam"], rel=1e-5
    )
    assert summary["phase_error_rad"] <= summary["phase_error_with_shift_rad"]
    brightest = summary["sources"][0]
    assert brightest["ratio"] == pytest.approx(1, abs=0.02)
    assert summary["major_cycles"] == len(run.result.ical.cycles)


def test_provenance_names_and_hashes_everything(finished):
    run, _ = finished
    document = json.loads((run.buffers.img / "provenance.json").read_text())
    assert document["parameter_hash"] == parameter_hash(PARAMETERS)
    assert document["parameters"]["rmax"] == 300.0
    assert document["seeds"] == {"simulation": PARAMETERS.simulation.seed}
    assert {"python", "numpy", "ducc0", "radler", "dask"} <= set(document["versions"])
    assert len(document["inputs"]) == 3
    hashes = {product["name"]: product["sha256"] for product in document["products"]}
    path = run.result.ical.files["restored"]
    assert hashes[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {stage["name"] for stage in document["stages"]} >= {"simulation", "ical: windows"}
    assert not {"hostname", "node", "user"} & set(document["host"])


def test_data_product_goes_from_working_to_done(finished, tmp_path):
    run, _ = finished
    before = yaml.safe_load(
        declare_products(tmp_path, PARAMETERS, run.started, IDENTITY).read_text()
    )
    after = yaml.safe_load((run.buffers.img / "ska-data-product.yaml").read_text())
    assert before["interface"] == "http://schema.skao.int/ska-data-product-meta/0.1"
    for document, status in ((before, "working"), (after, "done")):
        assert set(document) == {
            *("interface", "execution_block", "context", "config", "files", "obscore"),
        }
        assert document["execution_block"] == IDENTITY.eb_id
        assert {file["status"] for file in document["files"]} == {status}
        assert document["obscore"]["dataproduct_type"] == "cube"
        assert document["obscore"]["s_dec"] == pytest.approx(-30)
    assert [f["path"] for f in before["files"]] == [f["path"] for f in after["files"]]
    for file in after["files"]:
        content = (run.buffers.img / file["path"]).read_bytes()
        assert file["size"] == -(-len(content) // 1000)
        assert re.fullmatch("[0-9a-f]{8}", file["crc"])
    obscore = after["obscore"]
    assert 2.5 < obscore["em_min"] < obscore["em_max"] < 3.6  # metres, 115 to 85 MHz
    assert obscore["t_min"] < obscore["t_max"]
    assert not list(run.buffers.img.rglob("*.partial"))


@pytest.mark.parametrize("with_simulation", [False, True])
def test_a_run_that_failed_is_reported_as_far_as_it_came(finished, tmp_path, with_simulation):
    result = BatchResult(simulation=finished[0].result.simulation) if with_simulation else None
    run = failed_run(tmp_path, result)
    declare_products(run.buffers.img, PARAMETERS, run.started, run.identity)
    path = write_report(run)
    page = Page(path.read_text())
    assert run.error in " ".join(page.words)
    assert page.ids == []
    summary = json.loads((path.parent / "summary.json").read_text())
    assert summary["outcome"] == "failed"
    assert summary["windows"] == []
    product = yaml.safe_load((run.buffers.img / "ska-data-product.yaml").read_text())
    status = {file["path"]: file["status"] for file in product["files"]}
    assert status["ska_pipeline_ical_restored.fits"] == "failure"
    assert status["report/index.html"] == "done"
    assert product["context"]["notes"] == run.error


def test_failed_in_spectral_imaging_keeps_the_images(finished, tmp_path):
    run = finished[0]
    partial = failed_run(tmp_path, BatchResult(run.result.simulation, run.result.ical))
    page = Page(write_report(partial).read_text())
    assert "restored" in page.ids
    assert "cut" not in page.ids


def test_without_truth_nothing_is_compared_with_it(finished, tmp_path):
    run = finished[0]
    (tmp_path / "img").mkdir()
    given = RunRecord(
        PARAMETERS,
        IDENTITY,
        Buffers(run.buffers.vis, tmp_path / "img"),
        run.result,
        run.started,
        run.finished,
        sets=run.result.simulation.sets,
    )
    path = write_report(given)
    summary = json.loads((path.parent / "summary.json").read_text())
    assert summary["phase_error_rad"] is None
    assert summary["sources"] == []
    assert "phase_error" not in Page(path.read_text()).ids


def test_products_of_an_earlier_run_are_not_claimed(finished, tmp_path):
    shutil.copytree(finished[0].buffers.img, tmp_path, dirs_exist_ok=True)
    stale = tmp_path / finished[0].result.spectral.files["total_cube"].name
    ical = with_files_in(tmp_path, finished[0].result.ical)
    result = replace(finished[0].result, ical=ical, spectral=None)
    buffers = replace(finished[0].buffers, img=tmp_path)
    page = write_report(replace(finished[0], buffers=buffers, result=result))
    product = yaml.safe_load((tmp_path / "ska-data-product.yaml").read_text())
    status = {file["path"]: file["status"] for file in product["files"]}
    assert status[stale.name] == "failure"
    assert status[ical.files["restored"].name] == "done"
    document = json.loads((tmp_path / "provenance.json").read_text())
    names = [product["name"] for product in document["products"]]
    assert sorted(names) == sorted(
        path.name for made in (ical, result.simulation) for path in made.files.values()
    )
    assert stale.name not in page.read_text()


def test_an_empty_sky_is_reported(tmp_path):
    """Without sources and noise all images are zero: no scale, no dynamic range, no phases."""
    parameters = PARAMETERS.model_copy(
        update={
            "simulation": PARAMETERS.simulation.model_copy(
                update={"noise": 0.0, "flux_limit": 2000.0}
            )
        }
    )
    run = run_serially(parameters, tmp_path)
    page = Page(write_report(run).read_text())
    assert {"restored", "residual", "psf", "channels", "cut"} <= set(page.ids)
    assert "nan" not in " ".join(page.words).lower().split()
    summary = json.loads((run.buffers.img / "report" / "summary.json").read_text())
    assert {window["peak_jy_per_beam"] for window in summary["windows"]} == {0.0}
    assert {window["dynamic_range"] for window in summary["windows"]} == {None}
    assert summary["sources"] == []


@pytest.mark.parametrize("good", [0, 1])
def test_windows_without_data_are_reported(finished, tmp_path, good):
    """All windows but one are blank, the middle one, which has images of its own, or another."""
    run = finished[0]
    shutil.copytree(run.buffers.img, tmp_path, dirs_exist_ok=True)
    ical = with_files_in(tmp_path, run.result.ical)
    blank = [index for index in range(len(ical.windows)) if index != good]
    nan = {"beam": None, "peak_jy": np.nan, "rms_jy": np.nan, "weight": 0.0}
    windows = tuple(replace(w, **nan) if i in blank else w for i, w in enumerate(ical.windows))
    for name in ("restored_cube", "residual_cube"):
        with fits.open(ical.files[name], mode="update") as hdus:
            hdus[0].data[0, blank] = np.nan
    spectral = replace(
        run.result.spectral,
        channels=tuple(
            replace(c, beam=None, peak_jy=np.nan, rms_jy=np.nan) if i in blank else c
            for i, c in enumerate(run.result.spectral.channels)
        ),
    )
    result = replace(run.result, ical=replace(ical, windows=windows), spectral=spectral)
    page = write_report(replace(run, buffers=replace(run.buffers, img=tmp_path), result=result))
    summary = json.loads((page.parent / "summary.json").read_text())
    assert [window["rms_jy_per_beam"] is None for window in summary["windows"]] == [
        index in blank for index in range(3)
    ]
    shown = Page(page.read_text())
    assert ("restored" in shown.ids) == (good == 1)
    assert "nan" not in " ".join(shown.words).lower().split()


def test_fingerprint_of_a_folder_depends_on_names_and_bytes(tmp_path):
    folder = tmp_path / "a.ms"
    (folder / "SUB").mkdir(parents=True)
    (folder / "table.dat").write_bytes(b"12")
    (folder / "SUB" / "x").write_bytes(b"345")
    mark = take_fingerprint(folder)
    assert mark.size_bytes == 5
    by_hand = hashlib.sha256(b"SUB/x\x003\x00345table.dat\x002\x0012").hexdigest()
    assert mark.sha256 == by_hand
    (folder / "SUB" / "x").rename(folder / "SUB" / "y")
    assert take_fingerprint(folder).sha256 != by_hand
    whole = take_fingerprint(folder / "table.dat")
    assert (whole.sha256, whole.crc32) == (hashlib.sha256(b"12").hexdigest(), "4f5344cd")


def test_execution_block_without_a_control_system():
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert execution_block_id(RunIdentity("", ""), started) == "eb-local-20260102-11045"
    assert execution_block_id(IDENTITY, started) == IDENTITY.eb_id


def test_git_commit_is_a_commit_or_none():
    commit = git_commit()
    assert commit is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", commit)
