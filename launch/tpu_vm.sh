#!/usr/bin/env bash
# Rent a TPU VM or pod slice, run a command on all its workers, fetch the results and delete it in any case:
#   bash launch/tpu_vm.sh --name=NAME --zone=ZONE --type=v5litepod-8 [--project=P] [--spot] [--runtime=VERSION]
#     [--wait=6h] [--attempts=1] [--dry-run] -- python -m finetune_scaling.train --config=... --workdir=...
# --wait: longest time in the queue. --attempts: number of starts of the command if it is preempted.
# An existing resource NAME is used again: after a power cut here, the same command finds the running command.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=cloud.sh
source "$ROOT/launch/cloud.sh"
# shellcheck source-path=SCRIPTDIR source=queued_resource.sh
source "$ROOT/launch/queued_resource.sh"

PREEMPTED=75
RECONNECTIONS=40
DETACHED="bash finetune_scaling/launch/detached.sh" # on a worker
STARTED="" # the command has started: there may be results

check_arguments() {
  require name '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' "a name of small letters, digits and hyphens"
  require zone '[a-z]+-[a-z]+[0-9]+-[a-z]' "a zone, for example us-west4-a"
  require type '(v2|v3|v4|v5p|v5litepod|v6e)-[1-9][0-9]*' "an accelerator type, for example v5litepod-8 or v4-16"
  : "${OPTION[wait]:=6h}" "${OPTION[attempts]:=1}" "${OPTION[runtime]:=$(runtime)}"
  require wait '[1-9][0-9]*[smhd]' "a duration, for example 6h"
  require attempts '[1-9][0-9]?' "how often to start, 1 to 99"
  check_command
  one_host || needs_bucket "${OPTION[type]} has several hosts, which share no disk"
  [[ -z "${OPTION[spot]:-}" ]] || needs_bucket "a spot VM that is preempted takes its disk along"
  require_program gcloud "install the Google Cloud CLI and run: gcloud auth login"
}

# A host has 8 cores (v2 to v5p) or at most 8 chips (v5litepod, v6e); the type names their number.
one_host() { ((${OPTION[type]#*-} <= 8)); }

# Images with Ubuntu and the driver; JAX is installed with the package.
runtime() {
  case "${OPTION[type]%-*}" in
    v5litepod) echo v2-alpha-tpuv5-lite ;;
    v5p) echo v2-alpha-tpuv5 ;;
    v6e) echo v2-alpha-tpuv6e ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

set_up() {
  VM=(gcloud compute tpus tpu-vm)
  PLACE=(--zone="${OPTION[zone]}" --quiet)
  [[ -z "${OPTION[project]:-}" ]] || PLACE+=(--project="${OPTION[project]}")
  NAME="${OPTION[name]}"
  FILES="${TMPDIR:-/tmp}/finetune_scaling-$NAME"
}

on_workers() { run "${VM[@]}" ssh "$NAME" "${PLACE[@]}" --worker="$1" --command="$2"; }

# Copy the code and earlier results that are missing there, and install the package.
install_on_workers() {
  run mkdir -p "$FILES" || return
  copy_of_code "$FILES/code.tgz" || return
  run "${VM[@]}" scp "$FILES/code.tgz" "$NAME:" "${PLACE[@]}" --worker=all || return
  local unpack='{ mkdir -p finetune_scaling && tar -xzf code.tgz -C finetune_scaling; }'
  on_workers all "$DETACHED is_running 2>/dev/null || $unpack" || return
  if ! in_bucket && [[ -d "$ROOT/$WORKDIR" ]]; then
    run tar -czf "$FILES/earlier.tgz" -C "$ROOT" "$WORKDIR" || return
    run "${VM[@]}" scp "$FILES/earlier.tgz" "$NAME:" "${PLACE[@]}" --worker=0 || return
    on_workers 0 "cd finetune_scaling && { [ -e $WORKDIR ] || tar -xzf ../earlier.tgz; }" || return
  fi
  on_workers all 'bash finetune_scaling/launch/install.sh --with-python tpu,gcs'
}

# Start the command on all workers unless it is running, and print its output until it ends.
run_on_workers() {
  local distributed="" code=0 connection
  one_host || distributed="FINETUNE_SCALING_DISTRIBUTED=auto "
  STARTED=yes
  on_workers all "${distributed}$DETACHED start $(quoted "${COMMAND[@]}")" || return
  on_workers all "$DETACHED follow" || code=$?
  for ((connection = 0; code == 255 && connection < RECONNECTIONS; connection++)); do # ssh's exit code
    [[ "$(state || echo ACTIVE)" == ACTIVE ]] || return "$PREEMPTED" # unknown if the network here is down
    run sleep "$POLL_SECONDS"
    code=0
    on_workers all "$DETACHED follow 20" || code=$?
  done
  return "$code"
}

attempts() {
  local attempt code
  for ((attempt = 1; attempt <= OPTION[attempts]; attempt++)); do
    code=0
    { ensure_active && install_on_workers && run_on_workers; } || code=$?
    ((code == PREEMPTED)) || break
    echo "attempt $attempt of ${OPTION[attempts]} was preempted; the same command resumes the run" >&2
  done
  return "$code"
}

# Fetch results that are not in a bucket, also those of a run that failed or was stopped.
fetch() {
  local try
  in_bucket && return 0
  for try in 1 2 3; do
    on_workers 0 "cd finetune_scaling && mkdir -p $WORKDIR && tar -czf ../results.tgz $WORKDIR" &&
      run "${VM[@]}" scp "$NAME:results.tgz" "$FILES/results.tgz" "${PLACE[@]}" --worker=0 &&
      run tar -xzf "$FILES/results.tgz" -C "$ROOT" && return 0
    echo "fetching $WORKDIR failed, try $try of 3" >&2
  done
  return 1
}

release_machines() {
  local failed=0
  if [[ -n "$STARTED" && ("$DRY_RUN" || "$(state || echo ACTIVE)" == ACTIVE) ]]; then
    on_workers all "$DETACHED stop" || true
    fetch || failed=1
  fi
  delete || failed=1
  run rm -rf "$FILES"
  echo "# nothing is left if this lists nothing: $(quoted "${QUEUED[@]}" list "${PLACE[@]}")"
  return "$failed"
}

read_options "name zone type project runtime wait attempts" "spot dry-run" "$@"
check_arguments
set_up
rent
attempts
[[ -z "$DRY_RUN" ]] || release_machines
