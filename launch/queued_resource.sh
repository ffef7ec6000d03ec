# shellcheck shell=bash
# Sourced by tpu_vm.sh: a queued resource of Cloud TPU, made once, waited for, and deleted until it is seen to be gone.
# Uses NAME, PLACE (flags of every call) and OPTION.

QUEUED=(gcloud compute tpus queued-resources)

# ACTIVE, WAITING_FOR_RESOURCES, ...; NONE where there is no such resource; fails where nobody knows.
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

# Creates what is not there, and waits for it. What failed or was preempted before is deleted first.
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
      unknown) ((unknown += 1)) ;; # a lost connection is no reason to give up a place in the queue
      NONE) [[ -z "$created" ]] && create && created=yes || return 1 ;;
      FAILED | SUSPENDED)
        [[ -z "$created" ]] || break
        delete || return 1
        ;;
    esac
    run sleep "$POLL_SECONDS"
  done
  echo "error: $NAME: the request failed (state: $now); gcloud ... queued-resources describe tells why" >&2
  return 1
}

# Until it is seen to be gone: what is just being made can refuse.
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
