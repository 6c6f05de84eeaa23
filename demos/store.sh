#!/bin/sh
# SPDX-License-Identifier: MIT
#
# store.sh - shows checkpoints that survive their node: three nodes, each a crstored in a network
# namespace of its own (as root; else three ports of 127.0.0.1); an unmodified xz runs on node a under
# `crrun --protect=replica:2`; node a is lost with everything that is on it; `crrestore xz` on node b
# brings the program back, and its output is compared with that of an undisturbed run. `make
# demo-store` calls it after building.
#
# Everything it makes is in one temporary directory and in namespaces of its own; it leaves neither
# files nor processes nor namespaces behind, also when it fails or is interrupted.
#
# Environment: CR_BUILD_DIR where bin/ and lib/ are (default: build beside this script's folder);
# TMPDIR. Exit status: 0 the outputs are identical, 1 anything else.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
build=$(CDPATH='' cd -- "${CR_BUILD_DIR:-$root/build}" 2>/dev/null && pwd) || build=$root/build
PATH=$build/bin:$PATH
export PATH
unset XZ_DEFAULTS XZ_OPT CR_IMAGE_DIR CR_STORE_SOCKET

tmp=
net=                # prefix of the namespaces, if there are some
pids=

step_number=0
step() { step_number=$((step_number + 1)); printf '\n%d. %s\n' "$step_number" "$*"; }
show() { printf '   $ %s\n' "$*"; }
indent() { sed 's/^/   /'; }
fail() { printf '\ndemo-store: FAILED: %s\n' "$*" >&2; exit 1; }

# Those of our processes that work in the temporary directory.
ours() {
  find /proc/[0-9]*/cwd -maxdepth 0 \( -lname "$tmp" -o -lname "$tmp/*" \) 2>/dev/null |
    while IFS=/ read -r _ _ id _; do [ "$id" = $$ ] || echo "$id"; done
}

remove_namespaces() {
  for n in a b c hub; do [ -z "$net" ] || ip netns del "$net$n" 2>/dev/null; done
  net=
}

cleanup() {
  trap - EXIT
  for id in $(ours) $pids; do kill -9 "$id" 2>/dev/null; done
  remove_namespaces
  cd / && [ -z "$tmp" ] || rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# on NODE COMMAND...: runs it as if on that node.
on() {
  node=$1; shift
  if [ -n "$net" ]; then
    CR_STORE_SOCKET=$tmp/$node.sock ip netns exec "$net$node" "$@"
  else
    CR_STORE_SOCKET=$tmp/$node.sock "$@"
  fi
}

make_namespaces() {
  [ "$(id -u)" = 0 ] && command -v ip >/dev/null || return 1
  net=crdemo$$-
  ip netns add "${net}hub" 2>/dev/null || { net=; return 1; }
  ip -n "${net}hub" link add br0 type bridge && ip -n "${net}hub" link set br0 up || return 1
  i=0
  for n in a b c; do
    i=$((i + 1))
    ip netns add "$net$n" &&
      ip -n "$net$n" link add eth0 type veth peer name "to-$n" netns "${net}hub" &&
      ip -n "${net}hub" link set "to-$n" master br0 up &&
      ip -n "$net$n" addr add "10.77.0.$i/24" dev eth0 &&
      ip -n "$net$n" link set eth0 up && ip -n "$net$n" link set lo up || return 1
  done
  members=a=10.77.0.1,b=10.77.0.2,c=10.77.0.3
}

[ -x "$build/bin/crstored" ] || fail "$build/bin/crstored is not there; run make first"
tmp=$(mktemp -d) && cd "$tmp" || exit 1

step "Three nodes"
if make_namespaces; then
  echo "   each a network namespace of its own: $members"
else
  remove_namespaces
  members=a=127.0.0.1:7401,b=127.0.0.1:7402,c=127.0.0.1:7403
  echo "   three ports of this machine: $members"
fi
crstored --make-key key >/dev/null || fail "no key could be made"
for n in a b c; do
  on "$n" crstored --members "$members" --name "$n" --key key --store "$tmp/store-$n" \
    --socket "$tmp/$n.sock" 2>"$n.log" &
  pids="$pids $!"
done
for n in a b c; do
  for _ in 1 2 3 4 5 6 7 8 9 10; do grep -q ready "$n.log" && break; sleep 0.5; done
  grep -q ready "$n.log" || fail "crstored on node $n did not start: $(cat "$n.log")"
done

step "An unmodified program on node a"
seq 1 9000000 >input
show "crrun -d xz.image -i 1 --protect=replica:2 -- xz -T2 --block-size=2MiB -c input > output"
on a crrun -d xz.image -i 1 --protect=replica:2 -- \
  xz -T2 --block-size=2MiB -c input >output 2>messages &
for _ in $(seq 60); do
  on a crstore status | grep -q 'is safe from' && break
  sleep 0.2
done
on a crstore status | grep -A3 '^session' | indent
on a crstore status | grep -q 'is safe from' || fail "no checkpoint got to another node: $(cat messages)"

step "Node a is lost: program, crrun, crstored, images and store"
for id in $(ours); do
  case $(cat "/proc/$id/comm" 2>/dev/null) in
    xz | crrun) kill -9 "$id" ;;
    crstored) tr '\0' ' ' <"/proc/$id/cmdline" | grep -q -- '--name a ' && kill -9 "$id" ;;
  esac
done
[ -z "$net" ] || ip netns del "${net}a"
rm -rf xz.image store-a
echo "   $(wc -c <output) bytes of output are there"

step "On node b"
show "crstore ls; crrestore -v xz"
on b crstore ls 2>/dev/null | indent
on b crrestore -v xz 2>&1 | grep -v % | indent
xz -dc output 2>/dev/null | cmp -s - input || fail "the output is another one"
echo
echo "identical: the output of the program that lost its node, and its input"
