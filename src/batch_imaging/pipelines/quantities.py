"""Quantities as users write them."""

import math

from astropy import units
from dask.utils import parse_bytes as parse_any_bytes


def parse_quantity(text: str, unit: str) -> units.Quantity:
    """Return a quantity in ``unit``; a bare number is taken to be in it already."""
    quantity = units.Quantity(text)
    bare = quantity.unit == units.one
    return units.Quantity(quantity.value, unit) if bare else quantity.to(unit)


def parse_bytes(text: str) -> float:
    """Return a size such as 64MB or 2GiB in bytes; ValueError if it is none."""
    size = float(parse_any_bytes(text))
    if not (size > 0 and math.isfinite(size)):
        raise ValueError(text)
    return size
