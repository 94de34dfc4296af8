"""Deployers make the deployments of the configuration database real."""

from batch_imaging.control.deployer.loop import Deployer, run_deployer

__all__ = ["Deployer", "run_deployer"]
