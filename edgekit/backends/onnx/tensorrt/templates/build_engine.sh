#!/usr/bin/env bash
# Builds the TensorRT engines of this folder on this device. Written by edgekit for TensorRT @@LINE@@.
# An engine runs only on the kind of device and the TensorRT version that built it.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

usage() {
  printf '%s\n' "usage: bash build_engine.sh [--any-version]" \
    "Writes engines/NAME.plan for: @@NAMES@@. TRTEXEC names another trtexec." \
    "  --any-version   try with another TensorRT than @@LINE@@"
}

any_version=()
while (($#)); do
  case $1 in
    --any-version) any_version=(--any-version) ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
  shift
done

@@COMMON@@
# build NAME MODEL FLAG...
build() {
  local name=$1 model=$2
  shift 2
  say "building $name from $model, which takes minutes"
  rm -f -- "engines/$name.plan" "engines/$name.json"
  run_trtexec "engines/$name.log" --onnx="$model" --saveEngine="engines/$name.new" \
    --timingCacheFile=engines/timing.cache --profilingVerbosity=detailed @@SKIP@@ "$@" || return 1
  if [[ ! -s engines/$name.new ]]; then
    say "trtexec wrote no engine"
    return 1
  fi
  mv -- "engines/$name.new" "engines/$name.plan"
  python3 jetson.py record "$name" --trtexec "$trtexec" || return 1
  say "built engines/$name.plan"
}

version=$(python3 jetson.py ready --trtexec "$trtexec" "${any_version[@]}")
say "TensorRT $version, $trtexec"
mkdir -p engines
failed=()
@@BUILDS@@
if ((${#failed[@]})); then
  die 1 "not built: ${failed[*]}"
fi
say "now run: bash bench.sh"
