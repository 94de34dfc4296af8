"""Sizes as Kubernetes writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_imaging.control.config.quantity import parse_quantity, quantity_text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1024", 1024),
        ("1k", 1000),
        ("1.5G", 1_500_000_000),
        ("1Ki", 1024),
        ("500Gi", 500 * 2**30),
        ("2Ti", 2 * 2**40),
        ("0.5", 1),
    ],
)
def test_a_quantity_is_a_number_and_a_unit(text, size_bytes):
    assert parse_quantity(text) == size_bytes


@pytest.mark.parametrize("text", ["", "Gi", "1GB", "-1Gi", "1 Gi", "1K", "1e3", "nan", "1Gi\n"])
def test_what_is_none_is_named(text):
    with pytest.raises(ValueError, match=f"^{text}: is not a size"):
        parse_quantity(text)


@given(number=st.integers(1, 1023), unit=st.sampled_from(["", "Ki", "Mi", "Gi", "Ti", "Pi"]))
def test_whole_numbers_of_a_unit_come_back(number, unit):
    assert quantity_text(parse_quantity(f"{number}{unit}")) == f"{number}{unit}"


def test_others_are_rounded_for_reading():
    assert quantity_text(1_500_000_000) == "1.4Gi"
    assert quantity_text(0) == "0"
