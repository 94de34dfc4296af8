"""Numbers as people read them."""

import math


def significant(value: float, digits: int = 4) -> str:
    """Write a number with so many significant digits, without an exponent if it is readable."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}" if value else "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def fixed(value: float, decimals: int) -> str:
    """Write a number with so many decimals."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else "–"


def thousands(value: float) -> str:
    """Write a whole number in groups of three digits."""
    return (
        f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}") if math.isfinite(value) else "–"
    )


def brightness(value_jy: float) -> tuple[str, str]:
    """Write a surface brightness to three digits, in the unit that suits it."""
    for scale, unit in ((1.0, "Jy/beam"), (1e3, "mJy/beam")):
        if not abs(value_jy) * scale < 1:
            return significant(value_jy * scale, 3), unit
    return significant(value_jy * 1e6, 3), "µJy/beam"


def storage(size_bytes: float) -> tuple[str, str]:
    """Write a size to three digits, in the binary unit that suits it."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f}", "B"
    scaled = ((size_bytes / 1024**power, unit) for power, unit in ((1, "KiB"), (2, "MiB")))
    value, unit = next((pair for pair in scaled if pair[0] < 1000), (size_bytes / 1024**3, "GiB"))
    return significant(value, 3), unit
