"""Statistics of cubes against numpy's, whatever the chunks."""

from pathlib import Path

import numpy as np
import pytest
from astropy.stats import mad_std

from batch_imaging.pipelines.cubes import statistics
from batch_imaging.pipelines.cubes.fits_file import FitsPixels
from batch_imaging.pipelines.cubes.opening import open_cube
from batch_imaging.pipelines.cubes.statistics import measure_cube

HERE = Path("cube.fits")


@pytest.mark.parametrize("chunk", [None, (1, 7, 40), (3, 30, 11), (7, 8, 9)])
@pytest.mark.parametrize("workers", [1, 2])
def test_figures_are_those_of_numpy(noise, opened, schedule, chunk, workers):
    whole, channels = measure_cube(opened(noise, chunk=chunk), schedule(workers=workers), HERE)
    for found, plane in zip((whole, *channels), (noise, *noise), strict=True):
        values = plane[np.isfinite(plane)].astype(np.float64)
        assert found.n == len(values)
        assert found.nan_share == pytest.approx(1 - len(values) / plane.size)
        if not len(values):
            assert np.isnan([found.min, found.max, found.mean, found.std, found.noise]).all()
            continue
        assert (found.min, found.max) == (values.min(), values.max())
        assert found.mean == pytest.approx(values.mean(), rel=1e-12)
        assert found.std == pytest.approx(values.std(), rel=1e-12)
        assert found.rms == pytest.approx(np.sqrt((values**2).mean()), rel=1e-12)
        assert found.noise == pytest.approx(mad_std(values), rel=1e-6)


def test_a_large_mean_does_not_swallow_the_deviation(opened, schedule):
    pixels = np.random.default_rng(1).normal(1e7, 1.0, (2, 64, 64))
    _, channels = measure_cube(opened(pixels), schedule(), HERE)
    assert channels[1].std == pytest.approx(pixels[1].std(), rel=1e-6)


def test_noise_of_a_large_cube_is_sampled_the_same_in_all_chunks(opened, schedule, monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLES", 20_000)
    pixels = np.random.default_rng(2).normal(0, 3.0, (2, 300, 301)).astype(np.float32)
    found = {
        measure_cube(opened(pixels, chunk=chunk), schedule(), HERE)[1][0].noise
        for chunk in ((1, 300, 301), (2, 31, 50), (1, 100, 53))
    }
    assert len(found) == 1
    assert found.pop() == pytest.approx(3.0, rel=0.05)


def test_every_pixel_is_read_once(noise, write_fits, schedule, monkeypatch):
    read = []
    original = FitsPixels.__getitem__

    def counted(self, place):
        block = original(self, place)
        read.append(block.size)
        return block

    monkeypatch.setattr(FitsPixels, "__getitem__", counted)
    cube = open_cube(write_fits(noise), schedule(chunk=(2, 10, 15)))
    assert not sum(read)
    measure_cube(cube, schedule(), HERE)
    assert sum(read) == noise.size
    assert max(read) == 2 * 10 * 15


def test_channels_know_their_frequency_velocity_and_beam(noise, opened, schedule):
    beams = np.stack([np.linspace(60, 40, 7), np.full(7, 30.0), np.full(7, 10.0)], axis=1)
    _, channels = measure_cube(opened(noise, beams), schedule(), HERE)
    assert channels[4].freq_hz == 1.42e9 - 4 * 50e3
    assert channels[4].velocity_km_s == pytest.approx(299792.458 * 200e3 / 1.42e9)
    assert (channels[3].bmaj_arcsec, channels[3].bpa_deg) == pytest.approx((50, 10))
