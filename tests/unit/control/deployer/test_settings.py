"""What the file for schedulers and workers says, Dask reads."""

import dask

from batch_imaging.execution.engines.settings import DASK_SETTINGS, write_dask_settings


def test_the_file_says_what_the_local_engine_sets(tmp_path):
    path = tmp_path / "dask.yaml"
    write_dask_settings(path)
    (read,) = dask.config.collect_yaml([str(path)])
    merged = dask.config.merge(dask.config.config, read)
    assert dask.config.get("distributed.logging.distributed", config=merged) == "info"
    for name, value in DASK_SETTINGS.items():
        if name == "distributed.logging":  # these have logs of their own
            continue
        found = dask.config.get(name, config=merged)
        assert found == value
