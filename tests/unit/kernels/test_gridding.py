"""The gridder against a direct sum over a wide field, where the w term turns phases many times."""

import numpy as np
import pytest

from batch_imaging.kernels.gridding import make_dirty, predict_image
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.model.direction import Direction, radec_from_lm
from batch_imaging.model.image import ImageGeometry

CENTRE = Direction.from_degrees(10.0, -30.0)
GEOMETRY = ImageGeometry(npixel=64, cell_rad=0.012, phase_centre=CENTRE)  # 44° a side
FREQ_HZ = np.array([100e6, 125e6, 150e6])
SINGLE, DOUBLE = 1e-4, 1e-6


@pytest.fixture(scope="module")
def uvw_m():
    """(300, 3) metres: u and v fill the grid, w turns the phase of a corner up to 50 times."""
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 1, (300, 3)) * [80.0, 80.0, 400.0]


@pytest.fixture(scope="module")
def image():
    """(64, 64) Jy/pixel: thirty sources of either sign, the corners among them."""
    rng = np.random.default_rng(2)
    pixels = np.zeros(GEOMETRY.shape)
    pixels[tuple(rng.integers(0, 64, (2, 30)))] = rng.normal(size=30)
    pixels[[0, 0, -1, -1], [0, -1, 0, -1]] = 1.0
    return pixels


@pytest.fixture(scope="module")
def vis():
    rng = np.random.default_rng(3)
    return rng.normal(size=(300, 3)) + 1j * rng.normal(size=(300, 3))


def direct_phase(uvw_m):
    """2π(ul + vm + w(n − 1)) of every pixel, (row, chan, npixel, npixel)."""
    l, m = GEOMETRY.lm_grid()
    l, m = np.broadcast_arrays(l, m)
    lmn = np.stack([l, m, np.sqrt(1 - l**2 - m**2) - 1])
    waves = uvw_m[:, np.newaxis, :] * (FREQ_HZ / SPEED_OF_LIGHT_M_S)[:, np.newaxis]
    return 2 * np.pi * np.tensordot(waves, lmn, axes=1)


@pytest.fixture(scope="module")
def predicted(uvw_m, image):
    return np.tensordot(np.exp(-1j * direct_phase(uvw_m)), image, axes=2)


def rms_error(found, truth):
    """Root mean square of the difference over that of the truth."""
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize(
    ("accuracy", "dtype", "error"), [(SINGLE, np.complex64, 2e-5), (DOUBLE, np.complex128, 1e-6)]
)
def test_predicts_what_the_direct_sum_predicts(uvw_m, image, predicted, accuracy, dtype, error):
    found = predict_image(uvw_m, FREQ_HZ, image, GEOMETRY, accuracy=accuracy)
    assert found.dtype == dtype
    assert rms_error(found, predicted) < error


@pytest.mark.parametrize(
    ("accuracy", "dtype", "error"), [(SINGLE, np.float32, 2e-5), (DOUBLE, np.float64, 1e-6)]
)
def test_images_what_the_direct_sum_images(uvw_m, vis, accuracy, dtype, error):
    weight = np.random.default_rng(4).uniform(0, 2, vis.shape)
    found = make_dirty(uvw_m, FREQ_HZ, vis, weight, GEOMETRY, accuracy=accuracy)
    truth = np.tensordot(weight * vis, np.exp(1j * direct_phase(uvw_m)), axes=2).real
    assert found.dtype == dtype
    assert rms_error(found, truth) < error


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["u", "v", "w"])
def test_a_wrong_sign_does_not_pass(uvw_m, image, vis, predicted, axis):
    """The tests above can tell: with one coordinate turned round nothing agrees."""
    turned = uvw_m * np.where(np.arange(3) == axis, -1, 1)
    found = predict_image(turned, FREQ_HZ, image, GEOMETRY, accuracy=SINGLE)
    assert rms_error(found, predicted) > 0.5
    right, wrong = (
        make_dirty(uvw, FREQ_HZ, vis, None, GEOMETRY, accuracy=SINGLE) for uvw in (uvw_m, turned)
    )
    assert rms_error(wrong, right) > 0.5


@pytest.mark.parametrize(("east", "north"), [(0.25, 0.1), (-0.2, 0.3), (0.05, -0.35)])
def test_a_source_appears_where_its_sky_position_is(uvw_m, east, north):
    """Phases from the three-dimensional geometry alone; east is left and north up."""
    ra_rad, dec_rad = radec_from_lm(east, north, CENTRE)
    phase = uvw_m @ [east, north, np.sqrt(1 - east**2 - north**2) - 1]
    vis = np.exp(-2j * np.pi * np.outer(phase, FREQ_HZ / SPEED_OF_LIGHT_M_S))
    dirty = make_dirty(uvw_m, FREQ_HZ, vis, None, GEOMETRY, accuracy=SINGLE)

    peak = np.unravel_index(dirty.argmax(), dirty.shape)
    np.testing.assert_array_equal(peak, np.rint(GEOMETRY.pixel_of(ra_rad, dec_rad)))
    assert (peak[1] < 32) == (east > 0)
    assert (peak[0] > 32) == (north > 0)


@pytest.mark.parametrize(("accuracy", "error"), [(SINGLE, 1e-5), (DOUBLE, 1e-12)])
def test_the_two_directions_are_adjoint(uvw_m, image, vis, accuracy, error):
    forward = predict_image(uvw_m, FREQ_HZ, image, GEOMETRY, accuracy=accuracy)
    back = make_dirty(uvw_m, FREQ_HZ, vis, None, GEOMETRY, accuracy=accuracy)
    size = np.linalg.norm(forward) * np.linalg.norm(vis)
    assert abs(np.vdot(vis, forward).real - np.vdot(image, back)) < error * size


def test_channels_add_up(uvw_m, image, vis):
    dirty = make_dirty(uvw_m, FREQ_HZ, vis, None, GEOMETRY, accuracy=DOUBLE)
    model = predict_image(uvw_m, FREQ_HZ, image, GEOMETRY, accuracy=DOUBLE)
    each = [(FREQ_HZ[c : c + 1], vis[:, c : c + 1]) for c in range(3)]
    total = sum(make_dirty(uvw_m, f, v, None, GEOMETRY, accuracy=DOUBLE) for f, v in each)
    assert rms_error(dirty, total) < 2 * DOUBLE
    one_by_one = [predict_image(uvw_m, f, image, GEOMETRY, accuracy=DOUBLE) for f, _ in each]
    assert rms_error(model, np.hstack(one_by_one)) < 2 * DOUBLE


def test_threads_do_not_change_the_result(uvw_m, image, vis):
    one, two = (
        make_dirty(uvw_m, FREQ_HZ, vis, None, GEOMETRY, accuracy=DOUBLE, threads=threads)
        for threads in (1, 2)
    )
    assert rms_error(two, one) < DOUBLE / 100
    one, two = (
        predict_image(uvw_m, FREQ_HZ, image, GEOMETRY, accuracy=DOUBLE, threads=threads)
        for threads in (1, 2)
    )
    assert rms_error(two, one) < DOUBLE / 100


def test_weights_multiply_and_zero_weights_remove(uvw_m, vis):
    weight = np.where(np.arange(300) % 3, 2.0, 0.0)[:, np.newaxis] * np.ones(3)
    weighted = make_dirty(uvw_m, FREQ_HZ, vis, weight, GEOMETRY, accuracy=DOUBLE)
    kept = weight[:, 0] > 0
    of_the_kept = make_dirty(uvw_m[kept], FREQ_HZ, vis[kept], None, GEOMETRY, accuracy=DOUBLE)
    assert rms_error(weighted, 2 * of_the_kept) < 2 * DOUBLE
