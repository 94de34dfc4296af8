"""Predict and invert of one unit: the two ways to predict agree, and a jansky has a peak of 1."""

from dataclasses import replace

import numpy as np
import pytest

from batch_imaging.io.measurement_set import write_measurement_set
from batch_imaging.model.continuum import ContinuumModel
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.visibility import stokes_i
from batch_imaging.pipelines import imaging
from batch_imaging.pipelines.imaging import (
    ImagingSetup,
    WeightedImage,
    invert,
    measure_density,
    predict_model,
)
from batch_imaging.pipelines.units import make_observation, plan_units, survey

FREQ_HZ = np.array([1.0e8, 1.05e8, 1.1e8])
CELL_RAD = 0.002
PIXELS = {(20, 45): (3.0, -2.0), (32, 32): (1.0, 0.5), (50, 11): (2.0, 1.0), (33, 32): (-0.5, 0.0)}


@pytest.fixture
def block(make_block):
    return make_block(FREQ_HZ)


@pytest.fixture
def setup(block):
    return ImagingSetup(
        ImageGeometry(64, CELL_RAD, block.phase_centre), 1e-4, "natural", 0.0, threads=1
    )


@pytest.fixture
def model(setup):
    x = FREQ_HZ / FREQ_HZ.mean() - 1
    planes = np.zeros((3, 64, 64), dtype=np.float32)
    for pixel, (constant, slope) in PIXELS.items():
        planes[(slice(None), *pixel)] = constant + slope * x
    return ContinuumModel.empty(setup.geometry, 2, FREQ_HZ.mean()).plus(planes, FREQ_HZ)


def sources_at(freq_hz):
    x = freq_hz / FREQ_HZ.mean() - 1
    return [
        (-(column - 32) * CELL_RAD, (row - 32) * CELL_RAD, constant + slope * x)
        for (row, column), (constant, slope) in PIXELS.items()
    ]


@pytest.mark.parametrize(
    ("way", "points_per_s", "error"), [("points", 1e30, 1e-6), ("degridding", 1e-30, 1e-4)]
)
def test_predicted_models_are_the_direct_sum(
    block, load_block, setup, model, direct_sum, monkeypatch, way, points_per_s, error
):
    monkeypatch.setattr(imaging, "_POINTS_PER_S", points_per_s)
    unused = "predict_image" if way == "points" else "predict_points"
    monkeypatch.setattr(imaging, unused, None)
    predicted = predict_model(load_block(block), model, setup)
    assert predicted.dtype == np.complex64
    for chan, freq_hz in enumerate(FREQ_HZ):
        exact = direct_sum(block.uvw_m, [freq_hz], sources_at(freq_hz))[:, 0]
        np.testing.assert_allclose(predicted[:, chan], exact, atol=error * 6.5)


def test_rows_that_are_no_differences_are_degridded(block, load_block, setup, model, direct_sum):
    moved = replace(block, uvw_m=block.uvw_m.copy())
    moved.uvw_m[5] += 30.0
    loaded = load_block(moved)
    assert loaded.factors is None
    exact = direct_sum(moved.uvw_m, FREQ_HZ[1:2], sources_at(FREQ_HZ[1]))[:, 0]
    np.testing.assert_allclose(predict_model(loaded, model, setup)[:, 1], exact, atol=7e-4)


def test_an_empty_model_predicts_nothing(block, load_block, setup):
    empty = ContinuumModel.empty(setup.geometry, 2, 1e8)
    predicted = predict_model(load_block(block), empty, setup)
    assert predicted.shape == block.vis.shape[:2]
    assert not predicted.any()


@pytest.fixture
def with_density(block, tmp_path):
    """A function that gives a setup a weighting, with the density of the block on disk."""
    write_measurement_set(tmp_path / "block.ms", block)
    (unit,) = plan_units(make_observation([survey(tmp_path / "block.ms")]), [[0]])

    def give(setup, weighting):
        changed = replace(setup, weighting=weighting, robust=-0.5)
        density = None if weighting == "natural" else measure_density(unit, changed)
        return replace(changed, density=density)

    return give


@pytest.mark.parametrize("weighting", ["natural", "uniform", "robust"])
def test_a_jansky_has_a_peak_of_1(block, setup, direct_sum, with_density, weighting):
    row, column = 41, 17
    source = (-(column - 32) * CELL_RAD, (row - 32) * CELL_RAD, 1.0)
    _, weight = stokes_i(block)
    setup = with_density(setup, weighting)
    image = invert(block, direct_sum(block.uvw_m, FREQ_HZ, [source]), weight, setup).normalised()
    assert np.unravel_index(image.argmax(), image.shape) == (row, column)
    assert image[row, column] == pytest.approx(1, abs=1e-4)


def test_uniform_weights_sharpen_the_main_lobe(block, setup, with_density):
    _, weight = stokes_i(block)
    ones = np.ones(weight.shape, dtype=np.complex64)
    natural, robust, uniform = (
        invert(block, ones, weight, with_density(setup, name)).normalised()[31:34, 31:34].mean()
        for name in ("natural", "robust", "uniform")
    )
    assert natural > robust > uniform


@pytest.mark.parametrize("weighting", ["natural", "uniform", "robust"])
def test_a_patch_is_the_middle_of_the_image(block, setup, with_density, weighting):
    setup = with_density(setup, weighting)
    vis, weight = stokes_i(block)
    whole = invert(block, vis, weight, setup)
    patch = invert(block, vis, weight, setup.patch(32))
    assert patch.weight == pytest.approx(whole.weight)
    peak = np.abs(whole.normalised()).max()
    np.testing.assert_allclose(
        patch.normalised(), whole.normalised()[16:48, 16:48], atol=2e-4 * peak
    )
    assert setup.patch(100).geometry == setup.geometry


def test_parts_add_up_to_the_whole(block, setup):
    vis, weight = stokes_i(block)
    whole = invert(block, vis, weight, setup)
    half = block.n_rows // 2
    first, second = (
        replace(block, uvw_m=block.uvw_m[rows]) for rows in (slice(half), slice(half, None))
    )
    total = invert(first, vis[:half], weight[:half], setup)
    total += invert(second, vis[half:], weight[half:], setup)
    assert total.weight == pytest.approx(whole.weight)
    np.testing.assert_allclose(total.normalised(), whole.normalised(), atol=1e-4 * 6)


def test_flagged_data_make_a_zero_image(block, setup):
    vis, weight = stokes_i(block)
    image = invert(block, vis, np.zeros_like(weight), setup)
    assert image.weight == 0
    assert not image.normalised().any()
    assert not WeightedImage(np.zeros((4, 4)), 0.0).normalised().any()


def test_drafts_are_coarser_but_never_finer(setup):
    assert setup.draft().accuracy > setup.accuracy
    assert replace(setup, accuracy=1e-2).draft().accuracy == 1e-2
    assert not setup.double
    assert replace(setup, accuracy=1e-7).double
