"""Batch simulation, self-calibration and imaging for SKA1-Low."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("batch-imaging")
