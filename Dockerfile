# The command `atss` in a container; nobody has built it yet (see docs/try-it.md).
#
#     docker build -t atss-jax .
#     docker build -t atss-jax:cuda --build-arg ACCEL=cuda .
#     docker run --rm --shm-size=2g -v "$PWD:/data" atss-jax \
#         train --config=atss_shapes --workdir=w
#     docker run --rm --shm-size=2g --gpus all -v "$PWD:/data" atss-jax:cuda train ...
#
# The wheels of JAX bring CUDA with them, so that both begin from the same image. The
# extra `onnx` is for `atss export --out=FILE.onnx` and `.html`; others are added to it
# by --build-arg EXTRAS=onnx,hf.
FROM python:3.11-slim

ARG ACCEL=cpu
ARG EXTRAS=onnx
COPY . /opt/atss-jax
RUN case "$ACCEL" in cpu) extras="$EXTRAS" ;; cuda|tpu) extras="$EXTRAS,$ACCEL" ;; \
      *) echo "ACCEL=$ACCEL: expected cpu, cuda or tpu"; exit 1 ;; esac \
    && cd /opt/atss-jax \
    && pip install --no-cache-dir --constraint constraints.txt ".[$extras]"

# Downloads and compiled programs stay with the data, for the next container.
ENV ATSS_JAX_CACHE=/data/.cache/atss_jax
WORKDIR /data
ENTRYPOINT ["atss"]
CMD ["--help"]
