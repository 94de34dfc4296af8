"""Whether a worker may take what it needs."""

from batch_imaging.errors import ParameterError, ResourceError


def require_memory(needed_bytes: int, option: str, memory: str | None, workers: int) -> None:
    """Compare what a worker needs with ``memory``, or with its share of what is free.

    Raises
    ------
    ParameterError: ``memory`` is no size; it names the option.
    ResourceError: it is too little.
    """
    from batch_imaging.execution.memory import available_memory_bytes, shown_bytes
    from batch_imaging.pipelines.quantities import parse_bytes

    try:
        given_bytes = parse_bytes(memory) if memory else available_memory_bytes() / workers
    except ValueError as error:
        raise ParameterError(f"{option} {memory}: give a size as in 4GB") from error
    if needed_bytes > given_bytes:
        raise ResourceError(
            f"a worker takes about {shown_bytes(needed_bytes)} and may have "
            f"{shown_bytes(given_bytes)}; give it more with {option}, or less to do: fewer workers "
            "side by side, or fewer pixels"
        )
