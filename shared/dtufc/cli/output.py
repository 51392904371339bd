"""What every command shares: one line for an error, facts as text or JSON."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import MAX_PAYLOAD_BYTES
from dtufc.coding.evaluation import Evaluation
from dtufc.coding.features import read_npy
from dtufc.errors import DtufcError
from dtufc.files import read_file

if TYPE_CHECKING:
    from dtufc.v1 import inference_pb2

_MAX_BYTES: Final = MAX_PAYLOAD_BYTES + (1 << 16)  # of a frame, or of a file of features: the largest, and its header


@contextmanager
def errors() -> Iterator[None]:
    """An error of ours is one line and exit status 1, not a trace."""
    try:
        yield
    except DtufcError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except UnicodeEncodeError as error:
        print(f"error: {error.object!r} is not Unicode text. Give it in UTF-8.", file=sys.stderr)
        raise typer.Exit(1) from error
    except OSError as error:
        print(f"error: {error}. Choose a path that can be written.", file=sys.stderr)
        raise typer.Exit(1) from error


def show(facts: Mapping[str, Any], as_json: bool) -> None:
    """Prints named facts, a line each, or one JSON object."""
    if as_json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):16} {round(value, 4) if isinstance(value, float) else value}")


def warn(line: str) -> None:
    """A line on stderr."""
    print(f"warning: {line}", file=sys.stderr)


def evaluation_facts(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON has it."""
    rows = [{"codec": r.codec, "quality": r.quality, "bpfp": r.bpfp, **r.scores} for r in evaluation.rows]
    return {"samples": evaluation.num_samples, "rows": rows, "warnings": evaluation.warnings}


def cost_facts(cost: "inference_pb2.Cost") -> dict[str, Any]:
    """A reply's cost, flat: sizes, BPFP, and the milliseconds of each stage."""
    return {
        "profile": cost.profile,
        "codec": cost.codec,
        "frames": cost.num_frames,
        "raw_bytes": cost.raw_bytes,
        "payload_bytes": cost.payload_bytes,
        "wire_bytes": cost.wire_bytes,
        "bpfp_payload": cost.bpfp_payload,
        "bpfp_wire": cost.bpfp_wire,
        **{f"{stage.name}_ms": round(1000 * stage.seconds, 3) for stage in cost.stages},
    }


def generated_facts(generated: "inference_pb2.Generated") -> dict[str, Any]:
    """What a reply's text took."""
    return {
        "prompt_tokens": generated.prompt_tokens,
        "new_tokens": generated.new_tokens,
        "drafted_tokens": generated.drafted_tokens,
        "accepted_tokens": generated.accepted_tokens,
        "recoveries": generated.recoveries,
        "first_token_ms": round(1000 * generated.first_token_seconds, 3),
        "seed": generated.seed,
    }


def load_features(path: Path) -> Array:
    """The features in a .npy file of one array. Raises InputError for anything else."""
    return read_npy(read_file(path, _MAX_BYTES), str(path))


def read_frame(path: Path) -> bytes:
    """A file's bytes. Raises InputError where it cannot be read."""
    return read_file(path, _MAX_BYTES, field="frame")
