# shellcheck shell=bash
# Sourced by tpu_vm.sh: creates a queued resource of Cloud TPU, waits for it, and deletes it until it no longer exists.
# Uses NAME, PLACE (flags of every call) and OPTION.

QUEUED=(gcloud compute tpus queued-resources)

# Print ACTIVE, WAITING_FOR_RESOURCES, ..., or NONE if it does not exist; fail if the state is unknown.
state() {
  local answer
  if answer="$("${QUEUED[@]}" describe "$NAME" "${PLACE[@]}" --format='value(state.state)' 2>&1)"; then
    tail -n 1 <<<"$answer"
  elif [[ "$answer" == *NOT_FOUND* ]]; then
    echo NONE
  else
    echo "$answer" >&2
    return 1
  fi
}

create() {
  local spot=()
  [[ -z "${OPTION[spot]:-}" ]] || spot=(--spot)
  run_whole "${QUEUED[@]}" create "$NAME" "${PLACE[@]}" --node-id="$NAME" --accelerator-type="${OPTION[type]}" \
    --runtime-version="${OPTION[runtime]}" --valid-until-duration="${OPTION[wait]}" "${spot[@]}"
}

# Create the resource unless it exists, and wait for it. A failed or preempted one is deleted first.
ensure_active() {
  local now before="" created="" unknown=0
  if [[ -n "$DRY_RUN" ]]; then
    create
    echo "# repeated until it prints ACTIVE:"
    run "${QUEUED[@]}" describe "$NAME" "${PLACE[@]}" --format='value(state.state)'
    return
  fi
  while ((unknown < 10)); do
    now="$(state)" || now=unknown
    [[ "$now" == "$before" ]] || echo "$NAME: $now"
    before="$now"
    case "$now" in
      ACTIVE) return 0 ;;
      unknown) ((unknown += 1)) ;; # keep the place in the queue when the connection is lost
      NONE) [[ -z "$created" ]] && create && created=yes || return 1 ;;
      FAILED | SUSPENDED)
        [[ -z "$created" ]] || break
        delete || return 1
        ;;
    esac
    run sleep "$POLL_SECONDS"
  done
  echo "error: $NAME: the request failed (state: $now); gcloud ... queued-resources describe shows the reason" >&2
  return 1
}

# Repeat until it no longer exists: deletion can fail while it is being created.
delete() {
  local now delete=("${QUEUED[@]}" delete "$NAME" "${PLACE[@]}" --force)
  if [[ -n "$DRY_RUN" ]]; then
    run "${delete[@]}"
    return
  fi
  for _ in {1..20}; do
    now="$(state)" || now=unknown
    [[ "$now" != NONE ]] || return 0
    [[ "$now" == DELETING ]] || ! run "${delete[@]}" || continue
    run sleep "$POLL_SECONDS"
  done
  echo "error: $NAME may still exist and cost money (state: $now); delete it by hand: $(quoted "${delete[@]}")" >&2
  return 1
}
