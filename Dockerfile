# The first stage installs into a virtual environment; the second stage copies only that.
FROM python:3.11-slim AS builder

# An index that has torch without CUDA, which is 4.6 GB. If the host has NVIDIA GPUs, set it to
# nothing: --build-arg TORCH_INDEX=
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# For a blob store in a bucket: --build-arg EXTRAS=all,s3
ARG EXTRAS=all

WORKDIR /build
RUN python -m venv --without-pip /opt/venv

# Dependencies first: their layer is cached until the constraints, the extras or the version change.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ingestq/__init__.py ingestq/
RUN mkdir producers worker \
    && if [ -n "$TORCH_INDEX" ]; then \
        pip --python /opt/venv/bin/python install --no-cache-dir -c constraints.txt \
            --no-deps --index-url "$TORCH_INDEX" torch; \
    fi \
    && pip --python /opt/venv/bin/python install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

COPY producers/ producers/
COPY worker/ worker/
COPY ingestq/ ingestq/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --force-reinstall .


FROM python:3.11-slim

# What OCR needs to know of a language. For others: --build-arg OCR_LANGUAGES="eng kor deu"
ARG OCR_LANGUAGES="eng kor"
RUN apt-get update \
    && for language in $OCR_LANGUAGES; do \
        apt-get install -y --no-install-recommends "tesseract-ocr-$language" || exit 1; \
    done \
    && rm -rf /var/lib/apt/lists/*

# The uid is fixed, so that files on the host can be made readable to it. A new volume inherits the
# owner of the folder that it is mounted on.
RUN groupadd --gid 10001 ingestq \
    && useradd --uid 10001 --gid 10001 --create-home ingestq \
    && install --directory --owner=ingestq --group=ingestq \
        /home/ingestq/.cache /var/lib/ingestq /var/lib/ingestq/blobs

COPY --from=builder /opt/venv /opt/venv

# The default model is an installed package, so nothing is downloaded at run time. Another
# INGESTQ_MODEL is downloaded once to HF_HOME. Each model is converted once for the processor that it
# runs on and cached in INGESTQ_CACHE_DIR: mount a volume on .cache to keep both.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/home/ingestq/.cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    INGESTQ_CACHE_DIR=/home/ingestq/.cache/ingestq \
    INGESTQ_DATA_DIR=/var/lib/ingestq

WORKDIR /home/ingestq
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["ingestq"]
CMD ["worker"]
