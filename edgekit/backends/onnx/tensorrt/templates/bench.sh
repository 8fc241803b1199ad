#!/usr/bin/env bash
# Checks the engines of this folder against the golden samples, times them and chooses one: chosen.json.
# Written by edgekit for TensorRT @@LINE@@. Changes no setting of the device without --max-clocks.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

usage() {
  printf '%s\n' "usage: bash bench.sh [--max-clocks [--power-mode N]] [--no-cuda-graph] [--any-version]" \
    "Run build_engine.sh first. TRTEXEC names another trtexec." \
    "  --max-clocks      lock the clocks at their maximum while it measures (jetson_clocks, needs root)" \
    "  --power-mode N    with --max-clocks: set this power mode first (nvpmodel -m N, needs root)" \
    "  --no-cuda-graph   time without CUDA graphs, as an app that does not use them" \
    "  --any-version     try with another TensorRT than @@LINE@@"
}

max_clocks=no power_mode='' cuda_graph=yes any_version=()
while (($#)); do
  case $1 in
    --max-clocks) max_clocks=yes ;;
    --power-mode)
      power_mode=${2:-}
      if [[ ! $power_mode =~ ^[0-9]+$ ]]; then
        usage >&2
        exit 2
      fi
      shift
      ;;
    --no-cuda-graph) cuda_graph=no ;;
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
if [[ -n $power_mode && $max_clocks == no ]]; then
  usage >&2
  exit 2
fi

@@COMMON@@
as_root() {
  if ((EUID == 0)); then
    "$@"
  else
    sudo "$@"
  fi
}

stats_pid='' clocks_stored=no old_mode=''

start_stats() {
  if command -v tegrastats >/dev/null 2>&1; then
    tegrastats --interval 200 >"$1" 2>/dev/null &
    stats_pid=$!
  fi
}

stop_stats() {
  if [[ -n $stats_pid ]]; then
    kill -- "$stats_pid" 2>/dev/null || true
    wait "$stats_pid" 2>/dev/null || true
    stats_pid=''
  fi
}

restore() {
  stop_stats
  if [[ $clocks_stored == yes ]]; then
    as_root jetson_clocks --restore results/clocks.conf || say "the clocks could not be restored: restart the device"
  fi
  if [[ -n $old_mode ]]; then
    as_root nvpmodel -m "$old_mode" </dev/null >&2 || say "the power mode could not be restored: nvpmodel -m $old_mode"
  fi
}
trap restore EXIT

power_mode_now() {
  nvpmodel -q 2>/dev/null | tr '\n' ' ' || true
}

lock_clocks() {
  local tool
  for tool in jetson_clocks nvpmodel; do
    command -v "$tool" >/dev/null 2>&1 || die 3 "$tool is missing: --max-clocks works on Jetson devices only"
  done
  if [[ -n $power_mode ]]; then
    old_mode=$(nvpmodel -q 2>/dev/null | tail -n 1)
    if [[ ! $old_mode =~ ^[0-9]+$ ]]; then
      old_mode=''
      die 3 "nvpmodel -q does not tell the power mode, so it could not be restored"
    fi
    as_root nvpmodel -m "$power_mode" </dev/null >&2 || die 3 "power mode $power_mode cannot be set without a restart"
  fi
  as_root jetson_clocks --store results/clocks.conf || die 3 "the clocks cannot be stored"
  clocks_stored=yes
  as_root jetson_clocks || die 3 "the clocks cannot be locked"
}

graph=(@@GRAPH@@)
if [[ $cuda_graph == no ]]; then
  graph=(@@NO_GRAPH@@)
fi

# measure NAME: fails where the engine cannot be chosen.
measure() {
  local name=$1
  local plan=engines/$name.plan out=results/$name
  rm -rf -- "$out"
  if [[ ! -e $plan ]]; then
    say "$name: there is no $plan"
    return 1
  fi
  mkdir -p "$out"
  python3 jetson.py check "$name" --trtexec "$trtexec" || return 1
  python3 jetson.py golden "$name" --trtexec "$trtexec" || return 1
  say "timing $name"
  start_stats "$out/tegrastats.log"
  if ! run_trtexec "$out/trtexec.log" --loadEngine="$plan" --exportTimes="$out/times.json" \
    --warmUp=@@WARMUP_MS@@ --duration=@@SECONDS@@ --iterations=@@RUNS@@ --percentile=@@PERCENTILES@@ @@TIMING@@ "${graph[@]}"; then
    stop_stats
    rm -f -- "$out/times.json"
    return 1
  fi
  stop_stats
  # Layer by layer in a run of its own: the profiler slows down what it looks at.
  run_trtexec "$out/profile.log" --loadEngine="$plan" --exportProfile="$out/profile.json" \
    --exportLayerInfo="$out/layers.json" --profilingVerbosity=detailed --warmUp=@@WARMUP_MS@@ --duration=3 ||
    say "$name has no profile by layer"
}

version=$(python3 jetson.py ready --trtexec "$trtexec" "${any_version[@]}")
say "TensorRT $version, $trtexec"
rm -f -- chosen.json
mkdir -p results
if [[ $max_clocks == yes ]]; then
  lock_clocks
fi
for name in @@NAMES@@; do
  measure "$name" || say "$name is out"
done
python3 jetson.py choose --condition "tensorrt=$version" --condition "max_clocks=$max_clocks" \
  --condition "power_mode=$(power_mode_now)" --condition "cuda_graph=$cuda_graph"
