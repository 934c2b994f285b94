# The image of the server and of the agent: docker build -t REGISTRY/citadel:0.1.0 .
# The same base for both stages. `--build-arg BASE=python:3.11-slim@sha256:...` holds it to a digest: then two builds of one
# commit have the same base.
ARG BASE=python:3.11-slim
FROM ${BASE} AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY deploy/image/ ./

# What runs, each file by its hash and none of it built here.
RUN python -m venv /opt/citadel
RUN /opt/citadel/bin/pip install --require-hashes --only-binary :all: -r runtime.lock

# Citadel itself, by the build backend of pyproject.toml, which stays behind here.
RUN python -m venv /opt/build
RUN /opt/build/bin/pip install --require-hashes --only-binary :all: -r build.lock
COPY pyproject.toml README.md ./
COPY citadel/ citadel/
COPY ca/ ca/
COPY sds/ sds/
COPY cli/ cli/
# Links of the code lead there.
COPY deploy/envoy/ deploy/envoy/
COPY deploy/vault/ deploy/vault/
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /opt/wheel .
RUN /opt/citadel/bin/pip install --no-deps --no-index --find-links /opt/wheel citadel
RUN /opt/citadel/bin/pip check
RUN /opt/citadel/bin/pip uninstall --yes pip setuptools


FROM ${BASE}

COPY --from=build /opt/citadel /opt/citadel
# Nothing of a working directory is imported, and nothing is written beside the code: the file system may be read-only.
# What is written lies in data_dir, in the folders of the sockets, and in /tmp.
ENV PATH=/opt/citadel/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# By number, so that runAsNonRoot can be checked. An agent runs as root (runAsUser: 0).
USER 65532:65532
# Which commit it is of: `--build-arg REVISION=$(git rev-parse HEAD)`.
ARG REVISION=unknown
LABEL org.opencontainers.image.title="citadel" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="${REVISION}"
ENTRYPOINT ["citadel"]
CMD ["--help"]
