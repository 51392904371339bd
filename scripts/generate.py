"""`python -m scripts.generate [--check]`: code from proto/, into the library."""

import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
_GENERATED = Path("dtufc/v1")


def generate(output: Path) -> None:
    """Writes the generated modules below `output`."""
    protos = sorted(str(path) for path in (ROOT / "proto").rglob("*.proto"))
    flags = [f"--{kind}={output}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    common = Path(grpc_tools.__file__).parent / "_proto"  # google.protobuf.Any and its like
    if protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{common}", *flags, *protos]):
        raise SystemExit("protoc failed")


def main() -> int:
    committed = ROOT / "shared" / _GENERATED
    if "--check" not in sys.argv:
        generate(ROOT / "shared")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = {path.name: path.read_bytes() for path in (Path(scratch) / _GENERATED).iterdir()}
    stale = [
        name
        for name, data in fresh.items()
        if not (committed / name).exists() or (committed / name).read_bytes() != data
    ]
    if stale:
        print(f"out of date: {', '.join(stale)}: run `make proto`", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
