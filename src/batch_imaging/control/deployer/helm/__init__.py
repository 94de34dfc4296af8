"""The deployer for Kubernetes: a deployment is a Helm release."""

from batch_imaging.control.deployer.helm.api import Api
from batch_imaging.control.deployer.helm.cluster import Cluster
from batch_imaging.control.deployer.helm.deployer import HelmDeployer
from batch_imaging.control.deployer.helm.program import Helm
from batch_imaging.control.deployer.helm.values import read_defaults

__all__ = ["Api", "Cluster", "Helm", "HelmDeployer", "read_defaults"]
