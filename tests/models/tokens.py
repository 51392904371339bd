"""Tokenizers to hold texts against: those of shipped profiles, and small ones of other kinds."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dtufc.models.profile import load_profile
from dtufc.models.zoo import weights_folder

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # of SentencePiece
SPECIAL = ("<unk>", "<s>", "</s>")
ASCII = [chr(code) for code in range(ord("!"), 127)]
WORDS = ("the", "cat", "he", "like", "did", "not", "do", "n't", "'s", "a", "b", "ing", ".", ",", "!")
MERGES = [("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t"), ("<", "/"), ("<", "|"), ("|", ">"), ("n", "g")]
# Trims, rejects system turns, leaves out what an assistant has thought, and writes a token that is not special.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system turns here') }}"
    "{% elif m.role == 'user' %}{{ '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ m.content.split('</think>')[-1] | trim + eos_token }}{% endif %}{% endfor %}"
)
WRITTEN = ("[INST]", "[/INST]", "</think>")


def shipped(name: str) -> Any:
    """The tokenizer of a shipped profile."""
    return AutoTokenizer.from_pretrained(weights_folder(load_profile(name).spec), local_files_only=True)


def llama(*, normalized: bool = False) -> Any:
    """BPE with byte fallback, and a space before the text, as Llama 2 has it.

    Args:
        normalized: special tokens are found in normalized text, as early conversions have it: only behind a space.
    """
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, *ASCII]
    merges = [*MERGES, (SPACE, "the"), (SPACE, SPACE)]
    model = models.BPE(_ids([*pieces, *map("".join, merges)]), merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    replace = decoders.Replace(SPACE, " ")
    tokenizer.decoder = decoders.Sequence(
        [replace, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _fast(tokenizer, normalized=normalized)


def byte_level() -> Any:
    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(_ids([*pieces, *map("".join, MERGES)]), MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _fast(tokenizer)


def wordpiece() -> Any:
    """Lower case, and a decoder that takes spaces away."""
    pieces = [*SPECIAL, *ASCII, *WORDS, *(f"##{piece}" for piece in (*ASCII, *WORDS))]
    tokenizer = Tokenizer(models.WordPiece(_ids(pieces), unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return _fast(tokenizer, clean_up_tokenization_spaces=True, normalized=True)


def unigram() -> Any:
    """A model that may make a control token of characters, and a decoder that begins without the space."""
    pieces = [*SPECIAL, SPACE, *ASCII, *WORDS, *(SPACE + word for word in WORDS)]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(len(pieces))) for piece in dict.fromkeys(pieces)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _fast(tokenizer)


TOKENIZERS: Mapping[str, Callable[[], Any]] = {
    "smollm2-135m": lambda: shipped("smollm2-135m"),
    "qwen2.5-coder-1.5b": lambda: shipped("qwen2.5-coder-1.5b"),
    "llama": llama,
    "byte-level": byte_level,
    "wordpiece": wordpiece,
    "unigram": unigram,
}


@lru_cache
def tokenizer_of(name: str) -> Any:
    return TOKENIZERS[name]()


def save_tiny(name: str, folder: Path) -> None:
    """A random Llama of two layers with this tokenizer."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer_of(name)), **sizes)).save_pretrained(folder)
    tokenizer_of(name).save_pretrained(folder)


def _ids(pieces: list[str]) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def _fast(tokenizer: Tokenizer, *, normalized: bool = False, clean_up_tokenization_spaces: bool = False) -> Any:
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=normalized) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*WRITTEN, "<table>", "\n\n")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=AddedToken("<unk>", special=True, normalized=normalized),
        bos_token=AddedToken("<s>", special=True, normalized=normalized),
        eos_token=AddedToken("</s>", special=True, normalized=normalized),
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=clean_up_tokenization_spaces,
    )
