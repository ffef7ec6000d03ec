#!/usr/bin/env bash
# Run a command on a cluster rented by SkyPilot, fetch the results and end the cluster in any case:
#   bash launch/sky.sh --name=NAME --gpus=H100:1 [--infra=gcp/us-central1] [--spot] [--dry-run]
#     -- python -m finetune_scaling.train --config=... --workdir=...
# --gpus also takes TPUs (tpu-v6e-8). A running cluster of this name is used again, with its results.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=cloud.sh
source "$ROOT/launch/cloud.sh"

UP="" # the cluster is reachable: there may be results

check_arguments() {
  require name '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' "a name of small letters, digits and hyphens"
  require gpus 'tpu-[a-z0-9]+-[1-9][0-9]*|[A-Za-z0-9-]+:[1-9][0-9]?' "an accelerator, for example H100:1 or tpu-v6e-8"
  [[ -z "${OPTION[infra]:-}" ]] || require infra '[a-z0-9*]+(/[a-z0-9*-]+){0,2}' "CLOUD/REGION/ZONE, for example gcp/us-central1"
  check_command
  one_host || needs_bucket "${OPTION[gpus]} has several hosts, which share no disk"
  [[ -z "${OPTION[spot]:-}" ]] || needs_bucket "a spot machine that is preempted takes its disk along"
  require_program sky "pip install 'skypilot[gcp]' and run: sky check"
  require_program rsync "apt-get install rsync"
}

# A TPU host has at most 8 of the units in the name.
one_host() { [[ "${OPTION[gpus]}" != tpu-* ]] || ((${OPTION[gpus]##*-} <= 8)); }

set_up() {
  NAME="${OPTION[name]}"
  local extra=cuda,gcs distributed=""
  [[ "${OPTION[gpus]}" != tpu-* ]] || extra=tpu,gcs
  one_host || distributed=auto
  MACHINE=(--gpus="${OPTION[gpus]}")
  [[ -z "${OPTION[infra]:-}" ]] || MACHINE+=(--infra="${OPTION[infra]}")
  [[ -z "${OPTION[spot]:-}" ]] || MACHINE+=(--use-spot)
  TASK=(--env "EXTRA=$extra" --env "DISTRIBUTED=$distributed" --workdir="$ROOT")
}

# Rent, copy the code and install it without running the command.
launch() {
  run_whole sky launch --yes --cluster="$NAME" "${MACHINE[@]}" "${TASK[@]}" --env COMMAND=true "$ROOT/launch/sky.yaml"
}

# SkyPilot configures NAME as an ssh host. Files on the cluster are not overwritten.
send_results() {
  in_bucket && return
  [[ -d "$ROOT/$WORKDIR" ]] || return 0
  run rsync --archive --relative --ignore-existing "$ROOT/./$WORKDIR" "$NAME:sky_workdir/"
}

run_command() {
  run sky exec --cluster="$NAME" --gpus="${OPTION[gpus]}" "${TASK[@]}" --env "COMMAND=$(quoted "${COMMAND[@]}")" "$ROOT/launch/sky.yaml" && return
  echo "error: the command failed on $NAME; its output is above" >&2
  return 1
}

fetch() {
  in_bucket && return 0
  for _ in 1 2 3; do
    run rsync --archive --relative "$NAME:sky_workdir/./$WORKDIR" "$ROOT/" && return 0
  done
  echo "error: fetching $WORKDIR failed three times" >&2
  return 1
}

release_machines() {
  local failed=0
  if [[ -n "$UP" ]]; then
    run sky cancel --yes --all "$NAME" || true # an interrupted job is still running there
    fetch || failed=1
  fi
  run sky down --yes "$NAME" || run sky down --yes "$NAME" || {
    echo "error: $NAME may still be up and cost money; end it by hand: sky down --yes $NAME" >&2
    failed=1
  }
  echo "# nothing is left if this lists no cluster: sky status --refresh"
  return "$failed"
}

read_options "name gpus infra" "spot dry-run" "$@"
check_arguments
set_up
rent
launch
UP=yes
send_results
run_command
[[ -z "$DRY_RUN" ]] || release_machines
