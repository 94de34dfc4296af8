"""Outliers clipped, and functions of users."""

import numpy as np
import pytest

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.pipelines.cubes.applying import apply_function, clip_outliers, load_function
from batch_imaging.pipelines.cubes.opening import pixels


@pytest.mark.parametrize("over", ["spectra", "planes"])
def test_outliers_are_blanked_or_masked(opened, over):
    values = np.random.default_rng(4).normal(size=(40, 20, 20)).astype(np.float32)
    values[7, 3, 4] = 100
    cube = opened(values, along=over, chunk=(8, 10, 20))
    clipped = pixels(clip_outliers(cube, 6.0, over, 3, as_mask=False)).compute()
    assert np.argwhere(np.isnan(clipped)).tolist() == [[7, 3, 4]]
    mask = pixels(clip_outliers(cube, 6.0, over, 3, as_mask=True)).compute()
    np.testing.assert_array_equal(mask, np.isfinite(clipped))


def test_a_function_sees_whole_spectra(opened, noise):
    cube = opened(noise, along="spectra", chunk=(0, 7, 9))
    flat = apply_function(cube, lambda chunk: chunk - chunk[0] / len(chunk), "f")
    np.testing.assert_array_equal(pixels(flat).compute(), noise - noise[0] / len(noise))


def test_a_function_that_fails_names_the_chunk(opened, noise):
    cube = opened(noise, along="planes", chunk=(3, 0, 0))

    def fail(chunk):
        if len(chunk) == 1:
            raise ValueError("no good")
        return chunk

    with pytest.raises(DataError, match=r"mine failed on channels 6–6, rows 0–29.*no good"):
        pixels(apply_function(cube, fail, "mine")).compute()
    with pytest.raises(DataError, match=r"it returned shape \(30, 40\)"):
        pixels(apply_function(cube, lambda chunk: chunk[0], "mine")).compute()


def test_functions_come_from_files(tmp_path):
    module = tmp_path / "mine.py"
    module.write_text("def double(x):\n    return 2 * x\n")
    assert load_function(f"{module}:double")(3) == 6
    for text, complaint in ((f"{module}:triple", "no function"), ("none.py:f", "no such file")):
        with pytest.raises(ParameterError, match=complaint):
            load_function(text)
    module.write_text("1 / 0")
    with pytest.raises(ParameterError, match="ZeroDivisionError"):
        load_function(f"{module}:double")
