#!/bin/bash
# Trains on all hosts of a Cloud TPU slice; runs where gcloud is set up:
#     launch/tpu_vm.sh start [more flags of train.py]
#     launch/tpu_vm.sh status | log | stop
# Set what is marked SET, here or in the environment. Why it is so: docs/pods.md.
set -euo pipefail

TPU=${TPU:-atss}                               # SET: name of the slice
ZONE=${ZONE:-us-west4-a}                       # SET
REPOSITORY=${REPOSITORY:-/mnt/shared/atss-jax} # SET: with .venv; all hosts share it
CONFIG=${CONFIG:-configs/atss_r50_1x.py}       # SET
WORKDIR=${WORKDIR:-work_dirs/atss_r50_1x}      # SET

on_host() { # which hosts, command
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker="$1" --command="$2"
}

start() {
    # A systemd service outlives this ssh. After exit status 75 (saved) it starts again,
    # after any other it does not. `stop` sends SIGTERM to python alone: the processes
    # that load images must outlive the step that waits for them. TPUs lock memory.
    local service=(
        --unit=atss --collect
        --property=WorkingDirectory="$REPOSITORY"
        --property=RestartForceExitStatus=75
        --property=SuccessExitStatus=75
        --property=RestartSec=10
        --property=KillMode=mixed
        --property=TimeoutStopSec=300
        --property=LimitMEMLOCK=infinity
        --setenv=PYTHONUNBUFFERED=1
        "$REPOSITORY/.venv/bin/python" train.py
        --config="$CONFIG" --workdir="$WORKDIR" "$@"
    )
    # The name of the user is the one on the host; all else is quoted for its shell.
    on_host all "sudo systemd-run --property=User=\$USER $(printf '%q ' "${service[@]}")"
}

case "${1:-}" in
    start) start "${@:2}" ;;
    status) on_host all 'hostname; systemctl is-active atss || true' ;;
    log) on_host 0 'journalctl --unit=atss --lines=100 --follow' ;;
    stop) on_host all 'sudo systemctl stop atss' ;;
    *)
        sed -n '2,5s/^# //p' "$0" >&2
        exit 2
        ;;
esac
