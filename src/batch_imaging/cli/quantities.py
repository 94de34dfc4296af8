"""Values of options that carry a unit."""

import math

from batch_imaging.errors import ParameterError


def read_quantity(option: str, text: str, unit: str, example: str) -> float:
    """Return a value above 0 in ``unit``, which a bare number is taken to be in already.

    Raises
    ------
    ParameterError: it is no such value; named are the option, the text and an example.
    """
    from batch_imaging.pipelines.quantities import parse_quantity

    try:
        value = float(parse_quantity(text, unit).value)
    except (ValueError, TypeError) as error:
        raise ParameterError(f"{option} {text}: give it as in {example} ({error})") from error
    if not (value > 0 and math.isfinite(value)):
        raise ParameterError(f"{option} {text}: must be above 0, as in {example}")
    return value
