# One image for all that runs in the cluster; see docs/image.md.
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# The pip of the base image installs into it; it has none of its own.
RUN python -m venv --without-pip /venv
COPY requirements.lock .
# Only wheels, so nothing is compiled. etcd3-fc alone is published as source; it is plain Python.
RUN pip --python /venv/bin/python install --only-binary :all: --no-binary etcd3-fc \
        --requirement requirements.lock
# The packages' own tests; that of astropy is imported with astropy.
RUN find /venv -type d -name tests ! -path '*/astropy/tests' -prune -exec rm -r {} +
COPY LICENSE README.md pyproject.toml ./
COPY src src
# What changes with the project is kept apart, as the last and small layer.
RUN pip --python /venv/bin/python install --no-deps --prefix /project/venv . \
 && mkdir -p /project/etc/dask \
 && PYTHONPATH=$(echo /project/venv/lib/*/site-packages) /venv/bin/python -c "from pathlib import Path; \
from batch_imaging.execution.engines.settings import write_dask_settings; \
write_dask_settings(Path('/project/etc/dask/batch-imaging.yaml'))"

FROM python:3.11-slim
# Tango servers look for the name of their user.
RUN useradd --uid 1000 --home-dir /tmp --no-create-home --no-log-init batch-imaging
COPY --from=alpine/helm:3 /usr/bin/helm /usr/bin/helm
COPY --from=build /venv /venv
ENV BATCH_IMAGING_CHARTS=/opt/batch-imaging/charts \
    HOME=/tmp \
    PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["/venv/bin/batch-imaging", "workflow"]
COPY tango_scripts /opt/batch-imaging/tango_scripts
COPY charts /opt/batch-imaging/charts
COPY --from=build /project /
ARG VERSION=0.1.0
ARG REVISION=
ENV BATCH_IMAGING_REVISION=$REVISION
LABEL org.opencontainers.image.title="batch-imaging" \
      org.opencontainers.image.description="Workflow, Dask engine and control system of batch_imaging" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
