#!/usr/bin/env bash
# Run a command as N processes of one program on this machine's CPU: bash launch/multiprocess_cpu.sh [--dry-run] N COMMAND...
#   bash launch/multiprocess_cpu.sh 2 python -m finetune_scaling.train --config=... --workdir=DIR
# Each output line begins with the number of its process. Ctrl-C and SIGTERM are passed to all processes, which save and
# exit; a second one kills them. If a process fails, the others get SIGTERM, and SIGKILL 5 s later (60 s after one was
# preempted with code 75). The exit code is the first that is not 0; 75 means that the same command resumes the run.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

PREEMPTED=75
KILL_AFTER=5 KILL_PREEMPTED_AFTER=60
PIDS=() SIGNALLED="" CODE=0 DEADLINE=0
[[ -n "${VIRTUAL_ENV:-}" || ! -d "$VENV/bin" ]] || PATH="$VENV/bin:$PATH" # use .venv's python unless an environment is active

read_arguments() {
  if [[ "${1:-}" == --dry-run ]]; then
    DRY_RUN=yes
    shift
  fi
  [[ "${1:-}" =~ ^[1-9][0-9]{0,2}$ ]] ||
    usage_error "'${1:-}' is not a number of processes; usage: bash launch/multiprocess_cpu.sh [--dry-run] N COMMAND..."
  (($# > 1)) || usage_error "the command is missing; usage: bash launch/multiprocess_cpu.sh [--dry-run] N COMMAND..."
  NUMBER="$1" COMMAND=("${@:2}")
  command -v "${COMMAND[0]}" >/dev/null || usage_error "${COMMAND[0]}: no such command"
}

# Print a free port below the range of outgoing connections.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

# Print the environment of process $1.
variables() {
  echo "JAX_COORDINATOR_ADDRESS=127.0.0.1:$PORT" "JAX_NUM_PROCESSES=$NUMBER" "JAX_PROCESS_ID=$1" JAX_PLATFORMS=cpu
}

# Prefix lines with a number. It ignores signals, so that it prints the last lines of a process.
numbered() {
  trap '' INT TERM
  exec sed -u "s/^/[$1] /"
}

# Run the command as process $1 with separate stdout and stderr; return its code. The shells in between survive the
# signals of the command (empty traps) and do not report killed processes (2>/dev/null).
process() {
  local variables
  read -ra variables <<<"$(variables "$1")"
  trap : INT TERM
  set -o pipefail
  {
    {
      trap : INT TERM
      env -u FINETUNE_SCALING_DISTRIBUTED "${variables[@]}" "${COMMAND[@]}" 2>&1 >&3 3>&- 4>&- | numbered "$1" >&4
    } 3>&1 | numbered "$1"
  } 4>&2 2>/dev/null
}

start() {
  local index
  set -m # each process has its own group for signals; Ctrl-C reaches only this script
  for ((index = 0; index < NUMBER; index++)); do
    [[ -z "$SIGNALLED" ]] || break
    process "$index" </dev/null &
    PIDS[index]="$!"
  done
  set +m
}

signal_all() {
  local pid
  for pid in "${PIDS[@]}"; do
    kill -s "$1" -- "-$pid" 2>/dev/null || true
  done
}

# shellcheck disable=SC2317 # the traps call it
hand_on() {
  if [[ -n "$SIGNALLED" ]]; then
    signal_all KILL
  else
    SIGNALLED="$1"
    signal_all "$1"
  fi
}

# Remove ended processes from PIDS; the first code that is not 0 becomes this script's.
collect() {
  local index code
  for index in "${!PIDS[@]}"; do
    kill -0 "${PIDS[index]}" 2>/dev/null && continue
    code=0
    wait "${PIDS[index]}" 2>/dev/null || code=$?
    unset "PIDS[index]"
    ((code == 0 || CODE != 0)) && continue
    CODE="$code"
    [[ -n "$SIGNALLED" ]] || end_others "$index"
  done
}

# A preempted program exits once all processes have saved.
end_others() {
  if ((CODE == PREEMPTED)); then
    DEADLINE=$((SECONDS + KILL_PREEMPTED_AFTER))
    return
  fi
  echo "error: process $1 of $NUMBER exited with $CODE; the others are ended" >&4
  DEADLINE=$((SECONDS + KILL_AFTER))
  signal_all TERM
}

supervise() {
  while ((${#PIDS[@]})); do
    ((DEADLINE == 0 || SECONDS < DEADLINE)) || signal_all KILL
    sleep 0.1
    collect
  done
}

read_arguments "$@"
PORT="$(free_port)"
if [[ -n "$DRY_RUN" ]]; then
  for ((index = 0; index < NUMBER; index++)); do
    echo "env -u FINETUNE_SCALING_DISTRIBUTED $(variables "$index") $(quoted "${COMMAND[@]}") &"
  done
  exit 0
fi
trap 'hand_on INT' INT
trap 'hand_on TERM' TERM
start
supervise 4>&2 2>/dev/null # otherwise bash reports each killed process
exit "$CODE"
