"""One object that runs functions at once, or records them as a graph for Dask to run later.

Its verbs are those of RASCIL's ``rsexecute``: a script that is written with them runs serially in
one process, or on a cluster, by one line.

    rsexecute.set_client(use_dask=True, nworkers=4)
    squares = [rsexecute.execute(square)(n) for n in range(10)]
    total = rsexecute.compute(rsexecute.execute(sum)(squares), sync=True)
    rsexecute.close()
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from operator import getitem
from typing import Any
from uuid import uuid4

import dask
from dask.utils import apply
from distributed import Client, LocalCluster

from batch_imaging.errors import ClusterStartTimeout
from batch_imaging.execution.engines import ADDRESS_VARIABLES

LOG = logging.getLogger("batch_imaging")

CONNECT_S = 30.0


class Task:
    """A call that has yet to be made, of arguments among which are results of other tasks.

    Dask's own ``Delayed`` copies the graph so far for every call, which for the thousands of calls
    of a pipeline with facets takes minutes.

    Attributes
    ----------
    key: of the task in a graph.
    call: as Dask's graphs have it, with keys in place of tasks.
    needs: tasks among the arguments.
    """

    def __init__(self, function: Any, *args: Any, nout: int | None = None, **kwargs: Any) -> None:
        self.key = f"{getattr(function, '__name__', 'task')}-{uuid4().hex}"
        self.needs: list[Task] = []
        self.call = (apply, function, *(_packed(part, self.needs) for part in (list(args), kwargs)))
        self._nout = nout

    def __repr__(self) -> str:
        return f"Task({self.key})"

    def __getitem__(self, index: Any) -> "Task":
        return Task(getitem, self, index)

    def __len__(self) -> int:
        if self._nout is None:
            raise TypeError(f"{self.key}: how many results it has is told by execute(…, nout=…)")
        return self._nout

    def __iter__(self) -> Iterator["Task"]:
        return (self[index] for index in range(len(self)))

    def on_workers(self, future: Any) -> "Task":
        """Return the task whose result a future stands for."""
        return Task(_itself, future, nout=self._nout)


class GraphExecutor:
    """Runs functions at once, until :meth:`set_client` says that Dask is to be used."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._own: tuple[Client | LocalCluster, ...] = ()

    @property
    def client(self) -> Client | None:
        """The client of the Dask cluster, None where functions run at once."""
        return self._client

    @property
    def using_dask(self) -> bool:
        return self._client is not None

    def set_client(
        self,
        client: Client | None = None,
        use_dask: bool = True,
        nworkers: int | None = None,
        *,
        n_workers: int | None = None,
        threads_per_worker: int = 1,
        memory_limit: str | float = "auto",
        processes: bool = True,
        local_dir: str | None = None,
        dashboard_address: str = "127.0.0.1:0",
        verbose: bool = False,
    ) -> None:
        """Choose where functions run from now on; what was chosen before is closed.

        Parameters
        ----------
        client: of a cluster that is there already; :meth:`close` leaves it to its owner. Without
            it the scheduler that DASK_SCHEDULER_ADDRESS or RASCIL_DASK_SCHEDULER names is used, or
            else workers on this machine are started.
        use_dask: false: functions run at once, in this process.
        nworkers, n_workers: two names of the number of those workers, by default one a core.
        memory_limit: of a worker, bytes or as Dask writes it.
        processes: whether workers are processes, not threads of this one.
        dashboard_address: where Dask shows what it does; by default on any free port.
        verbose: log where scheduler and dashboard are.

        Raises
        ------
        ClusterStartTimeout: the scheduler of the environment variable does not answer.
        """
        self.close()
        if not use_dask:
            return
        if client is None:
            client = _connect() or self._start(
                n_workers=n_workers or nworkers,
                threads_per_worker=threads_per_worker,
                memory_limit=memory_limit,
                processes=processes,
                local_directory=local_dir,
                dashboard_address=dashboard_address,
            )
            self._own = (client, *self._own)
        self._client = client
        if verbose:
            LOG.info("%s, dashboard %s", client, client.dashboard_link)

    def _start(self, **options: Any) -> Client:
        cluster = LocalCluster(**options)
        self._own = (cluster,)
        return Client(cluster, set_as_default=False)

    def execute(self, function: Any, nout: int | None = None, pure: bool | None = None) -> Any:
        """Return the function itself, or one that adds a task to the graph.

        Parameters
        ----------
        nout: values that the function returns, where they are to be told apart in the graph.
        pure: for RASCIL's scripts; every call is a task of its own.
        """
        if self._client is None:
            return function
        return lambda *args, **kwargs: Task(function, *args, nout=nout, **kwargs)

    def compute(self, value: Any, sync: bool = False) -> Any:
        """Return the value of a graph: of lists, tuples and dictionaries of it, however deep.

        ``sync`` waits for it; without, a future is returned, whose ``result()`` does.
        """
        if self._client is None:
            return value
        (future,) = self._begin([Task(_itself, value)])
        return future.result() if sync else future

    def persist(self, graph: Any) -> Any:
        """Begin to compute a graph, and let its results stay on the workers."""
        if self._client is None:
            return graph
        tasks: list[Task] = []
        _packed(graph, tasks)
        begun = dict(zip(tasks, self._begin(tasks), strict=True))
        return _replaced(graph, lambda task: task.on_workers(begun[task]))

    def _begin(self, tasks: list[Task]) -> list[Any]:
        """Return futures of tasks, which are sent to the scheduler with all that they need."""
        keys = [task.key for task in tasks]
        # Visibilities and images may be values of a graph: each goes to the workers once.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):
            return self._client.get(_graph_of(tasks), keys, sync=False)  # type: ignore

    def scatter(self, data: Any, **options: Any) -> Any:
        """Move data to the workers: a list becomes a list of futures."""
        return data if self._client is None else self._client.scatter(data, **options)

    def gather(self, futures: Any) -> Any:
        """Fetch what futures stand for."""
        return futures if self._client is None else self._client.gather(futures)

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function now, on every worker if there are any: {worker's address: result}."""
        if self._client is None:
            return function(*args, **kwargs)
        return self._client.run(function, *args, **kwargs)

    def optimize(self, graph: Any) -> Any:
        """Return the graph; Dask optimises it when it is computed."""
        return graph

    def close(self) -> None:
        """Stop what :meth:`set_client` started; functions run at once again."""
        own, self._client, self._own = self._own, None, ()
        for started in own:
            started.close()


def _itself(value: Any) -> Any:
    return value


def _graph_of(tasks: Iterable[Task]) -> dict[str, Any]:
    graph: dict[str, Any] = {}
    waiting = list(tasks)
    while waiting:
        task = waiting.pop()
        if task.key not in graph:
            graph[task.key] = task.call
            waiting.extend(task.needs)
    return graph


def _packed(value: Any, tasks: list[Task]) -> Any:
    """Return what Dask's graphs have for a value, and note the tasks in it."""
    if isinstance(value, Task):
        tasks.append(value)
        return value.key
    if isinstance(value, list):
        return [_packed(part, tasks) for part in value]
    if isinstance(value, tuple):
        return (tuple, [_packed(part, tasks) for part in value])
    if isinstance(value, dict):
        return (dict, [[name, _packed(part, tasks)] for name, part in value.items()])
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
        held = {name: part for name, part in parts.items() if isinstance(part, Task)}
        if held:
            rest = replace(value, **dict.fromkeys(held))
            return (apply, replace, [rest], _packed(held, tasks))
    return value


def _replaced(graph: Any, change: Callable[[Task], Any]) -> Any:
    """Return the same lists, tuples and dictionaries with other tasks."""
    if isinstance(graph, Task):
        return change(graph)
    if isinstance(graph, list | tuple):
        return type(graph)(_replaced(part, change) for part in graph)
    if isinstance(graph, dict):
        return {name: _replaced(part, change) for name, part in graph.items()}
    return graph


def _connect() -> Client | None:
    """Return a client of the scheduler that the environment names, if it names one."""
    for variable in ADDRESS_VARIABLES:
        if address := os.environ.get(variable):
            try:
                return Client(address, timeout=CONNECT_S, set_as_default=False)
            except (OSError, TimeoutError) as error:
                raise ClusterStartTimeout(
                    f"{variable}={address}: no scheduler answered within {CONNECT_S:g} s; "
                    "start it, correct the address or unset the variable"
                ) from error
    return None


rsexecute = GraphExecutor()
"""The one that the workflows of :mod:`batch_imaging.pipelines` use."""
