#!/bin/sh
# SPDX-License-Identifier: MIT
#
# demo.sh - shows the main job on real input: an unmodified program (xz with two threads) is run
# under crrun, checkpointed, killed with SIGKILL and brought back, and its output is compared byte
# for byte with that of an undisturbed run. `make demo` calls it after building.
#
# Needs no privilege. Everything it makes is in one temporary directory, and it leaves neither files
# nor processes behind, also when it fails or is interrupted.
#
# Environment:
#   CR_BUILD_DIR   where bin/ and lib/ are (default: build beside this script's folder)
#   CR_DEMO_MIB    size of the input in MiB (default: measured, so that xz takes some 6 s)
#   CR_DEMO_KEEP   1: keep the temporary directory
#   TMPDIR         where that directory is made (default: /tmp)
#
# Exit status: 0 the outputs are identical, 1 anything else, 128+N ended by signal N.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
build=$(CDPATH='' cd -- "${CR_BUILD_DIR:-$root/build}" 2>/dev/null && pwd) || build=$root/build
PATH=$build/bin:$PATH
LC_ALL=C
export PATH LC_ALL
unset XZ_DEFAULTS XZ_OPT CR_IMAGE_DIR

tmp=
block=2MiB          # xz -T2 gives each thread blocks of this size: the output grows step by step
goal_ms=6000        # how long the undisturbed run should take at least
running=            # background job of ours that is alive

# ------------------------------------------------------------------------------ words

step_number=0
step() { step_number=$((step_number + 1)); printf '\n%d. %s\n' "$step_number" "$*"; }
say() { printf '   %s\n' "$*"; }
show() { printf '   $ %s\n' "$*"; }
fail() { printf '\ndemo: FAILED: %s\n' "$*" >&2; exit 1; }

now_ms() { date +%s%3N; }
seconds() { awk -v ms="$1" 'BEGIN { printf "%.1f s", ms / 1000 }'; }
size_of() { stat -c %s -- "$1" 2>/dev/null || echo 0; }
mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }

# ------------------------------------------------------------------------------ processes

# alive PID: it runs, or stands still; a zombie is not alive.
alive() {
  { read -r stat_line <"/proc/$1/stat"; } 2>/dev/null || return 1
  stat_line=${stat_line##*) }
  case $stat_line in [ZX]*) return 1 ;; esac
}

# ours NAME-PATTERN: the ids of our programs of that name. They all work in the temporary directory.
ours() {
  find /proc/[0-9]*/cwd -maxdepth 0 \( -lname "$tmp" -o -lname "$tmp/*" \) 2>/dev/null |
    while IFS=/ read -r _ _ id _; do
      name=
      { read -r name <"/proc/$id/comm"; } 2>/dev/null
      # shellcheck disable=SC2254 # a pattern is what is wanted
      case $name in $1) alive "$id" && echo "$id" ;; esac
    done
}

# await PID SECONDS: until it has ended; false when it has not by then.
await() {
  await_end=$(($(now_ms) + $2 * 1000))
  while alive "$1"; do
    [ "$(now_ms)" -lt "$await_end" ] || return 1
    sleep 0.05
  done
}

# pause PID MILLISECONDS: let it run for that long; false when it ends before.
pause() {
  pause_end=$(($(now_ms) + $2))
  while [ "$(now_ms)" -lt "$pause_end" ]; do
    alive "$1" || return 1
    sleep 0.05
  done
  alive "$1"
}

cleanup() {
  trap '' INT TERM HUP
  trap - EXIT
  [ -n "$tmp" ] || return
  # Twice: a supervisor may be just starting its program.
  for _ in 1 2; do
    left="$(ours xz) $(ours 'cr*')"
    [ -z "$running" ] || left="$left $running"
    # shellcheck disable=SC2086 # a list of ids
    set -- $left
    [ $# -eq 0 ] || kill -9 "$@" 2>/dev/null
    sleep 0.05
  done
  [ -z "$running" ] || wait "$running" 2>/dev/null
  if [ "${CR_DEMO_KEEP:-0}" = 1 ]; then
    printf '\ndemo: kept %s\n' "$tmp"
  else
    rm -rf -- "$tmp"
  fi
}
trap cleanup EXIT
trap 'cleanup; echo "demo: interrupted" >&2; exit 129' HUP
trap 'cleanup; echo "demo: interrupted" >&2; exit 130' INT
trap 'cleanup; echo "demo: interrupted" >&2; exit 143' TERM

# ------------------------------------------------------------------------------ the parts

check_tools() {
  for tool in crrun crckpt crrestore; do
    [ -x "$build/bin/$tool" ] || fail "$build/bin/$tool is missing: run make first"
  done
  for tool in xz awk cmp find stat date; do
    command -v "$tool" >/dev/null 2>&1 ||
      fail "$tool is not installed (Debian packages: xz-utils mawk diffutils findutils coreutils)"
  done
}

make_directory() {
  tmp=$(mktemp -d "${TMPDIR:-/tmp}/cr-demo.XXXXXX") ||
    fail "cannot make a directory in ${TMPDIR:-/tmp}"
  tmp=$(CDPATH='' cd -- "$tmp" && pwd -P) || fail "cannot enter $tmp"
  free_kib=$(df -Pk -- "$tmp" | awk 'NR == 2 { print $4 }')
  [ "${free_kib:-0}" -ge 1048576 ] ||
    fail "only $((${free_kib:-0} / 1024)) MiB are free in $tmp, 1024 are needed: set TMPDIR"
}

# generate MIB: lines that look like a log, from a small random number generator; always the same.
generate() {
  awk -v bytes="$(($1 * 1048576))" '
    function random(n) { state = state * 16807 % 2147483647; return state % n }
    BEGIN {
      state = 20240229
      for (i = 0; i < 600; i++) {
        word[i] = ""
        for (k = 3 + random(6); k > 0; k--) word[i] = word[i] sprintf("%c", 97 + random(26))
      }
      for (line = 1; made < bytes; line++) {
        text = sprintf("%08d %05d", line, random(100000))
        for (k = 6 + random(10); k > 0; k--) text = text " " word[random(600)]
        made += length(text) + 1
        print text
      }
    }'
}

# The size for which xz takes long enough on this machine, from a short trial.
choose_size() {
  generate 8 >"$tmp/trial" || fail "cannot write to $tmp"
  began=$(now_ms)
  xz -T2 --block-size=$block -c "$tmp/trial" >"$tmp/trial.xz" || fail "xz does not work"
  took=$(($(now_ms) - began))
  rm -f "$tmp/trial" "$tmp/trial.xz"
  mibs=$((8 * goal_ms / (took + 1)))
  [ "$mibs" -ge 40 ] || mibs=40
  [ "$mibs" -le 320 ] || mibs=320
}

make_input() {
  step "Make the input: $mibs MiB of text, always the same"
  generate "$mibs" >"$tmp/input" || fail "cannot write $tmp/input"
  say "input has $(size_of "$tmp/input") bytes"
}

run_undisturbed() {
  step "The reference: the same work without any checkpoint"
  show "xz -T2 --block-size=$block -k -c input > reference.xz"
  began=$(now_ms)
  (cd "$tmp" && exec xz -T2 --block-size=$block -k -c input >reference.xz) &
  running=$!
  await "$running" 600 || fail "xz has not ended after 600 s"
  wait "$running" || fail "xz failed"
  running=
  reference_ms=$(($(now_ms) - began))
  limit_s=$((60 + reference_ms / 100))
  say "took $(seconds "$reference_ms"), output $(size_of "$tmp/reference.xz") bytes"
}

# 1 when xz was too fast for what was planned.
run_and_kill() {
  step "Run the same program, unmodified, under checkpointing"
  show "crrun -d xz.image -i off -- xz -T2 --block-size=$block -c input > output &"
  (cd "$tmp" && exec crrun -d xz.image -i off -- xz -T2 --block-size=$block -c input >output) &
  running=$!
  job=$running
  before_ms=$((reference_ms * 30 / 100))
  pause "$job" "$before_ms" || { ended_early; return 1; }
  program=$(ours xz | head -n 1)
  [ -n "$program" ] || fail "crrun (process $job) is there, but no xz"
  say "xz is process $program; after $(seconds "$before_ms") output is $(size_of "$tmp/output") bytes"

  step "Take a checkpoint while it works"
  show "crckpt xz.image"
  began=$(now_ms)
  (cd "$tmp" && exec timeout --foreground "$limit_s" crckpt xz.image) >"$tmp/crckpt.out" 2>&1
  status=$?
  checkpoint_ms=$(($(now_ms) - began))
  sed 's/^/     /' "$tmp/crckpt.out"
  if [ "$status" -ne 0 ]; then
    alive "$job" || { ended_early; return 1; }
    fail "crckpt ended with status $status"
  fi
  checkpoint_size=$(size_of "$tmp/output")
  say "output has $checkpoint_size bytes now"

  step "Let it run on for a while, then kill the program and crrun at once"
  pause "$job" $((reference_ms * 25 / 100)) || { ended_early; return 1; }
  program=$(ours xz | tr '\n' ' ')
  [ -n "$program" ] || { ended_early; return 1; }
  show "kill -9 $program$job"
  # shellcheck disable=SC2086 # a list of ids
  kill -9 $program "$job" 2>/dev/null
  await "$job" 10 || fail "process $job survives kill -9"
  wait "$job" 2>/dev/null
  running=
  for id in $program; do await "$id" 10 || fail "process $id survives kill -9"; done
  if cmp -s "$tmp/output" "$tmp/reference.xz"; then return 1; fi
  killed_size=$(size_of "$tmp/output")
  whole_size=$(size_of "$tmp/reference.xz")
  say "both are gone; output has $killed_size of $whole_size bytes and is incomplete:"
  show "xz -t output"
  (cd "$tmp" && xz -t --format=xz <output 2>&1) | sed 's/^/     /'
}

# Returns if crrun ended because xz was done; ends the demo if crrun failed.
ended_early() {
  await "$job" 10 || fail "xz has ended, but crrun (process $job) has not"
  wait "$job"
  status=$?
  running=
  [ "$status" -eq 0 ] || fail "crrun ended with status $status before the kill"
}

bring_back() {
  step "Bring it back from the image and let it finish"
  show "crrestore xz.image"
  began=$(now_ms)
  (cd "$tmp" && exec crrestore xz.image) &
  running=$!
  job=$running
  await "$job" "$limit_s" || fail "the restored program has not ended after $limit_s s"
  wait "$job"
  status=$?
  running=
  restored_ms=$(($(now_ms) - began))
  [ "$status" -eq 0 ] || fail "crrestore ended with status $status"
  say "ended with status 0 after $(seconds "$restored_ms")"
}

compare() {
  step "Compare with the undisturbed run, byte for byte"
  show "cmp output reference.xz"
  (cd "$tmp" && cmp output reference.xz) || fail "the output of the restored run differs"
  say "identical"
  image_kib=$(du -sk -- "$tmp/xz.image" | awk '{ print $1 }')
  printf '\nSummary\n'
  say "input                    $(mib "$(size_of "$tmp/input")")"
  say "output of both runs      $(size_of "$tmp/output") bytes"
  say "  at the checkpoint      $checkpoint_size bytes"
  say "  when killed            $killed_size bytes"
  say "checkpoint               $(tr '\n' ' ' <"$tmp/crckpt.out")"
  say "image directory          $(mib $((image_kib * 1024)))"
  say "undisturbed run          $(seconds "$reference_ms")"
  say "crckpt, start to end     $(seconds "$checkpoint_ms")"
  say "restored run to its end  $(seconds "$restored_ms")"
  say "result                   identical"
}

# ------------------------------------------------------------------------------ main

check_tools
make_directory
printf 'Checkpoint, kill and restore an unmodified program: xz, compressing with two threads.\n'
printf 'Working in %s\n' "$tmp"
if [ -n "${CR_DEMO_MIB:-}" ]; then
  mibs=$CR_DEMO_MIB
  case $mibs in *[!0-9]* | 0*) fail "CR_DEMO_MIB=$mibs: not a whole number of MiB" ;; esac
else
  choose_size
fi
for attempt in 1 2 3; do
  make_input
  run_undisturbed
  run_and_kill && break
  [ "$attempt" -lt 3 ] || fail "xz was always done before it could be killed"
  rm -rf -- "$tmp/xz.image" "$tmp/output"
  mibs=$((mibs * 2))
  say "xz was done before it could be killed; again with $mibs MiB"
done
bring_back
compare
