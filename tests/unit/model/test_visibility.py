"""Stokes I from correlations: values, weights, flags."""

import numpy as np
import pytest

from batch_imaging.model.direction import Direction
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility, stokes_i


def make_block(vis, weight, corr):
    rows, chans, _ = vis.shape
    return Visibility(
        uvw_m=np.zeros((rows, 3)),
        time_mjd_s=np.zeros(rows),
        antenna1=np.zeros(rows, np.int32),
        antenna2=np.ones(rows, np.int32),
        vis=vis.astype(np.complex64),
        weight=weight.astype(np.float32),
        freq_hz=1e8 + 1e6 * np.arange(chans),
        chan_width_hz=np.full(chans, 1e6),
        corr=corr,
        integration_s=10.0,
        phase_centre=Direction(0.0, -0.5),
        stations=StationLayout(("A", "B"), np.eye(2, 3), np.full(2, 38.0), "TEST"),
    )


def draw_block(corr, rows=2000):
    """Noise whose weights are the inverse variances it was drawn with."""
    rng = np.random.default_rng(1)
    weight = rng.uniform(0.5, 4.0, (rows, 3, len(corr)))
    noise = rng.normal(size=weight.shape) + 1j * rng.normal(size=weight.shape)
    return make_block(noise / np.sqrt(2 * weight), weight, corr)


def test_a_single_correlation_is_stokes_i():
    block = draw_block(("I",))
    vis, weight = stokes_i(block)
    np.testing.assert_array_equal(vis, block.vis[:, :, 0])
    np.testing.assert_array_equal(weight, block.weight[:, :, 0])


@pytest.mark.parametrize(
    "corr", [("XX", "YY"), ("RR", "LL"), ("XX", "XY", "YX", "YY"), ("RR", "RL", "LR", "LL")]
)
def test_stokes_i_is_the_mean_of_the_parallel_hands(corr):
    block = draw_block(corr)
    vis, _ = stokes_i(block)
    assert vis.dtype == np.complex64
    np.testing.assert_allclose(vis, (block.vis[..., 0] + block.vis[..., -1]) / 2, rtol=1e-6)


def test_weights_are_the_inverse_variances_of_the_mean():
    vis, weight = stokes_i(draw_block(("XX", "YY"), rows=20_000))
    assert weight.dtype == np.float32
    assert (np.abs(vis) ** 2 * weight).mean() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("flagged", [[0], [-1], [0, -1]])
@pytest.mark.parametrize("corr", [("XX", "YY"), ("XX", "XY", "YX", "YY")])
def test_one_flagged_hand_flags_the_sample(corr, flagged):
    block = draw_block(corr, rows=4)
    block.weight[1, 2, flagged] = 0.0
    _, weight = stokes_i(block)
    assert weight[1, 2] == 0.0
    assert np.count_nonzero(weight) == weight.size - 1


def test_flagged_cross_hands_do_not_matter():
    block = draw_block(("XX", "XY", "YX", "YY"), rows=4)
    block.weight[:, :, 1:3] = 0.0
    assert stokes_i(block)[1].all()


def test_a_block_knows_its_size_and_changes_only_its_data():
    block = draw_block(("XX", "YY"), rows=5)
    assert block.n_rows == 5
    assert block.nbytes == 5 * (3 * 8 + 8 + 2 * 4 + 3 * 2 * (8 + 4))
    other = block.with_vis(2 * block.vis)
    np.testing.assert_array_equal(other.vis, 2 * block.vis)
    assert other.weight is block.weight
    assert other.phase_centre == block.phase_centre
