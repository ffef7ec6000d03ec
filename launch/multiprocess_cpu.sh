#!/usr/bin/env bash
# Runs a command as N processes of one program on this machine's CPU: bash launch/multiprocess_cpu.sh [--dry-run] N COMMAND...
#   bash launch/multiprocess_cpu.sh 2 python -m finetune_scaling.train --config=... --workdir=DIR
# Each line that a process prints begins with its number. Ctrl-C and SIGTERM are handed on to all, who save and end; a
# second one kills them. Where one fails, the others get SIGTERM, and SIGKILL 5 s later; where one was preempted (75), they
# have 60 s. The exit code is the first that is not 0; 75 means that the same command goes on.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

PREEMPTED=75
KILL_AFTER=5 KILL_PREEMPTED_AFTER=60
PIDS=() TOLD="" CODE=0 DEADLINE=0
[[ -n "${VIRTUAL_ENV:-}" || ! -d "$VENV/bin" ]] || PATH="$VENV/bin:$PATH" # python is .venv's unless another is active

read_arguments() {
  if [[ "${1:-}" == --dry-run ]]; then
    DRY_RUN=yes
    shift
  fi
  [[ "${1:-}" =~ ^[1-9][0-9]{0,2}$ ]] ||
    usage_error "'${1:-}' is no number of processes; usage: bash launch/multiprocess_cpu.sh [--dry-run] N COMMAND..."
  (($# > 1)) || usage_error "the command is missing; usage: bash launch/multiprocess_cpu.sh [--dry-run] N COMMAND..."
  NUMBER="$1" COMMAND=("${@:2}")
  command -v "${COMMAND[0]}" >/dev/null || usage_error "${COMMAND[0]}: no such command"
}

# A port that nothing listens on, below those that systems give to outgoing connections.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

# What makes a process number $1 of the program.
variables() {
  echo "JAX_COORDINATOR_ADDRESS=127.0.0.1:$PORT" "JAX_NUM_PROCESSES=$NUMBER" "JAX_PROCESS_ID=$1" JAX_PLATFORMS=cpu
}

# Numbers lines. Deaf to signals, so that it prints what a process says while it ends.
numbered() {
  trap '' INT TERM
  exec sed -u "s/^/[$1] /"
}

# Runs the command as process $1, stdout and stderr apart; returns its code. The shells in between outlive the signals
# that the command gets (their traps do nothing), and say nothing of what was killed (2>/dev/null).
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
  set -m # each process in a group of its own, to which signals go; and Ctrl-C comes here alone
  for ((index = 0; index < NUMBER; index++)); do
    [[ -z "$TOLD" ]] || break
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
  if [[ -n "$TOLD" ]]; then
    signal_all KILL
  else
    TOLD="$1"
    signal_all "$1"
  fi
}

# Takes the codes of processes that have ended out of PIDS; the first that is not 0 is ours.
collect() {
  local index code
  for index in "${!PIDS[@]}"; do
    kill -0 "${PIDS[index]}" 2>/dev/null && continue
    code=0
    wait "${PIDS[index]}" 2>/dev/null || code=$?
    unset "PIDS[index]"
    ((code == 0 || CODE != 0)) && continue
    CODE="$code"
    [[ -n "$TOLD" ]] || end_others "$index"
  done
}

# A program that was preempted ends by itself, once all have saved.
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
supervise 4>&2 2>/dev/null # else bash tells of each process that it was killed
exit "$CODE"
