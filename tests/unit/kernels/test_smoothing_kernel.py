"""Convolution to a larger beam against Gaussians that are known, and common beams."""

import numpy as np
import pytest
from astropy import units
from radio_beam import Beam, Beams

from batch_imaging.kernels.smoothing import fit_common_beam, smooth_plane

SIDE, CELL = 64, 2.5
BEAM = (15.0, 11.0, 40.0)


def gaussian(beam, row=30.3, column=33.6) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    east, north, angle = -(x - column) * CELL, (y - row) * CELL, np.deg2rad(beam[2])
    along = east * np.sin(angle) + north * np.cos(angle)
    across = east * np.cos(angle) - north * np.sin(angle)
    return 0.5 ** (4 * ((along / beam[0]) ** 2 + (across / beam[1]) ** 2))


@pytest.mark.parametrize(
    "wanted",
    [(15.1, 11.1, 40.0), (15.05, 14.0, 40.0), (16.0, 12.0, 35.0), (40.0, 30.0, 100.0)],
    ids=["a little", "thin as a line", "turned", "much"],
)
def test_a_beam_becomes_the_wanted_one(wanted):
    per_beam = wanted[0] * wanted[1] / (BEAM[0] * BEAM[1])
    smooth = smooth_plane(gaussian(BEAM), BEAM, wanted, CELL) * per_beam
    inside = slice(20, 44), slice(20, 44)
    assert smooth[inside] == pytest.approx(gaussian(wanted)[inside], abs=2e-3)


def test_the_same_beam_changes_nothing():
    plane = gaussian(BEAM).astype(np.float32)
    assert smooth_plane(plane, BEAM, BEAM, CELL) is plane


def test_blank_pixels_stay_blank_and_pull_nothing_down():
    plane = np.full((SIDE, SIDE - 7), 3.0, np.float32)
    plane[10:20, 30:] = np.nan
    smooth = smooth_plane(plane, BEAM, (40, 30, 0), CELL)
    assert smooth.dtype == np.float32
    assert (np.isnan(smooth) == np.isnan(plane)).all()
    assert smooth[np.isfinite(smooth)] == pytest.approx(3.0, abs=1e-4)


def radio_beams(beams) -> list[Beam]:
    return [Beam(*(units.Quantity(size, "deg") for size in beam)) for beam in beams]


@pytest.mark.parametrize("n", [2, 3, 10, 36])
def test_a_common_beam_holds_all_and_is_the_smallest_that_radio_beam_finds(n):
    rng = np.random.default_rng(n)
    major = rng.uniform(12, 15, n) / 3600
    beams = np.stack([major, major * rng.uniform(0.7, 1, n), rng.uniform(-90, 90, n)], axis=1)
    common = fit_common_beam(beams)
    (ours,) = radio_beams([common])
    for beam in radio_beams(beams):
        ours.deconvolve(beam)  # raises if it does not fit
    theirs = Beams(beams=radio_beams(beams)).common_beam(max_epsilon=0.01)
    assert ours.sr / theirs.sr < 1.002


def test_a_beam_that_holds_all_is_the_common_beam():
    beams = np.array([[20, 18, 10], [12, 9, 80], [20, 18, 10], [15, 15, 0]])
    assert fit_common_beam(beams).tolist() == [20, 18, 10]
    assert fit_common_beam(beams[1:2]).tolist() == [12, 9, 80]


def test_crossed_beams_have_a_round_common_beam():
    major, minor, _ = fit_common_beam(np.array([[20, 10, 30], [20, 10, 120]]))
    # the ellipses touch a circle of their major axis
    assert [major, minor] == pytest.approx([20, 20], rel=2e-3)
