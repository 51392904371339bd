"""Fits a profile to a language model, from excerpts of texts: the codecs know its features from then on.

    python -m examples.fit_language_model qwen2.5-coder-1.5b docs/*.md -o my-qwen
    python -m dtufc_cloud --profiles my-qwen --dtype bfloat16

A quarter of the excerpts is put as a user's turn of a chat: features of chats differ from those of running text.
"""

import argparse
from collections.abc import Sequence
from itertools import islice, zip_longest
from pathlib import Path

import torch
from rich.progress import track

from dtufc.models.fitting import fit, gradients_of
from dtufc.models.profile import load_profile
from dtufc_edge.pipeline import EdgePipeline

EXCERPT_TOKENS = 256
NUM_EXCERPTS = 16


def fit_profile(
    name: str, texts: Sequence[str], output: Path, num_excerpts: int = NUM_EXCERPTS, *, gradients: bool = True
) -> None:
    """Writes the profile NAME, fitted at its split, into a folder.

    Args:
        name: of a profile of family `decoder`, or its folder.
        texts: to take the excerpts from, in turn.
        output: the folder.
        num_excerpts: of 256 tokens each.
        gradients: spend bits where the model's last layers depend on them. A backward pass for each excerpt.
    """
    profile = load_profile(name)
    backbone = EdgePipeline(profile, torch.device("cpu"), torch.bfloat16).backbone
    excerpts = [_excerpts(backbone.plain_ids(text)) for text in texts]
    in_turn = list(islice(_interleaved(excerpts), num_excerpts))
    samples = []
    for index, ids in enumerate(track(in_turn, description=f"features of {profile.name}")):
        as_turn = index % 4 == 3
        token_ids = backbone.chat_ids(backbone.decode(ids)) if as_turn else ids
        samples.append(backbone.start().features(token_ids[:EXCERPT_TOKENS]).float())
    del backbone  # the first layers' memory is the last layers' now
    slopes = None
    if gradients:
        found = gradients_of(profile, samples, dtype="bfloat16")
        slopes = list(track(found, total=len(samples), description="gradients"))
    codec = fit(samples, profile=profile, gradients=slopes)
    codec.save(output)
    print(codec.report)


def _excerpts(token_ids: list[int]) -> list[list[int]]:
    starts = range(0, len(token_ids) - EXCERPT_TOKENS + 1, EXCERPT_TOKENS)
    return [token_ids[start : start + EXCERPT_TOKENS] for start in starts]


def _interleaved(excerpts: Sequence[list[list[int]]]) -> "list[list[int]]":
    return [ids for turn in zip_longest(*excerpts) for ids in turn if ids is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", help="a name that `dtufc models` lists, or a folder with a profile.yaml")
    parser.add_argument("texts", nargs="+", type=Path, help="files of plain text or Markdown")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the fitted profile")
    parser.add_argument("--excerpts", type=int, default=NUM_EXCERPTS, help="of 256 tokens each")
    parser.add_argument("--no-gradients", action="store_true", help="faster, and half again as many bits")
    arguments = parser.parse_args()
    texts = [path.read_text(encoding="utf-8") for path in arguments.texts]
    fit_profile(arguments.profile, texts, arguments.output, arguments.excerpts, gradients=not arguments.no_gradients)


if __name__ == "__main__":
    main()
