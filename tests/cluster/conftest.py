"""Fixtures of tests on the Kubernetes cluster that KUBECONFIG names."""

import os
import shutil
from collections.abc import Iterator

import pytest
from installation import Installation


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in ("helm", "kubectl") if not shutil.which(name)]
    if "KUBECONFIG" not in os.environ:
        missing.append("KUBECONFIG")
    for item in items:
        if missing and item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.skip(reason=f"without {', '.join(missing)}: no cluster"))


@pytest.fixture(scope="session")
def system() -> Iterator[Installation]:
    """The whole control system on the cluster, for all tests that leave it standing."""
    installation = Installation.new()
    try:
        installation.install("--set", "devices.subarrays=2")
        yield installation
        installation.uninstall()
    finally:
        installation.delete_namespaces()
