"""Engines bring a Dask cluster up and take it down; `open_executor` alone chooses."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

from dask.utils import parse_bytes

from batch_imaging.errors import EngineError, ParameterError
from batch_imaging.execution.engines.address import address_executor
from batch_imaging.execution.engines.engine import Engine, engine_executor
from batch_imaging.execution.engines.htcondor import HTCondorEngine, is_inside_slot
from batch_imaging.execution.engines.kubernetes import KubernetesEngine
from batch_imaging.execution.engines.local import local_executor
from batch_imaging.execution.engines.slurm import (
    SlurmEngine,
    SlurmStepEngine,
    is_inside_allocation,
)
from batch_imaging.execution.engines.ssh import SshEngine
from batch_imaging.execution.executor import Executor, SerialExecutor
from batch_imaging.parameters import Engine as EngineParameters

EngineName = Literal["auto", "local", "serial", "slurm", "htcondor", "ssh", "address", "kubernetes"]
ADDRESS_VARIABLES = ("DASK_SCHEDULER_ADDRESS", "RASCIL_DASK_SCHEDULER")
ENGINES: dict[str, tuple[Callable[[EngineParameters, int], Engine], str, str]] = {
    "slurm": (SlurmEngine, "dask_jobqueue", "batch"),
    "htcondor": (HTCondorEngine, "dask_jobqueue", "batch"),
    "ssh": (SshEngine, "asyncssh", "ssh"),
    "kubernetes": (KubernetesEngine, "dask_kubernetes", "dask-operator"),
}
"""Engines in files of their own, the library that each needs, and the extra that installs it."""


@contextmanager
def open_executor(
    engine: EngineName | EngineParameters, n_workers: int, memory_limit_bytes: int
) -> Iterator[Executor]:
    """Yield an executor and end whatever it started.

    Parameters
    ----------
    engine: its name, or all that may be said of one.
    memory_limit_bytes: of one worker, unless the engine's parameters say more.

    Raises
    ------
    EngineError: it did not come up within its deadline, with the platform's reason.
    """
    wanted = EngineParameters(name=engine) if isinstance(engine, str) else engine
    name = chosen_engine(wanted)
    memory_bytes = asked_memory_bytes(wanted) or memory_limit_bytes
    if name == "serial":
        yield SerialExecutor()
    elif name == "local":
        with local_executor(n_workers, memory_bytes, dashboard=wanted.dashboard) as executor:
            yield executor
    elif name == "address":
        address = wanted.address or _address_of_environment()
        if not address:
            raise ParameterError(
                f"engine address: set engine.address, or {' or '.join(ADDRESS_VARIABLES)}"
            )
        with address_executor(address, n_workers, wanted.deadline, str) as executor:
            yield executor
    else:
        with engine_executor(
            _make_engine(name, wanted, memory_bytes), n_workers, wanted.deadline
        ) as executor:
            yield executor


def chosen_engine(wanted: EngineParameters) -> EngineName:
    """Return the engine that runs: what "auto" stands for here, and htcondor inside its own job."""
    if wanted.name == "auto":
        return "address" if _address_of_environment() else "local"
    if wanted.name == "htcondor" and is_inside_slot():
        return "local"
    return wanted.name


def own_memory_bytes(wanted: EngineParameters) -> int | None:
    """Return the most that a worker may take, None where all share this machine's memory."""
    if chosen_engine(wanted) in {"local", "serial"}:
        return None
    return asked_memory_bytes(wanted) or sys.maxsize


def asked_memory_bytes(wanted: EngineParameters) -> int | None:
    """Return the memory that was asked for a worker, None if that is left to the plan."""
    return int(parse_bytes(f"{wanted.memory}B")) if wanted.memory else None


def _address_of_environment() -> str | None:
    return next((os.environ[each] for each in ADDRESS_VARIABLES if os.environ.get(each)), None)


def _make_engine(name: EngineName, wanted: EngineParameters, memory_bytes: int) -> Engine:
    make, module, extra = ENGINES[name]
    if find_spec(module) is None:
        raise EngineError(
            f"engine {name}: {module} is not installed; pip install 'batch-imaging[{extra}]'"
        )
    if name == "slurm" and is_inside_allocation():
        return SlurmStepEngine(wanted, memory_bytes)
    return make(wanted, memory_bytes)
