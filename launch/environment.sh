# shellcheck shell=bash
# Sourced by the other scripts of launch/: finds Python, creates .venv and keeps the installed package up to date.
# It needs the package index only if setup.py or the constraints have changed since the last installation.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

fail() {
  echo "error: $1" >&2
  exit 1
}

usage_error() {
  echo "error: $1" >&2
  exit 2
}

DRY_RUN="" # set: `run` prints

# Run a command, or print it with --dry-run. It has its own process group, so that signals end the wait for it at once and
# Ctrl-C reaches it only through this script.
run() {
  if [[ -n "$DRY_RUN" ]]; then
    quoted "$@"
    return
  fi
  set -m
  "$@" </dev/null &
  set +m
  wait "$!"
}

# Print a command quoted for a shell.
quoted() {
  local word line=""
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="${word@Q}"
    line+="$word "
  done
  echo "${line% }"
}

# 3.11 comes first because it is tested most. PYTHON=/path/to/python chooses another. The candidates' own errors are shown,
# as a shim of pyenv or asdf says there which version it lacks.
find_python() {
  local candidate reason reasons="" wanted="Python 3.11 or newer with the venv module"
  local check='import sys, ensurepip, venv; sys.version_info < (3, 11) and sys.exit("Python " + sys.version.split()[0])'
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3 python; do
    if reason="$("$candidate" -c "$check" 2>&1)"; then
      echo "$candidate"
      return
    fi
    [[ "$candidate" != "${PYTHON:-}" ]] || fail "PYTHON=$PYTHON is not $wanted; its output: ${reason:-none}"
    reasons+=$'\n'"$candidate: ${reason:-no output}"
  done
  fail "no $wanted was found; install one (on Debian and Ubuntu: apt-get install python3-venv) or name it: PYTHON=/path/to/python3.11 bash $0$reasons"
}

make_venv() {
  "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
  local python
  python="$(find_python)"
  echo "creating $VENV with $("$python" --version)"
  "$python" -m venv --clear "$VENV"
}

# Print the file of exact versions for the Python of .venv; later versions than 3.12 share its file.
constraints_file() {
  "$VENV/bin/python" -c 'import sys; print(f"'"$ROOT"'/constraints/python3.{min(sys.version_info[1], 12)}.txt")'
}

# Print a line that changes whenever the installation is out of date.
installation_key() {
  "$VENV/bin/python" - "$ROOT" "$ROOT/setup.py" "$ROOT/pyproject.toml" "$1" <<'PYTHON'
import hashlib, pathlib, sys

root, *files = sys.argv[1:]
contents = b"\0".join(pathlib.Path(file).read_bytes() for file in files)
print(sys.version_info[:2], hashlib.sha256(root.encode() + contents).hexdigest())
PYTHON
}

# install base | install EXTRA,...: install the package without or with these extras of setup.py.
install() {
  local wanted="$1" target="$ROOT" key constraints
  make_venv
  constraints="$(constraints_file)"
  key="$(installation_key "$constraints")"
  [[ "$(cat "$VENV/installed-$wanted" 2>/dev/null)" == "$key" ]] && return
  [[ "$wanted" == base ]] || target="${ROOT}[$wanted]"
  echo "installing into $VENV: $wanted (some minutes the first time)"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" --editable "$target" ||
    fail "the installation failed (see above); check that the package index can be reached, and run the same command again"
  echo "$key" >"$VENV/installed-base"
  echo "$key" >"$VENV/installed-$wanted"
}
