"""A graph as HTCondor's DAGMan reads it: `main.dag`, a sub-DAG for each phase, one submit file.

How many phases run comes out on the way: a PRE script looks at a status file, and PRE_SKIP makes a
node whose script says no one that has succeeded. So all files stand before the first job starts,
and a rescue DAG goes on where jobs failed, in whichever cycle that was. Every job names the files
it reads and writes, which HTCondor brings and takes back: no file system is shared.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from batch_imaging.errors import DataError
from batch_imaging.execution.graph import Condition, Graph, Node, Stage
from batch_imaging.io.fits_image import publishing

MAIN = "main.dag"
_SUBMIT, _STATUS = "unit.sub", "status-is"
_RETRIES = 2
_SKIP = 1  # exit code of the PRE script

_STATUS_SCRIPT = f"""\
#!/bin/sh
# status-is STATUS FILE: whether a workflow has come to this
grep -qs "\\"status\\": \\"$1\\"" "$2" || exit {_SKIP}
"""

_SUBMIT_TEXT = """\
# One unit of work; the DAG says which. By hand: {program} unit $(unit)
universe                = vanilla
executable              = {program}
transfer_executable     = false
arguments               = unit $(unit)
should_transfer_files   = YES
when_to_transfer_output = ON_SUCCESS
success_exit_code       = 0
transfer_input_files    = $(in)
transfer_output_files   = $(out)
request_cpus            = {cpus}
request_memory          = $(mib)MB
request_disk            = $(kib)KB
environment             = "OMP_NUM_THREADS={cpus} HOME=."
output                  = logs/$(node).out
error                   = logs/$(node).err
stream_error            = True
log                     = logs/workflow.log
notification            = never
queue
"""


def write_dag(graph: Graph, folder: Path, program: Path) -> Path:
    """Write the files of a workflow into its folder, to be submitted there, and return the DAG's.

    Rescue DAGs that stand there are kept: `condor_submit_dag` goes on with them.

    Parameters
    ----------
    program: `batch-imaging` as it is called where jobs run.
    """
    (folder / "logs").mkdir(exist_ok=True)
    _write(folder / _SUBMIT, [_SUBMIT_TEXT.format(program=program, cpus=graph.cpus).rstrip()])
    write_status_script(folder)
    lines: list[str] = []
    names: list[str] = []
    for phase in graph.phases:
        nodes = [node for stage in phase.stages for node in stage.nodes]
        if len(nodes) == 1:
            names.append(nodes[0].name)
            lines += _job(nodes[0])
        else:
            names.append(phase.name)
            file = f"{phase.name}.dag"
            _write(folder / file, _stages(phase.stages))
            lines.append(f"SUBDAG EXTERNAL {phase.name} {file}")
        lines += _pre_script(names[-1], phase.when)
    _write(folder / MAIN, [*lines, *_in_order([[name] for name in names])])
    return folder / MAIN


def remove_rescue_dags(folder: Path) -> None:
    """Remove what DAGMan left of a workflow that is another by now."""
    for path in folder.glob("*.dag.*"):
        path.unlink()


def write_status_script(folder: Path) -> Path:
    """Write the script that batch systems ask for the status in a file."""
    path = folder / _STATUS
    with publishing(path) as partial:
        partial.write_text(_STATUS_SCRIPT)
        partial.chmod(0o755)
    return path


def _stages(stages: Sequence[Stage]) -> Iterator[str]:
    for stage in stages:
        for node in stage.nodes:
            yield from _job(node)
            yield from _pre_script(node.name, stage.when)
    yield from _in_order([[node.name for node in stage.nodes] for stage in stages])


def _job(node: Node) -> Iterator[str]:
    values = {
        "node": node.name,
        "unit": node.arguments,
        "in": ",".join(node.inputs),
        "out": ",".join(node.outputs),
        "mib": f"{math.ceil(node.memory_bytes / 2**20)}",
        "kib": f"{math.ceil(node.disk_bytes / 2**10)}",
    }
    yield f"JOB {node.name} {_SUBMIT}"
    yield f"VARS {node.name} " + " ".join(f'{name}="{text}"' for name, text in values.items())
    yield f"RETRY {node.name} {_RETRIES} UNLESS-EXIT {DataError.exit_code}"


def _pre_script(name: str, when: Condition | None) -> Iterator[str]:
    if when:
        yield f"SCRIPT PRE {name} {_STATUS} {when.status} {when.file}"
        yield f"PRE_SKIP {name} {_SKIP}"


def _in_order(names: Sequence[Sequence[str]]) -> Iterator[str]:
    for parents, children in pairwise(names):
        yield f"PARENT {' '.join(parents)} CHILD {' '.join(children)}"


def _write(path: Path, lines: Iterable[str]) -> None:
    with publishing(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines))
