"""Buffers that are deployed, which processing blocks use them, and how they go."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from batch_imaging.control.config import Config
from batch_imaging.control.config.reader import Reader, deploy_path
from batch_imaging.errors import ConfigVanished, ControlError

REMOVED_DEADLINE_S = 60.0
POLL_S = 0.1
DEFAULT_SIZE = "1Gi"
"""Size of a buffer whose deployment says none, as in its chart."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A buffer that is deployed.

    Attributes
    ----------
    storage_class: empty for that of the installation.
    path: where the workers see it; empty until its deployer has said so.
    is_retained: whether it stays when all blocks that use it have ended.
    in_use_by: blocks that have not ended; of the others that used it, `used_by`.
    """

    name: str
    size: str
    storage_class: str
    status: str
    reason: str
    path: str
    is_retained: bool
    in_use_by: tuple[str, ...]
    used_by: tuple[str, ...]


def list_buffers(reader: Reader) -> list[Buffer]:
    """Return all buffers that are deployed, by name."""
    names = {pb_id: _buffer_names(reader, pb_id) for pb_id in reader.list_processing_blocks()}
    return [
        buffer
        for name in reader.list_deployments()
        if (buffer := _buffer(reader, name, [each for each in names if name in names[each]]))
    ]


def delete_buffer(config: Config, buffer: Buffer) -> bool:
    """Delete a buffer's deployment; return whether its files are known to be gone.

    Where the folder is seen from here, that is waited for. In a cluster it cannot be known.

    Raises
    ------
    ConfigVanished: there is no such buffer any more.
    ControlError: a block uses it, or the deployer does not remove it.
    """
    is_here = bool(buffer.path) and os.path.isdir(buffer.path)
    for txn in config.txn():
        (current,) = choose_buffers(txn, [buffer.name])
        check_unused(current)
        txn.delete_deployment(buffer.name)
    deadline = time.monotonic() + REMOVED_DEADLINE_S
    while is_here and os.path.isdir(buffer.path):
        if time.monotonic() > deadline:
            raise ControlError(
                f"{buffer.name}: its deployer has not removed {buffer.path} within "
                f"{REMOVED_DEADLINE_S:g} s; if none runs, remove that folder by hand"
            )
        time.sleep(POLL_S)
    return is_here


def choose_buffers(reader: Reader, names: Iterable[str]) -> list[Buffer]:
    """Return the buffers of these names.

    Raises
    ------
    ConfigVanished: one does not exist.
    """
    buffers = {each.name: each for each in list_buffers(reader)}
    for name in names:
        if name not in buffers:
            raise ConfigVanished(
                deploy_path(name), "there is no such buffer; `batch-imaging buffers list` shows all"
            )
    return [buffers[name] for name in dict.fromkeys(names)]


def check_unused(buffer: Buffer) -> None:
    """Let a buffer pass that no block uses.

    Raises
    ------
    ControlError: one does.
    """
    if buffer.in_use_by:
        raise ControlError(
            f"{buffer.name}: {', '.join(buffer.in_use_by)} has not ended and uses it; wait, or "
            "`batch-imaging config cancel pb` first"
        )


def _buffer_names(reader: Reader, pb_id: str) -> set[str]:
    """Return the buffers that a block has asked for, or will by its parameters."""
    block, state = reader.get_processing_block(pb_id), reader.get_processing_block_state(pb_id)
    parameters = block.parameters if block else {}
    asked = state.resources.buffers.keys() if state and state.resources else set()
    source = parameters.get("input")
    taken = source.get("buffer") if isinstance(source, dict) else None
    return {
        *asked,
        *([str(taken)] if taken else []),
        *(str(parameters.get(f"buffer_{use}") or f"buff-{pb_id}-{use}") for use in ("vis", "img")),
    }


def _buffer(reader: Reader, name: str, users: list[str]) -> Buffer | None:
    deployment, state = reader.get_deployment(name), reader.get_deployment_state(name)
    if deployment is None or deployment.chart != "buffer":
        return None
    values = deployment.values
    users = sorted({*users, *filter(None, [str(values.get("pb_id", ""))])})
    return Buffer(
        name=name,
        size=str(values.get("size", DEFAULT_SIZE)),
        storage_class=str(values.get("class") or ""),
        status=state.status if state else "",
        reason=(state and state.reason) or "",
        path=(state and state.path) or "",
        is_retained=deployment.retain,
        in_use_by=tuple(each for each in users if _is_at_work(reader, each)),
        used_by=tuple(each for each in users if not _is_at_work(reader, each)),
    )


def _is_at_work(reader: Reader, pb_id: str) -> bool:
    """Whether a block has not ended, or its script is not done with it."""
    if reader.get_processing_block(pb_id) is None:
        return False
    state = reader.get_processing_block_state(pb_id)
    return (
        state is None
        or not state.status.ended
        or reader.get_processing_block_owner(pb_id) is not None
    )
