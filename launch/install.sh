#!/usr/bin/env bash
# Create .venv and install the package into it: bash launch/install.sh [--dry-run] [--with-python] [EXTRA,...]
# EXTRA is one of setup.py's: tpu, cuda, gcs (for gs:// paths), ...; without it, no extra. If there is no
# Python 3.11 or newer, --with-python installs one for this user with uv (images of TPU VMs have Python 3.10).
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

WITH_PYTHON="" EXTRA=base
KNOWN='tpu|cuda|gcs|ja|ko|test|beam|notebooks|logging|peers|hub'
UV_PYTHON=3.12

read_arguments() {
  local argument
  for argument in "$@"; do
    case "$argument" in
      --with-python) WITH_PYTHON=yes ;;
      --dry-run) DRY_RUN=yes ;;
      *)
        [[ "$argument" =~ ^(base|($KNOWN)(,($KNOWN))*)$ ]] ||
          usage_error "unknown argument '$argument'; give --dry-run, --with-python, or extras as EXTRA,..."
        EXTRA="$argument"
        ;;
    esac
  done
}

# uv's Python includes venv and pip and is installed in the home directory.
fetch_python() {
  export PATH="$HOME/.local/bin:$PATH"
  if [[ -n "${PYTHON:-}" ]] || (find_python >/dev/null 2>&1); then
    return
  fi
  run python3 -m pip install --quiet --user uv
  run uv python install "$UV_PYTHON"
  [[ -n "$DRY_RUN" ]] || PYTHON="$(uv python find "$UV_PYTHON")"
}

read_arguments "$@"
[[ -z "$WITH_PYTHON" ]] || fetch_python
if [[ -n "$DRY_RUN" ]]; then
  echo "# into $VENV, unless installed:"
  run "$VENV/bin/python" -m pip install --editable "$ROOT$([[ "$EXTRA" == base ]] || echo "[$EXTRA]")"
else
  install "$EXTRA"
fi
