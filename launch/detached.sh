#!/usr/bin/env bash
# Run a command on a rented machine independently of the connection that started it, one at a time.
#   bash launch/detached.sh start COMMAND...   starts it unless a command is running
#   bash launch/detached.sh is_running         exits with 0 or 1
#   bash launch/detached.sh follow [LINES]     prints its last LINES and further output until it ends; exits with its code
#   bash launch/detached.sh stop               SIGTERM, which saves a checkpoint; SIGKILL after DETACHED_STOP_SECONDS (300)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
STATE=.detached
PATH="$PWD/.venv/bin:$PATH"

pid() { cat "$STATE/pid" 2>/dev/null; }

# After a reboot the pid may belong to another process, so its command line is checked.
is_running() { tr '\0' ' ' 2>/dev/null <"/proc/$(pid)/cmdline" | grep -q 'detached.sh supervise'; }

start() {
  if is_running; then
    echo "already running: process $(pid)"
    return
  fi
  rm -rf "$STATE"
  mkdir "$STATE"
  setsid bash launch/detached.sh supervise "$@" >"$STATE/log" 2>&1 </dev/null &
  echo $! >"$STATE/pid"
}

# Run the command and write its exit code; the command handles SIGTERM itself.
supervise() {
  local code=0
  trap : TERM
  "$@" || code=$?
  echo "$code" >"$STATE/code.part"
  mv "$STATE/code.part" "$STATE/code"
}

follow() {
  tail --pid="$(pid)" --sleep-interval=0.2 --lines="${1:-+1}" --follow "$STATE/log" | sed -u "s/^/[$(hostname)] /"
  [[ -f "$STATE/code" ]] || echo "error: $(hostname): the command was killed, or the machine restarted" >&2
  return "$(cat "$STATE/code" 2>/dev/null || echo 1)"
}

stop() {
  local deadline=$((SECONDS + ${DETACHED_STOP_SECONDS:-300}))
  is_running || return 0
  pkill -TERM --session "$(pid)" || true
  while is_running && ((SECONDS < deadline)); do sleep 0.2; done
  pkill -KILL --session "$(pid)" || true
}

case "${1:-} $#" in
  "start "[!1]* | "supervise "[!1]* | follow\ [12] | stop\ 1 | is_running\ 1) "$@" ;;
  *)
    echo "error: usage: bash launch/detached.sh start COMMAND... | is_running | follow [LINES] | stop" >&2
    exit 2
    ;;
esac
