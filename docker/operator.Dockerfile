# syntax=docker/dockerfile:1
# The operator: watches EPDCluster objects and makes what they ask for.
#
#   docker build -f docker/operator.Dockerfile -t epd-operator .
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
RUN /src/docker/build_venv.sh /opt/epd operator

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="epd-operator" \
      org.opencontainers.image.description="Makes Kubernetes clusters what their EPDCluster objects ask for" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="python:3.11.14-slim-bookworm"
COPY --from=build /opt/epd /opt/epd
COPY LICENSE /opt/epd/LICENSE
ENV PATH=/opt/epd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /tmp
EXPOSE 8081 9100
ENTRYPOINT ["epd-operator"]
