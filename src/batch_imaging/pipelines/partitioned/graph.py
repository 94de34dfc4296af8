"""The jobs of partitioned imaging, in one folder, under file names that say what is in them.

plan.json                  all that jobs need to know
part-0003.ms               a part that is a set of its own
density-0003, density      uv densities for uniform and robust weighting
psf-0003, psf              point spread functions
residual-02-0003           what a part adds to the residual at the start of major cycle 2
residual-02, model-02      the residual, and the model that leaves it
status-02.json             whether a further cycle follows, and why not
restored.fits, ...         products
"""

from collections.abc import Sequence
from dataclasses import replace

from batch_imaging.errors import ParameterError
from batch_imaging.execution.graph import Condition, Graph, Node, Phase, Stage
from batch_imaging.execution.memory import MemoryModel
from batch_imaging.pipelines.partitioned.plan import PLAN, ImagingPlan

DENSITY, PSF = "density.npz", "psf.npz"
PRODUCTS = ("restored", "residual", "model", "psf")
GOING_ON, STOPPED = "continues", "stopped"
_IMAGE_BYTES = 8  # a pixel, in double precision
_DOUBLE_BYTES_PER_PIXEL = 56.0  # more than in single precision, with a density
_COPIES = 5.0  # of a part's bytes on disk: as read, Stokes I, model, residual in double precision


def make_graph(plan: ImagingPlan) -> Graph:
    """Return the jobs: as many major cycles as there may be, each but the first on a condition."""
    partition, nodes = plan.partition, _NodeMaker(plan)
    parts = range(len(partition.parts))
    data = [str(partition.file_of(part)) for part in parts]
    phases = []
    if partition.real:
        sets = [str(given.path) for given in partition.sets]
        phases.append(Phase("partition", (nodes.one("partition", sets, data),)))
    density = [DENSITY] if plan.weighted_by_density else []
    if density:
        each = [density_of(part) for part in parts]
        measure = nodes.each("density", [([own], [d]) for own, d in zip(data, each, strict=True)])
        phases.append(Phase("density", (measure, nodes.one("sum-density", each, density))))
    n_cycles = plan.ical.stopping.max_nmajor + 1
    phases += [_major_cycle(nodes, cycle, data, density) for cycle in range(n_cycles)]
    return Graph(tuple(phases), plan.cpus)


def _major_cycle(
    nodes: "_NodeMaker", cycle: int, data: Sequence[str], density: Sequence[str]
) -> Phase:
    """Return the jobs from the images of the parts to the decision whether this is the last."""
    images = [residual_of(cycle, part) for part in range(len(data))]
    if cycle == 0:
        psfs = [psf_of(part) for part in range(len(data))]
        each = [([own, *density], [p, i]) for own, p, i in zip(data, psfs, images, strict=True)]
        first = nodes.each("grid", each, cycle)
        total = nodes.one("sum", [*psfs, *images], [PSF, residual_of(0)], cycle)
        earlier, residuals, when = [], [residual_of(0)], None
    else:
        model = model_of(cycle)
        each = [([own, *density, model], [i]) for own, i in zip(data, images, strict=True)]
        first = nodes.each("subtract", each, cycle)
        total = nodes.one("sum", [PSF, *images], [residual_of(cycle)], cycle)
        earlier = [*(model_of(c) for c in (cycle - 1, cycle) if c), status_of(cycle - 1)]
        residuals = [residual_of(cycle - 1), residual_of(cycle)]
        when = Condition(status_of(cycle - 1), GOING_ON)
    result = [model_of(cycle + 1), status_of(cycle)]
    clean = nodes.one("deconvolve", [PSF, residual_of(cycle), *earlier], result, cycle)
    files = [f"{name}.fits" for name in PRODUCTS]
    restore = nodes.one("restore", [PSF, *residuals, *result], files, cycle)
    restore = replace(restore, when=Condition(status_of(cycle), STOPPED))
    return Phase(f"cycle-{cycle:02}", (first, total, clean, restore), when)


def density_of(part: int) -> str:
    return f"density-{part:04}.npz"


def psf_of(part: int) -> str:
    return f"psf-{part:04}.npz"


def residual_of(cycle: int, part: int | None = None) -> str:
    return f"residual-{cycle:02}{'' if part is None else f'-{part:04}'}.npz"


def model_of(cycle: int) -> str:
    return f"model-{cycle:02}.npz"


def status_of(cycle: int) -> str:
    return f"status-{cycle:02}.json"


class _NodeMaker:
    """Makes nodes, with what each takes."""

    def __init__(self, plan: ImagingPlan) -> None:
        partition, n_pixels = plan.partition, plan.imaging.npixel**2
        self._bytes = {str(given.path): given.n_bytes for given in partition.sets}
        if partition.real:
            sizes = {str(partition.file_of(p)): q.n_bytes for p, q in enumerate(partition.parts)}
            self._bytes |= sizes
        self._image_bytes = len(plan.planes) * _IMAGE_BYTES * n_pixels
        self._plan, self._n_pixels = plan, n_pixels

    def one(
        self, step: str, inputs: Sequence[str], outputs: Sequence[str], cycle: int | None = None
    ) -> Stage:
        return Stage(_stage_name(step, cycle), (self._node(step, inputs, outputs, cycle, None),))

    def each(
        self,
        step: str,
        files: Sequence[tuple[Sequence[str], Sequence[str]]],
        cycle: int | None = None,
    ) -> Stage:
        """Return a stage of one node for each part, of whose files inputs and outputs are given."""
        nodes = (self._node(step, *of_part, cycle, part) for part, of_part in enumerate(files))
        return Stage(_stage_name(step, cycle), tuple(nodes))

    def _node(
        self,
        step: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        cycle: int | None,
        part: int | None,
    ) -> Node:
        data = 0 if part is None else _COPIES * self._plan.partition.parts[part].n_bytes
        memory = MemoryModel(1, len(self._plan.planes), data, 0.0, _DOUBLE_BYTES_PER_PIXEL)
        disk_bytes = sum(self._bytes.get(name, self._image_bytes) for name in (*inputs, *outputs))
        return Node(
            step,
            _options(cycle, part),
            (PLAN, *inputs),
            tuple(outputs),
            memory.worker_bytes(self._n_pixels),
            float(disk_bytes),
        )


def _stage_name(step: str, cycle: int | None) -> str:
    return step if cycle is None else f"{step}-{cycle:02}"


def _options(cycle: int | None, part: int | None) -> tuple[tuple[str, int], ...]:
    numbers = {"--cycle": cycle, "--part": part}
    return tuple((name, number) for name, number in numbers.items() if number is not None)


def find_node(plan: ImagingPlan, step: str, cycle: int | None, part: int | None) -> Node:
    """Return the node of a workflow that these words name.

    Raises
    ------
    ParameterError: there is none.
    """
    nodes = tuple(make_graph(plan).nodes())
    same_step = [node for node in nodes if node.step == step]
    for node in same_step:
        if node.options == _options(cycle, part):
            return node
    if not same_step:
        steps = dict.fromkeys(node.step for node in nodes)
        raise ParameterError(f"unit {step}: this workflow has none; it has {', '.join(steps)}")
    raise ParameterError(
        f"unit {step}: no such cycle or part; they go from `{same_step[0].arguments}` to "
        f"`{same_step[-1].arguments}`"
    )
