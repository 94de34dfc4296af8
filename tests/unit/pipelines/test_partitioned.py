"""Partitioned imaging: the same images however data are cut, done once, and killed at any point."""

import json
import os
import subprocess
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from astropy.io import fits

from batch_imaging.cli import main
from batch_imaging.errors import DataError, ParameterError, ProductError
from batch_imaging.execution.dagman import write_dag
from batch_imaging.execution.executor import SerialExecutor
from batch_imaging.execution.graph import run_graph
from batch_imaging.execution.progress import Progress
from batch_imaging.execution.slurm_array import write_slurm_arrays
from batch_imaging.io.measurement_set import write_measurement_set
from batch_imaging.model.direction import Direction
from batch_imaging.parameters import load_parameters
from batch_imaging.pipelines.partitioned.graph import find_node, make_graph
from batch_imaging.pipelines.partitioned.partition import (
    Part,
    plan_partition,
    read_part,
    write_parts,
)
from batch_imaging.pipelines.partitioned.plan import make_plan, read_plan
from batch_imaging.pipelines.partitioned.steps import run_node, stopped_because, write_plan

FREQ_HZ = 150e6 + 2e6 * np.arange(6)
SETTINGS = ["imaging.npixel=96", "imaging.cellsize=0.0015", "ical.nmajor=2", "ical.niter=200"]


@pytest.fixture
def one_set(tmp_path, make_block):
    block = make_block(FREQ_HZ, n_times=6)
    block.weight[5] = 0
    path = tmp_path / "a.ms"
    write_measurement_set(path, block)
    return path


def whole_bytes(one_set):
    return plan_partition([one_set], "time", 1e12).parts[0].n_bytes


def make(one_set, folder, by="time", parts=1, weighting="natural", *, real=False, settings=()):
    """Write the plan of a workflow of so many parts."""
    max_bytes = 1.001 * whole_bytes(one_set) / parts
    partition = plan_partition([one_set], by, max_bytes, real=real)
    assert len(partition.parts) == parts
    parameters = load_parameters({}, [*SETTINGS, f"imaging.weighting={weighting}", *settings])
    folder.mkdir(exist_ok=True)
    plan = make_plan(partition, parameters)
    write_plan(plan, folder)
    return plan


def run(plan, folder):
    run_graph(make_graph(plan), run_node, folder, SerialExecutor(), Progress())


def arrays(path):
    with np.load(path) as stored:
        return dict(stored)


@pytest.mark.parametrize(
    ("weighting", "by", "real"),
    [("natural", "time", False), ("uniform", "channel", True), ("robust", "baseline", False)],
)
def test_images_do_not_depend_on_the_parts(one_set, tmp_path, weighting, by, real):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(make(one_set, whole, weighting=weighting), whole)
    run(make(one_set, cut, by, 3, weighting, real=real), cut)
    assert len(list(cut.glob("residual-01-*.npz"))) == 3
    dirty, same = (arrays(folder / "residual-00.npz")["pixels"] for folder in (whole, cut))
    assert np.abs(same - dirty).max() < 1e-6 * np.abs(dirty).max()
    model, components = (arrays(folder / "model-03.npz") for folder in (whole, cut))
    assert len(model["pixels"]) > 2
    np.testing.assert_array_equal(components["pixels"], model["pixels"])
    np.testing.assert_allclose(components["terms_jy"], model["terms_jy"], atol=1e-4)
    assert stopped_because(cut)[0] == stopped_because(whole)[0] == 2
    assert fits.getdata(cut / "restored.fits").max() == pytest.approx(3.0, rel=0.1)


def test_every_sample_is_in_one_part(one_set, tmp_path):
    (everything,) = plan_partition([one_set], "time", 1e12).parts
    whole, _ = read_part(everything, "DATA")
    for by in ("time", "channel", "baseline"):
        partition = plan_partition([one_set], by, everything.n_bytes / 4)
        blocks = [read_part(part, "DATA")[0] for part in partition.parts]
        assert sum(block.vis.size for block in blocks) == whole.vis.size
        assert max(b.vis.size for b in blocks) <= whole.vis.size / 4
        weights = np.concatenate([block.weight.ravel() for block in blocks])
        np.testing.assert_array_equal(np.sort(weights), np.sort(whole.weight.ravel()))


def test_a_real_part_holds_what_a_virtual_one_does(one_set, tmp_path):
    partition = plan_partition([one_set], "baseline", whole_bytes(one_set) / 2, real=True)
    write_parts(partition, tmp_path)
    virtual, _ = read_part(partition.parts[1], "DATA")
    real, _ = read_part(Part(tmp_path / partition.file_of(1)), "DATA")
    for name in ("vis", "weight", "uvw_m", "time_mjd_s", "antenna1", "freq_hz"):
        np.testing.assert_array_equal(getattr(virtual, name), getattr(real, name))


def test_what_is_done_is_done_once(one_set, tmp_path):
    folder = tmp_path / "work"
    plan = make(one_set, folder, parts=2)
    run(plan, folder)
    grid = find_node(plan, "grid", 0, 1)
    assert not run_node(grid, folder)
    assert make(one_set, folder, parts=2) == plan
    assert (folder / "restored.fits").exists()
    (folder / "psf-0001.npz").unlink()
    assert run_node(grid, folder)
    one_set.joinpath("table.f1").touch()
    assert run_node(grid, folder)
    plan = make(one_set, folder, parts=2, settings=["ical.niter=100"])
    assert {path.name for path in folder.iterdir()} == {"plan.json"}


def test_a_job_that_is_ended_leaves_nothing_half_written(one_set, tmp_path, monkeypatch):
    plan = make(one_set, tmp_path / "work", parts=2)
    folder, quiet = tmp_path / "work", tmp_path / "quiet"
    grid = find_node(plan, "grid", 0, 0)
    savez = np.savez

    def ended_at_the_second(stream, **arrays):
        if (folder / "psf-0000.npz").exists():
            stream.write(b"PK")
            raise SystemExit(143)
        savez(stream, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", ended_at_the_second)
        with pytest.raises(SystemExit):
            run_node(grid, folder)
    assert {path.name for path in folder.iterdir()} == {"plan.json", "psf-0000.npz"}
    assert run_node(grid, folder)
    make(one_set, quiet, parts=2)
    run_node(grid, quiet)
    for name in grid.outputs:
        assert (folder / name).read_bytes() == (quiet / name).read_bytes()


def test_dag_orders_what_nodes_read_after_what_writes_it(one_set, tmp_path):
    plan = make(one_set, tmp_path, "channel", 3, "robust", real=True)
    write_dag(make_graph(plan), tmp_path, tmp_path / "batch-imaging")
    main_lines = [line.split() for line in (tmp_path / "main.dag").read_text().splitlines()]
    dags = {words[2]: words[3] for words in main_lines if words[0] == "SUBDAG"}
    assert list(dags) == ["density", "cycle-00", "cycle-01", "cycle-02"]
    assert ["SCRIPT", "PRE", "cycle-01", "status-is", "continues", "status-00.json"] in main_lines
    assert ["PRE_SKIP", "cycle-01", "1"] in main_lines
    order = ["partition", *dags]
    assert [w for w in main_lines if w[0] == "PARENT"] == [
        ["PARENT", one, "CHILD", next_one] for one, next_one in pairwise(order)
    ]
    there = {"plan.json", str(one_set)}
    for file in ("main.dag", *dags.values()):
        lines = (tmp_path / file).read_text().splitlines()
        parents = {c: w[1 : w.index("CHILD")] for w in map(str.split, lines) if w[0] == "PARENT"
                   for c in w[w.index("CHILD") + 1 :]}  # fmt: skip
        jobs = [line.split()[1] for line in lines if line.startswith("JOB")]
        for node in make_graph(plan).nodes():
            if node.name in jobs:
                assert set(node.inputs) <= there
                assert set(parents.get(node.name, ())) <= set(jobs[: jobs.index(node.name)])
                there |= set(node.outputs)
    assert "restored.fits" in there


def test_slurm_arrays_have_a_task_for_each_part(one_set, tmp_path):
    plan = make(one_set, tmp_path, parts=3)
    submit = write_slurm_arrays(make_graph(plan), tmp_path, tmp_path / "batch imaging")
    grid = (tmp_path / "slurm" / "subtract-01.sbatch").read_text()
    assert "#SBATCH --array=0-2\n" in grid
    assert "./status-is continues status-00.json || exit 0" in grid
    assert grid.endswith('unit subtract --cycle 1 --part "$SLURM_ARRAY_TASK_ID"\n')
    for script in (submit, *tmp_path.glob("slurm/*")):
        subprocess.run(["bash", "-n", script], check=True)
    (tmp_path / "status-00.json").write_text(json.dumps({"status": "continues"}, indent=1))
    ask = [tmp_path / "status-is", "continues"]
    assert subprocess.run([*ask, tmp_path / "status-00.json"], check=False).returncode == 0
    assert subprocess.run([*ask, tmp_path / "status-01.json"], check=False).returncode == 1


def test_bad_input_is_named(one_set, tmp_path, make_block):
    with pytest.raises(ParameterError, match="into all it can be, 6, parts are larger"):
        plan_partition([one_set], "time", 1000)
    with pytest.raises(DataError, match="no column MODEL_DATA"):
        plan_partition([one_set], "time", 1e12, column="MODEL_DATA")
    with pytest.raises(DataError, match="--field moon: no such field"):
        plan_partition([one_set], "time", 1e12, field="moon")
    with pytest.raises(ParameterError, match="same name"):
        plan_partition([one_set, one_set], "time", 1e12)
    elsewhere = replace(make_block(FREQ_HZ), phase_centre=Direction(1.0, -0.5))
    write_measurement_set(tmp_path / "b.ms", elsewhere)
    with pytest.raises(DataError, match="another phase centre"):
        plan_partition([one_set, tmp_path / "b.ms"], "time", 1e12)
    plan = make(one_set, tmp_path / "work")
    with pytest.raises(ProductError, match=r"sum-00: its input .*psf-0000.npz is not there"):
        run_node(find_node(plan, "sum", 0, None), tmp_path / "work")
    with pytest.raises(ParameterError, match="no such cycle or part"):
        find_node(plan, "grid", 0, 7)
    with pytest.raises(ParameterError, match="this workflow has none; it has grid, sum"):
        find_node(plan, "gird", 0, 7)
    with pytest.raises(ParameterError, match="is no plan"):
        read_plan(tmp_path)


def test_commands(one_set, tmp_path, capsys):
    parts = tmp_path / "parts"
    assert main(["partition", str(one_set), "-o", str(parts), "--max-size", "30kB"]) == 0
    manifest = json.loads((parts / "manifest.json").read_text())
    assert len(manifest["parts"]) > 1
    assert manifest["sets"][0]["path"] == str(one_set)
    work = tmp_path / "work"
    arguments = ["dag", str(one_set), "-o", str(work), *(f"--set={s}" for s in SETTINGS)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(work / "main.dag")
    assert main(["unit", "partition", "--folder", str(work)]) == 0
    assert main(["unit", "grid", "--cycle", "0", "--part", "0", "--folder", str(work)]) == 0
    assert main([*arguments, "--run", "--engine", "serial", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(work / "psf.fits")
    assert os.access(work / "status-is", os.X_OK)
