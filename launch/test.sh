#!/usr/bin/env bash
# Install everything, lint, check types and run the tests: bash launch/test.sh [pytest arguments]
# Every check runs even if an earlier one failed; pytest's summary is the last line on stdout.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

failed=()
check() {
  local name="$1"
  shift
  echo "== $name"
  "$VENV/bin/python" -m "$@" || failed+=("$name")
}

run_tests() {
  local workers
  workers="$("$VENV/bin/python" -c 'import os; print(min(len(os.sched_getaffinity(0)), 8))')"
  # One worker per core with one thread each: XLA (NPROC), BLAS and torch would start one thread per core in every worker.
  export NPROC=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
  # The tests need libtpu, which makes JAX look for a TPU.
  export JAX_PLATFORMS=cpu
  # In the order of tests/conftest.py, which starts with the slowest files.
  check tests pytest --quiet --numprocesses="$workers" --dist=loadfile --no-loadscope-reorder "$@"
}

install test
cd "$ROOT"
check lint ruff check
check format ruff format --check
check types mypy
run_tests "$@"

if ((${#failed[@]})); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
