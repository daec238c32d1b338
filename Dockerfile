# The command `atss` in a container; nobody has built it yet (see docs/install.md).
#
#     docker build -t atss-jax .
#     docker build -t atss-jax:cuda --build-arg ACCEL=cuda .
#     docker run --rm -v "$PWD:/data" atss-jax train --config=atss_shapes --workdir=w
#     docker run --rm --gpus all -v "$PWD:/data" atss-jax:cuda train --config=...
#
# The wheels of JAX bring CUDA with them, so that both begin from the same image.
FROM python:3.11-slim

ARG ACCEL=cpu
COPY . /opt/atss-jax
RUN case "$ACCEL" in cpu) extras= ;; cuda|tpu) extras="[$ACCEL]" ;; \
      *) echo "ACCEL=$ACCEL: expected cpu, cuda or tpu"; exit 1 ;; esac \
    && cd /opt/atss-jax \
    && pip install --no-cache-dir --constraint constraints.txt ".$extras"

# Downloads and compiled programs stay with the data, for the next container.
ENV ATSS_JAX_CACHE=/data/.cache/atss_jax
WORKDIR /data
ENTRYPOINT ["atss"]
CMD ["--help"]
