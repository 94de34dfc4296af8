"""The noise estimate does not see sources."""

import numpy as np
import pytest

from batch_imaging.kernels.noise import robust_noise


def test_robust_noise_does_not_see_sources():
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 1e-3, (512, 512)).astype(np.float32)
    noise[::40, ::40] += 1
    assert robust_noise(noise) == pytest.approx(1e-3, rel=0.02)
