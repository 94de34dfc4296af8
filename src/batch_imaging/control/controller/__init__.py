"""The processing controller: starts, releases and ends processing blocks, and cleans up."""

from batch_imaging.control.controller.resources import Capacity
from batch_imaging.control.controller.service import run_controller

__all__ = ["Capacity", "run_controller"]
