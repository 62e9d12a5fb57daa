# syntax=docker/dockerfile:1
# vLLM with the adapter: `trail serve MODEL ...`. Targets: `cuda` (the default, last) and `cpu`.
#
#   docker build -f deploy/images/engine.Dockerfile --target cuda -t trail-engine:0.1.0 .
#   docker build -f deploy/images/engine.Dockerfile --target cpu  -t trail-engine:0.1.0-cpu .
ARG BASE=python:3.11-slim-bookworm
# The version that was measured on GPUs; the adapter takes 0.26 to 0.33.
ARG VLLM=vllm/vllm-openai:v0.26.0

FROM ${BASE} AS wheel
WORKDIR /src
COPY . .
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE} AS build-cpu
# The torch of PyPI needs CUDA's libraries even on a CPU: name PyTorch's index of CPU builds here.
ARG PIP_EXTRA_INDEX_URL
RUN python3 -m venv /opt/trail
RUN --mount=type=bind,source=deploy/images/engine-cpu.lock,target=/engine-cpu.lock \
    /opt/trail/bin/pip install --no-cache-dir --no-deps --requirement /engine-cpu.lock \
    && /opt/trail/bin/python -c 'import torch'
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/trail/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM ${BASE} AS cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trail-engine" \
    org.opencontainers.image.description="vLLM for CPUs with the adapter of trail-sidecar" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# Debian stable keeps one version of a package at a time: a pinned one would be gone with the next update.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin trail
COPY --from=build-cpu /opt/trail /opt/trail
ENV PATH=/opt/trail/bin:${PATH} \
    HOME=/home/trail \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    VLLM_NO_USAGE_STATS=1 \
    VLLM_USE_V2_MODEL_RUNNER=0
USER 10001:10001
WORKDIR /home/trail
EXPOSE 8000 9463
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["trail", "serve"]
CMD ["--help"]

# hadolint ignore=DL3006
FROM ${VLLM} AS cuda
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trail-engine" \
    org.opencontainers.image.description="vLLM with the adapter of trail-sidecar" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
USER root
# Brings gRPC, redis and a newer protobuf; what vLLM brought and suffices stays as it is.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=requirements-cpu.lock,target=/requirements.lock \
    python3 -m pip install --no-cache-dir --constraint /requirements.lock /wheels/*.whl \
    && useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin trail
ENV HOME=/home/trail \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    VLLM_NO_USAGE_STATS=1
USER 10001:10001
WORKDIR /home/trail
EXPOSE 8000 9463
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["trail", "serve"]
CMD ["--help"]
