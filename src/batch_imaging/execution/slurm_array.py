"""A graph as SLURM job arrays, one for each stage, each depending on the one before.

SLURM has no conditions: arrays of cycles that are not needed start, see that, and end at once.
What failed is done by another `submit.sh`, for units that are done are skipped.
"""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from batch_imaging.execution.dagman import write_status_script
from batch_imaging.execution.graph import Condition, Graph, Stage
from batch_imaging.io.fits_image import publishing

SUBMIT = "submit.sh"
_SCRIPTS = "slurm"

_ARRAY = """\
#!/bin/bash
#SBATCH --job-name={stage.name}
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem={mib}M
#SBATCH --requeue
#SBATCH --output=logs/%x-%a.log
set -euo pipefail
export OMP_NUM_THREADS={cpus}
{conditions}exec {program} unit {arguments}
"""

_SUBMIT_TEXT = """\
#!/bin/bash
# Submit all arrays, each after the one before: submit.sh [OPTION OF SBATCH...]
set -euo pipefail
cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")"
jobs=()
trap '[ ${{#jobs[@]}} = 0 ] || scancel "${{jobs[@]}}"' ERR
for stage in {stages}; do
    job=$(sbatch --parsable --kill-on-invalid-dep=yes \\
        ${{jobs:+"--dependency=afterok:${{jobs[-1]}}"}} "$@" "{scripts}/$stage.sbatch")
    jobs+=("${{job%%;*}}")
done
echo "${{jobs[@]}}"
"""


def write_slurm_arrays(graph: Graph, folder: Path, program: Path) -> Path:
    """Write a job script for each stage, and the one that submits them all; return the latter.

    Parameters
    ----------
    program: `batch-imaging` as it is called where jobs run; they see ``folder`` at the same path.
    """
    for name in ("logs", _SCRIPTS):
        (folder / name).mkdir(exist_ok=True)
    status_script = write_status_script(folder)
    names = []
    for phase in graph.phases:
        for stage in phase.stages:
            when = [c for c in (phase.when, stage.when) if c]
            text = _array(stage, when, graph.cpus, status_script.name, program)
            _write_script(folder / _SCRIPTS / f"{stage.name}.sbatch", text)
            names.append(stage.name)
    submit = folder / SUBMIT
    _write_script(submit, _SUBMIT_TEXT.format(stages=" ".join(names), scripts=_SCRIPTS))
    return submit


def _array(
    stage: Stage, when: Sequence[Condition], cpus: int, status_script: str, program: Path
) -> str:
    first = stage.nodes[0].arguments
    return _ARRAY.format(
        stage=stage,
        last=len(stage.nodes) - 1,
        cpus=cpus,
        mib=math.ceil(max(node.memory_bytes for node in stage.nodes) / 2**20),
        conditions="".join(f"./{status_script} {c.status} {c.file} || exit 0\n" for c in when),
        program=shlex.quote(str(program)),
        arguments=first.replace("--part 0", '--part "$SLURM_ARRAY_TASK_ID"'),
    )


def _write_script(path: Path, text: str) -> None:
    with publishing(path) as partial:
        partial.write_text(text)
        partial.chmod(0o755)
