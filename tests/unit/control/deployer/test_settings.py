"""What the file for schedulers and workers says, Dask reads."""

import dask

from batch_imaging.execution.engines.settings import DASK_SETTINGS, write_dask_settings


def test_the_file_says_what_the_local_engine_sets(tmp_path):
    path = tmp_path / "dask.yaml"
    write_dask_settings(path)
    (read,) = dask.config.collect_yaml([str(path)])
    merged = dask.config.merge(dask.config.config, read)
    for name, value in DASK_SETTINGS.items():
        found = dask.config.get(name, config=merged)
        assert (found.items() >= value.items()) if isinstance(value, dict) else (found == value)
