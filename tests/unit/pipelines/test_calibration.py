"""Gains: known ones are put into exact visibilities and must be found again, and taken out."""

from dataclasses import replace

import numpy as np
import pytest

from batch_imaging.pipelines.calibration import (
    UnitGains,
    apply_gains,
    calibrate_unit,
    integration_rows,
)

FREQ_HZ = np.array([1.00e8, 1.01e8, 1.10e8, 1.11e8, 1.12e8])
WINDOW_OF_CHAN = np.array([0, 0, 1, 1, 1])
TOLERANCE = 1e-6


@pytest.fixture
def true_unit(make_block, load_block):
    """A unit of two windows whose visibilities are those of the sky."""
    return load_block(make_block(FREQ_HZ), WINDOW_OF_CHAN)


@pytest.fixture
def model(true_unit, direct_sum):
    sources = [(0.031, -0.012, 3.0), (-0.044, 0.027, 2.0), (0.008, 0.051, 1.0)]
    return direct_sum(true_unit.block.uvw_m, FREQ_HZ, sources)


@pytest.fixture
def draw(true_unit):
    """A function that draws gains for the letters of a context and leaves the others at 1."""
    rng = np.random.default_rng(3)

    def phases(shape):
        return np.exp(1j * rng.normal(0, 0.6, shape))

    def amplitudes(shape):
        values = rng.uniform(0.7, 1.4, shape)
        return values / values.mean(axis=-1, keepdims=True)

    def gains(context):
        ones = UnitGains.ones(true_unit)
        shape, slow, fine = ones.phase.shape, ones.gain.shape, ones.bandpass.shape
        return replace(
            ones,
            phase=phases(shape) if "T" in context else ones.phase,
            gain=amplitudes(slow) * phases(slow) if "G" in context else ones.gain,
            bandpass=amplitudes(fine) * phases(fine) if "B" in context else ones.bandpass,
        )

    return gains


def corrupt(loaded, gains):
    """Multiply by g_p g_q*, row by row and channel by channel."""
    block = loaded.block
    vis = block.vis.astype(np.complex128)
    times, time_of_row = np.unique(block.time_mjd_s, return_inverse=True)
    assert len(times) == len(gains.phase)
    for row, (t, p, q) in enumerate(zip(time_of_row, block.antenna1, block.antenna2, strict=True)):
        for chan, window in enumerate(loaded.window_of_chan):
            for corr in range(vis.shape[2]):
                g = gains.phase[t, window] * gains.gain[window, corr] * gains.bandpass[chan, corr]
                vis[row, chan, corr] *= g[p] * np.conj(g[q])
    return replace(loaded, block=block.with_vis(vis.astype(np.complex64)))


def referenced(gain):
    """Turn the phase of the first station (last axis) to zero: the common phase is not knowable."""
    first = gain[..., :1]
    return gain * first.conj() / np.abs(first)


@pytest.mark.parametrize(("context", "name"), [("T", "phase"), ("G", "gain"), ("B", "bandpass")])
def test_known_gains_are_recovered(true_unit, model, draw, context, name):
    truth = draw(context)
    observed = corrupt(true_unit, truth)
    found = UnitGains.ones(observed)
    for _ in range(4):  # the solver stops at steps of 1e-6, and starts there the next time
        found = calibrate_unit(observed, model, found, context)
    np.testing.assert_allclose(
        getattr(found, name), referenced(getattr(truth, name)), atol=TOLERANCE
    )
    for other in {"phase", "gain", "bandpass"} - {name}:
        assert (getattr(found, other) == 1).all()
    assert found.phase_only == (context == "T")
    corrected = apply_gains(observed, found)
    np.testing.assert_allclose(corrected.vis, true_unit.block.vis, atol=6 * TOLERANCE)


@pytest.mark.parametrize("context", ["TG", "TB", "GB", "TGB"])
def test_contexts_together_converge_to_the_product(true_unit, model, draw, context):
    observed = corrupt(true_unit, draw(context))
    found = UnitGains.ones(observed)
    for _ in range(12):
        found = calibrate_unit(observed, model, found, context)
    corrected = apply_gains(observed, found).vis / true_unit.block.vis
    # Mean amplitudes are 1 by definition, so each channel and correlation keeps one real factor.
    scale = corrected.mean(axis=0, keepdims=True)
    np.testing.assert_allclose(corrected, np.broadcast_to(scale, corrected.shape), atol=2e-5)
    np.testing.assert_allclose(scale.imag, 0, atol=1e-5)
    np.testing.assert_allclose(scale.real, 1, atol=0.1)


def test_no_context_changes_nothing(true_unit, model):
    start = UnitGains.ones(true_unit)
    assert calibrate_unit(true_unit, model, start, "") is start


def test_gains_of_one_are_the_identity(true_unit):
    block = apply_gains(true_unit, UnitGains.ones(true_unit))
    np.testing.assert_array_equal(block.vis, true_unit.block.vis)
    np.testing.assert_array_equal(block.weight, true_unit.block.weight)


@pytest.mark.parametrize("context", ["T", "G", "TGB"])
def test_gains_are_taken_out_and_weights_follow_their_power(true_unit, draw, context):
    truth = draw(context)
    corrected = apply_gains(corrupt(true_unit, truth), truth)
    np.testing.assert_allclose(corrected.vis, true_unit.block.vis, atol=6 * TOLERANCE)
    gain = truth.gain[WINDOW_OF_CHAN] * truth.bandpass  # phases have no power
    block = true_unit.block
    power = np.abs(gain[:, :, block.antenna1] * gain[:, :, block.antenna2]).transpose(2, 0, 1) ** 2
    np.testing.assert_allclose(corrected.weight, block.weight * power, rtol=1e-5)


@pytest.mark.parametrize("context", ["T", "G", "B", "TGB"])
def test_a_flagged_station_keeps_gain_1(true_unit, model, draw, context):
    station = 4
    truth = draw(context)
    observed = corrupt(true_unit, truth)
    block = observed.block
    of_station = (block.antenna1 == station) | (block.antenna2 == station)
    weight = np.where(of_station[:, np.newaxis, np.newaxis], np.float32(0), block.weight)
    vis = np.where(weight > 0, block.vis, np.complex64(0))  # as reading makes of flags
    observed = replace(observed, block=replace(block, vis=vis, weight=weight))
    found = UnitGains.ones(observed)
    for _ in range(12):
        found = calibrate_unit(observed, model, found, context)
    for gain in (found.phase, found.gain, found.bandpass):
        assert (gain[..., station] == 1).all()
    if "T" in context:
        assert (found.phase_weight[..., station] == 0).all()
        assert (np.delete(found.phase_weight, station, axis=-1) > 0).all()
    ratio = apply_gains(observed, found).vis[~of_station] / true_unit.block.vis[~of_station]
    np.testing.assert_allclose(ratio / ratio.mean(axis=0), 1, atol=2e-5)


def test_a_flagged_correlation_does_not_spoil_the_other(true_unit, model, draw):
    truth = draw("TG")
    observed = corrupt(true_unit, truth)
    weight, vis = observed.block.weight.copy(), observed.block.vis.copy()
    weight[:, :, 1], vis[:, :, 1] = 0, 0
    observed = replace(observed, block=replace(observed.block, vis=vis, weight=weight))
    found = UnitGains.ones(observed)
    for _ in range(12):
        found = calibrate_unit(observed, model, found, "TG")
    assert (found.gain[:, 1] == 1).all()
    corrected = apply_gains(observed, found)
    ratio = corrected.vis[:, :, 0] / true_unit.block.vis[:, :, 0]
    np.testing.assert_allclose(ratio, 1, atol=2e-5)


def test_noise_and_weights_decide_how_well_phases_are_known(true_unit, model, draw):
    truth = draw("T")
    observed = corrupt(true_unit, truth)
    rng = np.random.default_rng(11)
    sigma_jy = 0.05
    noise = rng.normal(0, sigma_jy, (2, *observed.block.vis.shape))
    block = replace(
        observed.block,
        vis=(observed.block.vis + noise[0] + 1j * noise[1]).astype(np.complex64),
        weight=np.full(observed.block.vis.shape, sigma_jy**-2, dtype=np.float32),
    )
    found = calibrate_unit(replace(observed, block=block), model, UnitGains.ones(observed), "T")
    error = np.angle(found.phase * truth.phase.conj())
    error -= error.mean(axis=-1, keepdims=True)
    # One station's phase alone has the variance 1 / Σ w |M|², which is what phase_weight says.
    np.testing.assert_allclose(error.std(), np.sqrt((1 / found.phase_weight).mean()), rtol=0.25)


def test_integrations_are_runs_of_equal_times(true_unit):
    rows = integration_rows(true_unit.block)
    times = true_unit.block.time_mjd_s
    assert [len(np.unique(times[part])) for part in rows] == [1] * 4
    assert np.concatenate([times[part] for part in rows]).tolist() == times.tolist()
