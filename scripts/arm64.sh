#!/usr/bin/env bash
# The wheel of this checkout on an emulated aarch64, and the same run on this machine beside it.
#
#     PYTHON=.venv/bin/python scripts/arm64.sh bundles/digits-host
#
# Makes a small aarch64 Debian 12 under build/arm64 (used again while it is there), installs the
# wheel in it with aarch64 wheels, verifies the bundle there, and runs it on the simulator there
# and here. The runs that are compared are as fast as possible: their time is the simulator's,
# so both see the same frames however slow the emulation is. Exits with 1 if a label differs.
#
# Needs no rights of root, and changes nothing outside build/arm64.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin # Debian keeps debootstrap and chroot there

PYTHON=${PYTHON:-.venv/bin/python}
BUNDLE=${1:?say which bundle to run: scripts/arm64.sh bundles/digits-host}
BUILD=build/arm64
SYSTEM=$BUILD/system
# The simulator of both runs, and how many of its seconds are compared.
WORLD=sim://digits
SECONDS_COMPARED=30

say() { printf '\n== %s\n' "$*"; }

give_up() {
  printf '%s\n' "$@" >&2
  exit 3
}

check_tools() {
  for tool in debootstrap qemu-aarch64-static; do
    command -v "$tool" >/dev/null ||
      give_up "$tool is not here: sudo apt-get install debootstrap qemu-user-static"
  done
  enter true || give_up \
    "aarch64 programs cannot be started here, for want of a user namespace in which they can" \
    "(Linux 6.7 or later): sudo apt-get install binfmt-support qemu-user-static makes every" \
    "program on this machine able to, and user namespaces must be allowed to users"
}

# enter COMMAND...: in a namespace of its own, where the kernel starts aarch64 programs in qemu.
# binfmt_misc takes the first bytes of an aarch64 executable and a mask that says which of them
# count; F opens qemu now, so that it is found after the change of root as well.
enter() {
  unshare --user --map-root-user --mount bash -euc '
    binfmt=/proc/sys/fs/binfmt_misc
    if [ ! -e $binfmt/qemu-aarch64 ]; then
      mount -t binfmt_misc binfmt_misc $binfmt
      magic="\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
      mask="\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
      echo ":qemu-aarch64:M::$magic:$mask:$(command -v qemu-aarch64-static):F" >$binfmt/register
    fi
    exec "$@"' enter "$@"
}

# emulated COMMAND...: in the aarch64 system, in its topmost folder. It has no /sys, where ONNX
# Runtime would find the x86-64 processor of this machine; without, it warns and goes on.
emulated() {
  enter bash -euc '
    system=$1
    shift
    for folder in proc dev; do mount --rbind "/$folder" "$system/$folder"; done
    places=/venv/bin:/usr/bin:/bin:/usr/sbin:/sbin
    exec env --ignore-environment HOME=/ LANG=C.UTF-8 PATH=$places \
      chroot "$system" "$@"' emulated "$SYSTEM" "$@"
}

# Debian's packages are unpacked and not configured: Python asks for no more, and it is quick.
make_system() {
  [ ! -e "$BUILD/.system" ] || return 0
  rm -rf "$SYSTEM"
  mkdir -p "$SYSTEM"
  debootstrap --download-only --arch=arm64 --variant=minbase \
    --include=python3,python3-venv,libportaudio2 bookworm "$SYSTEM" >"$BUILD/debootstrap.log" ||
    give_up "debootstrap failed, and said:" "$(tail -n 3 "$BUILD/debootstrap.log")"
  for package in "$SYSTEM"/var/cache/apt/archives/*.deb; do
    dpkg-deb --extract "$package" "$SYSTEM"
  done
  emulated ldconfig # or sounddevice does not find PortAudio
  touch "$BUILD/.system"
}

# What pip on this machine fetches for aarch64, pip in the system installs, offline.
install_wheel() {
  local platforms=()
  for tag in 2_17 2_24 2_26 2_27 2_28 2_31 2_34; do
    platforms+=(--platform "manylinux_${tag}_aarch64")
  done
  rm -rf "$SYSTEM/wheels" "$SYSTEM/venv"
  "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$SYSTEM/wheels" .
  "$PYTHON" -m pip download --quiet --constraint constraints.txt --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 "${platforms[@]}" \
    --dest "$SYSTEM/wheels" "$(echo "$SYSTEM"/wheels/mla_edge-*.whl)[run]"
  emulated python3 -m venv /venv
  emulated python -m pip install --quiet --no-index --find-links /wheels --no-compile \
    'mla-edge[run]'
  ls "$SYSTEM/wheels"
}

copy_bundle() {
  rm -rf "$SYSTEM/bundles"
  mkdir "$SYSTEM/bundles"
  cp -r "$BUNDLE" "$SYSTEM/bundles/"
}

run_both() {
  local words=(--camera "$WORLD" --mic "$WORLD" --as-fast-as-possible --json)
  words+=(--duration "$SECONDS_COMPARED")
  "$PYTHON" -m mla_edge run --bundle "$BUNDLE" "${words[@]}" >"$BUILD/x86-64.jsonl"
  emulated mla-edge run "${words[@]}" >"$BUILD/aarch64.jsonl"
}

check_tools
say "an aarch64 Debian"
make_system
emulated uname -m
emulated python3 --version
say "the wheel, and what it needs"
install_wheel
copy_bundle
say "mla-edge verify"
emulated mla-edge verify "bundles/$(basename "$BUNDLE")"
say "mla-edge run, in real time"
emulated mla-edge run --camera "$WORLD" --mic "$WORLD" --duration 5
say "mla-edge run, $SECONDS_COMPARED s of $WORLD as fast as possible"
run_both
"$PYTHON" scripts/compare_runs.py "$BUILD/x86-64.jsonl" "$BUILD/aarch64.jsonl"
