#!/usr/bin/env bash
# Resolve every extra of setup.py against the package index and the constraints, without installing it.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

install base
constraints="$(constraints_file)"
list_extras='from importlib.metadata import metadata; print(*metadata("finetune-scaling").get_all("Provides-Extra"))'
failed=()
for extra in $("$VENV/bin/python" -c "$list_extras"); do
  if "$VENV/bin/python" -m pip install --quiet --dry-run --constraint "$constraints" --editable "${ROOT}[$extra]"; then
    echo "$extra: can be installed"
  else
    echo "$extra: cannot be installed (see above)"
    failed+=("$extra")
  fi
done
((${#failed[@]} == 0)) || fail "cannot be installed: ${failed[*]}"
