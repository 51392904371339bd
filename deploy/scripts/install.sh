#!/bin/sh
# Runs while an image is built: installs what /wanted says into a virtual environment, and drops what no service reads.
set -eu
venv="$1"
python3 -m venv "$venv"

# TORCH stands in for the lock's release of torch.
if [ -n "${TORCH:-}" ]; then
  sed -i '/^torch==/d' /wanted/requirements.lock
  echo "$TORCH" >> /wanted/requirements.txt
fi
case "$ACCELERATOR" in
  cpu) [ -z "$TORCH_CPU_INDEX" ] || export PIP_EXTRA_INDEX_URL="$TORCH_CPU_INDEX" ;;
  cuda) ;; # PyPI's build for Linux on x86-64 is the one for CUDA
  *) echo "ACCELERATOR is cpu or cuda, not $ACCELERATOR" >&2; exit 2 ;;
esac
"$venv/bin/python" -m pip install --quiet -c /wanted/requirements.lock -r /wanted/requirements.txt

# Headers, build files and test programs of torch, and packages' own tests: nothing uses them.
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$packages"/torch/include "$packages"/torch/share "$packages"/torch/test
find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete # without which torch does not load
for package in sympy networkx onnx; do
  [ ! -d "$packages/$package" ] || find "$packages/$package" -type d -name tests -prune -exec rm -rf {} +
done
