#!/usr/bin/env bash
# Install everything and run the small embedded study: bash launch/quickstart.sh [DIR]
# DIR (default runs/quickstart) receives points.csv and report/; the same command resumes an interrupted study.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if (($# > 1)) || [[ "${1:-}" == -* ]]; then
  echo "usage: bash launch/quickstart.sh [DIR]" >&2
  exit 2
fi
directory="${1:-$ROOT/runs/quickstart}"
[[ "$directory" == /* ]] || directory="$PWD/$directory"

install base
cd "$ROOT"
# The study is sized for a CPU; JAX_PLATFORMS=cuda with the cuda extra installed runs it on a GPU.
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
"$VENV/bin/python" -m finetune_scaling.study --config=configs/study/quickstart.py --workdir="$directory"

[[ -s "$directory/report/report.html" ]] || fail "the study ended without $directory/report/report.html"
echo "points: $directory/points.csv"
echo "report: $directory/report/report.html"
