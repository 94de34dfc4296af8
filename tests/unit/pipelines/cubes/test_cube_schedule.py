"""Chunks: whole where they must be, as large as allowed."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_imaging.errors import ParameterError, ResourceError
from batch_imaging.pipelines.cubes.schedule import Schedule, parse_chunk

SHAPE = (100, 2000, 3000)


@pytest.mark.parametrize(
    ("along", "whole"), [("spectra", slice(0, 1)), ("planes", slice(1, 3)), ("any", slice(2, 3))]
)
def test_a_chunk_keeps_whole_what_must_not_be_cut(along, whole):
    chunk = Schedule(chunk=30e6, memory_bytes=1e12).chunk_shape(SHAPE, 4, along)
    assert chunk[whole] == SHAPE[whole]
    assert 10e6 < 4 * prod(chunk) <= 30e6


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000)),
    st.sampled_from(["spectra", "any"]),
)
def test_chunks_are_within_the_cube_and_the_size(shape, along):
    chunk = Schedule(chunk=1e6, memory_bytes=1e12).chunk_shape(shape, 4, along)
    assert all(1 <= n <= whole for n, whole in zip(chunk, shape, strict=True))
    assert 4 * prod(chunk) <= 1e6


def test_a_chunk_that_was_asked_for():
    schedule = Schedule(chunk=(8, 0, 100), memory_bytes=1e12)
    assert schedule.chunk_shape(SHAPE, 4, "any") == (8, 2000, 100)
    assert schedule.chunk_shape(SHAPE, 4, "spectra") == (100, 2000, 100)
    assert schedule.chunk_shape(SHAPE, 4, "planes") == (8, 2000, 3000)


def test_too_little_memory_is_refused_with_numbers():
    with pytest.raises(ResourceError, match=r"24 MB.*--memory"):
        Schedule(memory_bytes=1e6).chunk_shape(SHAPE, 4, "planes")


def test_chunks_as_users_write_them():
    assert parse_chunk("64MB") == 64e6
    assert parse_chunk("1,-1,512") == (1, 0, 512)
    for text in ("many", "1,2", "0", "1,2,x"):
        with pytest.raises(ParameterError, match="64MB"):
            parse_chunk(text)
