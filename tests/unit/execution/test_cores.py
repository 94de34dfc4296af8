"""Cores that a worker may use, wherever it runs."""

import pytest

from batch_imaging.execution.engines.address import _Cores, _cores_per_worker


class Workers:
    """Answers as a Dask client does."""

    def __init__(self, **cores):
        self._cores = {f"tcp://{host}": found for host, found in cores.items()}

    def run(self, function):
        return self._cores


@pytest.mark.parametrize(
    ("workers", "cores"),
    [
        ({"10.0.0.1": _Cores("a", 8, 8)}, 8),
        ({f"10.0.0.1:{port}": _Cores("a", 8, 8) for port in range(4)}, 2),
        ({f"10.0.0.{pod}": _Cores("a", 8, 8) for pod in range(4)}, 2),
        ({f"10.0.0.{pod}": _Cores("a", 1, 8) for pod in range(4)}, 1),
        ({f"10.0.0.{pod}": _Cores("a", 3, 8) for pod in range(2)}, 3),
        ({f"10.0.0.{pod}": _Cores("ab"[pod % 2], 8, 8) for pod in range(3)}, 4),
        ({f"10.0.0.{pod}": _Cores("a", 2, 2) for pod in range(5)}, 1),
    ],
    ids=["alone", "one host", "pods", "limited", "roomy", "two machines", "too many"],
)
def test_workers_share_host_and_machine(workers, cores):
    assert _cores_per_worker(Workers(**workers)) == cores


def test_processes_of_a_machine_know_it():
    here = _Cores.of_this_process()
    assert here.machine == _Cores.of_this_process().machine != ""
    assert 1 <= here.here <= here.of_machine
