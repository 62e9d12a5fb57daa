# syntax=docker/dockerfile:1
# Predictor and scheduler in one image: `trail predictor ...`, `trail scheduler ...`.
#
#   docker build -f deploy/images/services.Dockerfile --target cpu  -t trail-services:0.1.0 .
#   docker build -f deploy/images/services.Dockerfile --target cuda -t trail-services:0.1.0-cuda .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# pip stays outside: what runs has no installer.
RUN python3 -m venv --without-pip /opt/trail
WORKDIR /src
COPY . .
RUN python3 -m pip --python /opt/trail/bin/python install --no-cache-dir \
    --constraint requirements-cpu.lock '.[tracing]'

# CUDA, cuDNN and cuBLAS come as wheels: no toolkit, and the host brings only its driver.
FROM build AS build-cuda
RUN python3 -m pip --python /opt/trail/bin/python uninstall --yes onnxruntime \
    && python3 -m pip --python /opt/trail/bin/python install --no-cache-dir --no-deps \
    --requirement deploy/images/cuda.lock

FROM ${BASE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trail-services" \
    org.opencontainers.image.description="Predictor and scheduler of trail-sidecar" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/trail/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    TRAIL_HEALTH=127.0.0.1:50061
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin trail
# As a number: Kubernetes can then see that it is not root.
USER 10001:10001
EXPOSE 50061 50062 9461 9462
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["trail", "health"]
ENTRYPOINT ["trail"]
CMD ["--help"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/trail /opt/trail

# The last target is what a build without --target makes.
FROM runtime AS cpu
COPY --from=build /opt/trail /opt/trail
