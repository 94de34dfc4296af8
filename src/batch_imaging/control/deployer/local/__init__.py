"""The deployer for one machine: processes and directories."""

from batch_imaging.control.deployer.local.deployer import LocalDeployer

__all__ = ["LocalDeployer"]
