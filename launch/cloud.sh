# shellcheck shell=bash
# Sourced by the scripts that rent machines (tpu_vm.sh, gke_xpk.sh, sky.sh) after environment.sh: options, dry runs, and
# clean-up that releases rented machines however the script ends. These scripts define release_machines.

declare -A OPTION=()
COMMAND=() # what follows --
WORKDIR="" # the --workdir of that command
UNINTERRUPTIBLE="" # set while a command runs that must not be interrupted

# shellcheck disable=SC2034 # the scripts that source this file use it
POLL_SECONDS="${LAUNCH_POLL_SECONDS:-15}"

# read_options "NAME ..." "FLAG ..." "$@": fill OPTION from --NAME=VALUE and --FLAG, and COMMAND.
read_options() {
  local names=" $1 " flags=" $2 " word name
  shift 2
  while (($#)); do
    word="$1" name="${1#--}" name="${name%%=*}"
    shift
    if [[ "$word" == -- ]]; then
      COMMAND=("$@")
      break
    elif [[ "$word" == --*=?* && "$names" == *" $name "* ]]; then
      OPTION[$name]="${word#*=}"
    elif [[ "$word" == "--$name" && "$flags" == *" $name "* ]]; then
      OPTION[$name]=yes
    else
      usage_error "'$word': write --OPTION=VALUE with one of:${names}or --FLAG with one of:${flags}then -- and the command"
    fi
  done
  DRY_RUN="${OPTION[dry-run]:-}"
}

# require NAME PATTERN WHAT: check that the option is given and matches the pattern.
require() {
  [[ "${OPTION[$1]:-}" =~ ^($2)$ ]] || usage_error "--$1=${OPTION[$1]:-} is missing or wrong; give $3"
}

# Check that the command is one of the package, with one --workdir: a bucket, or a directory in the repository.
check_command() {
  local word found=()
  [[ "${COMMAND[*]:0:2}" == "python -m" && "${COMMAND[2]:-}" == finetune_scaling.* ]] ||
    usage_error "after -- comes the command: python -m finetune_scaling.train|study --config=... --workdir=..."
  for word in "${COMMAND[@]}"; do
    [[ "$word" != --workdir=?* ]] || found+=("${word#*=}")
  done
  ((${#found[@]} == 1)) || usage_error "the command needs --workdir=gs://BUCKET/DIR, or --workdir=runs/DIR, once"
  WORKDIR="${found[0]%/}"
  in_bucket || [[ "$WORKDIR" =~ ^runs/[A-Za-z0-9_./-]+$ && "$WORKDIR" != *..* ]] ||
    usage_error "--workdir=$WORKDIR: name a bucket (gs://...) or a directory below runs/, which is fetched when the run ends"
  ! in_bucket || [[ "${COMMAND[2]}" != finetune_scaling.study ]] ||
    usage_error "--workdir=$WORKDIR: a study needs file locks, which buckets lack; name a directory below runs/"
  check_config
}

# Check that the config file is in the repository, which is copied; only evaluate needs none.
check_config() {
  local word config=""
  for word in "${COMMAND[@]}"; do
    [[ "$word" != --config=* ]] || config="${word#*=}"
  done
  if [[ -z "$config" ]]; then
    [[ "${COMMAND[2]}" == finetune_scaling.evaluate ]] || usage_error "the command needs --config=FILE"
    return
  fi
  [[ -f "$ROOT/${config%%:*}" && "$config" != *..* ]] ||
    usage_error "--config=$config: no such file in the repository; give its path from the repository's root, $ROOT"
}

in_bucket() { [[ "$WORKDIR" == gs://?* ]]; }

# needs_bucket REASON: check that --workdir is a bucket, for machines whose disks are lost.
needs_bucket() {
  in_bucket || usage_error "--workdir=$WORKDIR: $1; give --workdir=gs://BUCKET/DIR"
}

require_program() {
  [[ -n "$DRY_RUN" ]] || command -v "$1" >/dev/null || usage_error "$1 was not found; $2"
}

# copy_of_code FILE: the repository with uncommitted changes and .git (records name the commit), without generated files.
copy_of_code() {
  run tar -czf "$1" -C "$ROOT" --exclude=./.venv --exclude=./runs --exclude=__pycache__ --exclude='./.*_cache' .
}

# Run a request that creates something: if it were interrupted, it might be granted unnoticed.
run_whole() {
  local code=0
  UNINTERRUPTIBLE=yes
  run "$@" || code=$?
  UNINTERRUPTIBLE=""
  return "$code"
}

# From here on the script always ends through finish, which alone passes signals to children (see run).
rent() {
  [[ -z "$DRY_RUN" ]] || return 0
  trap finish EXIT
  trap '' PIPE # the reader of our output may exit first
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
}

# End a running command within 5 s, or wait for one that must not be interrupted.
# shellcheck disable=SC2317 # the trap calls it
end_children() {
  local child
  for child in $(jobs -p); do
    if [[ -z "$UNINTERRUPTIBLE" ]]; then
      kill -TERM -- "-$child"
      for _ in {1..50}; do
        kill -0 "$child" && sleep 0.1
      done
      kill -KILL -- "-$child"
    fi
    wait "$child"
  done
  UNINTERRUPTIBLE=""
}

# shellcheck disable=SC2317 # the trap calls it
finish() {
  local code=$?
  trap '' INT TERM HUP # releasing machines must not be interrupted
  set +e
  end_children 2>/dev/null
  release_machines || ((code)) || code=1
  trap - EXIT
  exit "$code"
}
