"""Each workflow for scripts gives the same, serially and as a graph on Dask."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from distributed import Client, LocalCluster

from batch_imaging.errors import ClusterStartTimeout, DataError
from batch_imaging.execution import delayed, rsexecute
from batch_imaging.model.direction import Direction
from batch_imaging.pipelines import (
    SkyPartition,
    calibrate_list_rsexecute_workflow,
    coalesce_list_rsexecute_workflow,
    continuum_imaging_list_rsexecute_workflow,
    corrupt_list_rsexecute_workflow,
    create_image_from_visibility,
    create_skycomponent,
    deconvolve_list_rsexecute_workflow,
    ical_list_rsexecute_workflow,
    insert_skycomponent,
    invert_list_rsexecute_workflow,
    mpccal_skymodel_list_rsexecute_workflow,
    predict_list_rsexecute_workflow,
    residual_list_rsexecute_workflow,
    simulate_list_rsexecute_workflow,
    spectral_line_imaging_list_rsexecute_workflow,
    taper_list_rsexecute_workflow,
    weight_list_rsexecute_workflow,
)

pytestmark = pytest.mark.integration

CENTRE = Direction.from_degrees(15.0, -60.0)
SKY = create_skycomponent(CENTRE, 10.0, [1e8])
CLEANING = {"nmajor": 2, "deconvolve_facets": 2, "deconvolve_overlap": 8, "restore_facets": 2}


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


@pytest.fixture(params=["serial", "dask"])
def mode(request, client):
    rsexecute.set_client(client, use_dask=request.param == "dask")
    yield request.param
    rsexecute.close()


def simulate():
    return simulate_list_rsexecute_workflow(
        phasecentre=CENTRE, frequency=[1e8, 1.1e8], times=[-0.2, 0.2], rmax=120.0
    )


def empty_images(vis_list):
    return [rsexecute.execute(create_image_from_visibility)(v, 64, 0.004) for v in vis_list]


def observed():
    """Return visibilities through bad gains, and images with the source."""
    empty = simulate()
    full = [rsexecute.execute(insert_skycomponent)(m, SKY) for m in empty_images(empty)]
    predicted = predict_list_rsexecute_workflow(empty, full, context="timeslice", vis_slices=2)
    return corrupt_list_rsexecute_workflow(predicted, phase_error=0.3), full


def invert(dopsf=False):
    vis_list, full = observed()
    (weighted, _) = weight_list_rsexecute_workflow(vis_list, full, weighting="robust")
    tapered = taper_list_rsexecute_workflow([weighted, vis_list[1]], 0.02)
    (first,) = coalesce_list_rsexecute_workflow(tapered[:1], max_time_coal=2)
    return invert_list_rsexecute_workflow([first, tapered[1]], full, dopsf=dopsf, vis_slices=2)


def calibrate(global_solution=True):
    vis_list, full = observed()
    models = predict_list_rsexecute_workflow(vis_list, full)
    return calibrate_list_rsexecute_workflow(vis_list, models, "TGB", global_solution)


WORKFLOWS = {
    "simulate": simulate,
    "predict": lambda: observed()[0],
    "invert": invert,
    "residual": lambda: residual_list_rsexecute_workflow(*observed()),
    "calibrate all": calibrate,
    "calibrate each": lambda: calibrate(global_solution=False),
    "deconvolve": lambda: deconvolve_list_rsexecute_workflow(
        invert(), invert(dopsf=True), empty_images(simulate()), algorithm="mmclean", nmoment=2
    ),
    "ical": lambda: ical_list_rsexecute_workflow(
        observed()[0], empty_images(simulate()), nmoment=2, **CLEANING
    ),
    "continuum": lambda: continuum_imaging_list_rsexecute_workflow(
        observed()[0], empty_images(simulate()), **CLEANING
    ),
    "spectral line": lambda: spectral_line_imaging_list_rsexecute_workflow(
        observed()[0],
        empty_images(simulate()),
        continuum_model_imagelist=observed()[1],
        **CLEANING,
    ),
    "mpccal": lambda: mpccal_skymodel_list_rsexecute_workflow(
        observed()[0][0],
        empty_images(simulate())[0],
        [SkyPartition(SKY, image=observed()[1][0]), SkyPartition(SKY)],
        nmajor=2,
    ),
}
RESULTS: dict[str, object] = {}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_serial_and_dask_agree(name, mode):
    result = rsexecute.compute(WORKFLOWS[name](), sync=True)
    assert_same(result, RESULTS.setdefault(name, result))


def assert_same(one, other):
    """Compare values, however deep arrays are within them."""
    if is_dataclass(one):
        one, other = ({f.name: getattr(x, f.name) for f in fields(x)} for x in (one, other))
    if isinstance(one, Mapping):
        one, other = ([list(x), *x.values()] for x in (one, other))
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        np.testing.assert_array_equal(one, other)


def test_verbs(mode):
    double = rsexecute.execute(lambda x: 2 * x)
    numbers = rsexecute.scatter([1, 2, 3])
    graph = rsexecute.persist({"twice": [double(n) for n in numbers]})
    assert rsexecute.using_dask == (mode == "dask")
    assert rsexecute.compute(graph, sync=True) == {"twice": [2, 4, 6]}
    assert rsexecute.gather(numbers) == [1, 2, 3]
    later = rsexecute.compute(double(4))
    assert (later if mode == "serial" else later.result()) == 8
    ran = rsexecute.run(lambda x: x + 1, 1)
    assert ran == 2 if mode == "serial" else list(ran.values()) == [2]


def test_errors_of_tasks_reach_the_script(mode):
    elsewhere = simulate_list_rsexecute_workflow(rmax=120.0, phasecentre=Direction(1.0, 0.0))
    with pytest.raises(DataError, match="create_image_from_visibility"):
        rsexecute.compute(
            invert_list_rsexecute_workflow(simulate()[:1], empty_images(elsewhere)), sync=True
        )


def test_a_client_is_left_to_its_owner_and_own_workers_are_stopped(client, monkeypatch):
    rsexecute.set_client(client)
    rsexecute.close()
    assert client.status == "running"
    rsexecute.set_client(nworkers=1, processes=False)
    own = rsexecute.client
    rsexecute.close()
    assert own.status == "closed"
    assert not rsexecute.using_dask
    monkeypatch.setattr(delayed, "CONNECT_S", 0.5)
    monkeypatch.setenv("RASCIL_DASK_SCHEDULER", "tcp://127.0.0.1:1")
    with pytest.raises(ClusterStartTimeout, match="RASCIL_DASK_SCHEDULER"):
        rsexecute.set_client()
