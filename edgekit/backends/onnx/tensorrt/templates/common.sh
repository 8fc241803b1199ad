say() { printf '%s\n' "$*" >&2; }

die() {
  local code=$1
  shift
  say "error: $*"
  exit "$code"
}

find_trtexec() {
  local found
  for found in "${TRTEXEC:-}" trtexec /usr/src/tensorrt/bin/trtexec; do
    if [[ -n $found ]] && command -v -- "$found" >/dev/null 2>&1; then
      command -v -- "$found"
      return
    fi
    if [[ -n ${TRTEXEC:-} ]]; then
      return
    fi
  done
}

# Runs trtexec with its output in a file. It has not succeeded unless it says so.
run_trtexec() {
  local log=$1
  shift
  if "$trtexec" "$@" >"$log" 2>&1 && grep -q '^&&&& PASSED' "$log"; then
    return 0
  fi
  say "trtexec failed; the end of $log:"
  tail -n 12 -- "$log" >&2 || true
  return 1
}

command -v python3 >/dev/null 2>&1 || die 3 "python3 is missing: sudo apt-get install python3"
trtexec=$(find_trtexec)
if [[ -z $trtexec ]]; then
  die 3 "trtexec is missing: it belongs to JetPack (sudo apt-get install nvidia-jetpack); elsewhere set TRTEXEC to its path"
fi
