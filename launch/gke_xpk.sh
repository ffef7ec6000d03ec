#!/usr/bin/env bash
# Run a command as an xpk workload on TPUs of a GKE cluster, print its logs, and delete the workload in any case:
#   bash launch/gke_xpk.sh --name=NAME --cluster=CLUSTER --project=P --zone=ZONE --type=v5litepod-16 [--spot]
#     [--temporary-cluster] [--restarts=50] [--image=python:3.12] [--dry-run] -- python -m finetune_scaling.train ...
# The cluster must exist; with --temporary-cluster it is created if necessary, and deleted at the end in any case.
# A worker that is preempted or exits with 75 is restarted, at most --restarts times.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# shellcheck source-path=SCRIPTDIR source=cloud.sh
source "$ROOT/launch/cloud.sh"

CLUSTER_CREATED="" WORKLOAD_CREATED="" # created, found, or being created: to be deleted

check_arguments() {
  require name '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' "a name of small letters, digits and hyphens"
  require cluster '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' "the name of a GKE cluster"
  require project '[a-z][a-z0-9:.-]+' "a Google Cloud project"
  require zone '[a-z]+-[a-z]+[0-9]+-[a-z]' "a zone, for example us-west4-a"
  require type '(v4|v5p|v5litepod|v6e)-[1-9][0-9]*' "a TPU type, for example v5litepod-16"
  : "${OPTION[restarts]:=50}" "${OPTION[image]:=python:3.12}"
  require restarts '[0-9]{1,3}' "how often to start again, 0 to 999"
  check_command
  needs_bucket "the disk of a pod ends with it"
  require_program xpk "pip install xpk"
  require_program gcloud "install the Google Cloud CLI and run: gcloud auth login"
  require_program kubectl "gcloud components install kubectl"
}

set_up() {
  NAME="${OPTION[name]}"
  CLUSTER=(--cluster="${OPTION[cluster]}" --project="${OPTION[project]}" --zone="${OPTION[zone]}")
  GKE=("${OPTION[cluster]}" --project="${OPTION[project]}" --location="${OPTION[zone]%-*}")
  FILES="${TMPDIR:-/tmp}/finetune_scaling-$NAME"
}

# Print yes or no; fail if unknown.
cluster_exists() {
  local answer
  if answer="$(gcloud container clusters describe "${GKE[@]}" --format='value(status)' 2>&1)"; then
    echo yes
  elif [[ "$answer" == *NOT_FOUND* || "$answer" == *"Not found"* ]]; then
    echo no
  else
    echo "$answer" >&2
    return 1
  fi
}

ensure_cluster() {
  local capacity=--on-demand there=no
  [[ -z "${OPTION[spot]:-}" ]] || capacity=--spot
  [[ -n "$DRY_RUN" ]] || there="$(cluster_exists)" || return
  if [[ -n "${OPTION[temporary-cluster]:-}" ]]; then
    CLUSTER_CREATED=yes
    [[ "$there" == yes ]] ||
      run_whole xpk cluster create "${CLUSTER[@]}" --tpu-type="${OPTION[type]}" --num-slices=1 "$capacity" || return
  elif [[ "$there" == no && -z "$DRY_RUN" ]]; then
    usage_error "cluster ${OPTION[cluster]} does not exist in ${OPTION[zone]%-*}; --temporary-cluster creates it for this command"
  fi
  run gcloud container clusters get-credentials "${GKE[@]}"
}

# An existing workload of this name continues with the command it was created with.
ensure_workload() {
  local command there=""
  command="exec env FINETUNE_SCALING_DISTRIBUTED=auto .venv/bin/$(quoted "${COMMAND[@]}")"
  command="bash launch/install.sh tpu,gcs && $command"
  [[ -n "$DRY_RUN" ]] || there="$(kubectl get jobset "$NAME" --ignore-not-found --output=name)" || return
  WORKLOAD_CREATED=yes
  if [[ -n "$there" ]]; then
    echo "workload $NAME exists already"
    return
  fi
  run mkdir -p "$FILES/code" || return
  copy_of_code "$FILES/code.tgz" || return
  run tar -xzf "$FILES/code.tgz" -C "$FILES/code" || return
  run_whole xpk workload create "${CLUSTER[@]}" --workload="$NAME" --tpu-type="${OPTION[type]}" --num-slices=1 \
    --base-docker-image="${OPTION[image]}" --script-dir="$FILES/code" --max-restarts="${OPTION[restarts]}" \
    --restart-on-exit-codes=75 --termination-grace-period-seconds=300 --command="$command"
}

# Pods restart: log lines missed in between are printed later.
print_logs() {
  local logs=(kubectl logs --follow --prefix --selector="jobset.sigs.k8s.io/jobset-name=$NAME" --max-log-requests=256)
  if [[ -n "$DRY_RUN" ]]; then
    echo "# repeatedly, in parallel with the next command:"
    quoted "${logs[@]}" --tail=-1
    return
  fi
  set -m
  while :; do
    "${logs[@]}" --since=20s 2>/dev/null || true # slightly longer than the pause
    sleep "$POLL_SECONDS"
  done </dev/null &
  set +m
}

# xpk exits with 0 if the workload succeeded, with 125 if it failed.
wait_for_workload() {
  run xpk workload list "${CLUSTER[@]}" --wait-for-job-completion="$NAME" && return
  echo "error: workload $NAME did not succeed; its logs are above" >&2
  return 1
}

# shellcheck disable=SC2317 # release_machines calls it
delete_cluster() {
  [[ -z "$DRY_RUN" && "$(cluster_exists)" == no ]] && return
  run xpk cluster delete "${CLUSTER[@]}" --force
  [[ -n "$DRY_RUN" || "$(cluster_exists)" == no ]]
}

# shellcheck disable=SC2317 # the trap calls it
release_machines() {
  local failed=0
  [[ -z "$WORKLOAD_CREATED" ]] || run xpk workload delete "${CLUSTER[@]}" --workload="$NAME" --force || failed=1
  [[ -z "$CLUSTER_CREATED" ]] || delete_cluster || failed=1
  run rm -rf "$FILES"
  ((failed == 0)) || echo "error: cluster or workload may still exist and cost money; check and delete them by hand" >&2
  echo "# remaining workloads: $(quoted xpk workload list "${CLUSTER[@]}")"
  echo "# remaining clusters (each costs money): $(quoted gcloud container clusters list --project="${OPTION[project]}")"
  return "$failed"
}

read_options "name cluster project zone type restarts image" "spot temporary-cluster dry-run" "$@"
check_arguments
set_up
rent
ensure_cluster
ensure_workload
print_logs
wait_for_workload
[[ -z "$DRY_RUN" ]] || release_machines
