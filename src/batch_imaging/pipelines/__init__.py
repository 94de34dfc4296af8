"""Simulate, self-calibrate, image: stages, each a function mapped over units of work.

The workflows for scripts and notebooks, :mod:`batch_imaging.pipelines.scripting`, may be imported
from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_imaging.pipelines.scripting import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Import the workflows when one is asked for: they need seconds, and most modules do not."""
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(import_module("batch_imaging.pipelines.scripting"), name)
