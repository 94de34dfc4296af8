"""Sizes in bytes as Kubernetes writes them: `500Gi`, `1.5G`, `1048576`."""

import math
import re
from decimal import Decimal

FACTORS: dict[str, int] = {"": 1} | {
    f"{prefix}{i}": base**power
    for base, i in ((1000, ""), (1024, "i"))
    for power, prefix in enumerate("KMGTPE" if i else "kMGTPE", start=1)
}
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([a-zA-Z]*)")


def parse_quantity(text: str) -> int:
    """Return the bytes that a quantity stands for, rounded up.

    Raises
    ------
    ValueError: it is none.
    """
    match = QUANTITY.fullmatch(text)
    if match is None or match[2] not in FACTORS:
        raise ValueError(f"{text}: is not a size; write a number of bytes, or as in 500Gi or 1.5T")
    return math.ceil(Decimal(match[1]) * FACTORS[match[2]])


def quantity_text(size_bytes: int) -> str:
    """Return the quantity of the largest binary unit that does not make it less than one.

    Exact for whole numbers of the unit, else to one decimal; for people to read.
    """
    units = [unit for unit in FACTORS if unit.endswith("i") and size_bytes >= FACTORS[unit]]
    unit = units[-1] if units else ""
    return f"{round(size_bytes / FACTORS[unit], 1):g}{unit}"
