#!/usr/bin/env bash
# Prints what an environment of edge and cloud weighs, and what it would weigh with CompressAI, which the run time of the
# learned codecs needed until decision 0016. Two fresh virtual environments, with the same release of torch.
#
#   environments.sh FOLDER    makes them in FOLDER/without and FOLDER/with, and leaves them there
#
# PYTHON: another one than python3.11; CompressAI has wheels up to 3.12. TORCH: a requirement, for example torch==2.13.0.
set -euo pipefail

PYTHON=${PYTHON:-python3.11}
TORCH=${TORCH:-torch}
COMPRESSAI=compressai==1.2.8
here=$(cd "$(dirname "$0")/../.." && pwd)

make_environment() {
  local folder="$1"
  shift
  "$PYTHON" -m venv "$folder"
  "$folder/bin/python" -m pip --quiet --disable-pip-version-check install "$@" >&2
  printf '\n%s CompressAI: ' "$(basename "$folder")"
  "$folder/bin/dtufc" --version
}

[ $# -eq 1 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
mkdir -p "$1"
make_environment "$1/without" "$here[edge,cloud]" "$TORCH"
make_environment "$1/with" "$here[edge,cloud]" "$TORCH" "$COMPRESSAI"
