"""Names of parameters: misspelt ones are refused, needless ones are said to be so."""

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

from batch_imaging.errors import ParameterError

LOG = logging.getLogger("batch_imaging")

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

ALIASES = {"normalize": "normalise", "nmoments": "nmoment"}

NEEDLESS = {
    name: reason
    for reason, names in {
        "the gridder takes the w term of every visibility into account": (
            "gcfcf wstep wmax do_wstacking padding oversampling support facets "
            "delA wprojection_planes"
        ),
        "the images say themselves how many channels they have": "nchan",
        "the psf is used as far as it reaches": "psf_support",
        "restored facets are summed with all their margins": "restore_overlap restore_taper",
        "parts of the graph run where there is room": (
            "use_serial_invert use_serial_predict use_serial_clean"
        ),
    }.items()
    for name in names.split()
}

ONE_VALUE = {"timeslice": "auto"}
"""Parameters that may be given, with this value alone."""

W_CONTEXTS = ("wstack", "facets_wstack", "wprojection", "wprojectwstack", "awprojection")
CONTEXTS = ("ng", "wg", "2d", "timeslice", "facets", "facets_timeslice", *W_CONTEXTS)

PIPELINES_DECIDE = frozenset({"dopsf", "normalise", "prefix", "residual_imagelist"})
"""Parameters of workflows that pipelines set themselves."""

_NAMES: dict[Callable[..., Any], frozenset[str]] = {}
_PASSED: dict[Callable[..., Any], frozenset[str]] = {}


def workflow(
    *passes_to: Callable[..., Any],
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Check the keywords of a function, and of those that it passes its other keywords to."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        own = inspect.signature(function).parameters.values()
        named = [p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
        passed = frozenset[str]().union(*(_PASSED[other] for other in passes_to))
        accepted = passed.union(p.name for p in named)

        @wraps(function)
        def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            used = {}
            for given, value in kwargs.items():
                name = ALIASES.get(given, given)
                if name in accepted:
                    used[name] = value
                elif name in NEEDLESS:
                    say_once(f"{given} has no effect: {NEEDLESS[name]}")
                elif name in ONE_VALUE:
                    require_one_of(name, str(value), [ONE_VALUE[name]])
                else:
                    raise _unknown(f"{function.__name__}: parameter", given, accepted)
            return function(*args, **used)  # type: ignore[arg-type]

        _NAMES[checked] = accepted
        optional = {p.name for p in named if p.default is not inspect.Parameter.empty}
        _PASSED[checked] = passed | optional - PIPELINES_DECIDE
        return checked

    return decorate


def meant_for(function: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the parameters that a workflow knows."""
    return {name: value for name, value in parameters.items() if name in _NAMES[function]}


def require_one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices.

    Raises
    ------
    ParameterError: with the nearest choice.
    """
    known = tuple(choices)
    if value not in known:
        raise _unknown(name, value, known)


def slices_of(context: str, vis_slices: int) -> int:
    """Return into how many parts visibilities are cut, by RASCIL's name of an imaging context.

    Raises
    ------
    ParameterError: there is no such context, or fewer than one slice.
    """
    require_one_of("context", context, CONTEXTS)
    if vis_slices < 1:
        raise ParameterError(f"vis_slices = {vis_slices}: at least 1")
    if context not in ("ng", "wg", "2d"):
        say_once(f"context {context!r} is as 'ng': the gridder takes every w into account")
    if context in W_CONTEXTS and vis_slices > 1:
        say_once(f"vis_slices has no effect in context {context!r}: no slices of w are needed")
        return 1
    return vis_slices


@cache
def say_once(text: str) -> None:
    """Log a warning, the first time in this process."""
    LOG.warning("%s", text)


def _unknown(what: str, given: str, known: Iterable[str]) -> ParameterError:
    names = sorted(known)
    near = get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(names)}"
    return ParameterError(f"{what} {given!r} is not known; {hint}")
