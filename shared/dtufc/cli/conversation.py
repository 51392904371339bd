"""A conversation: turns from the terminal or a pipe, replies as they come, and what each cost.

A line that starts with a slash is a command. A turn that fails is said, and is not part of the conversation.
"""

import io
import json
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from dtufc.cli.output import cost_facts, generated_facts
from dtufc.client import EdgeClient
from dtufc.client.requests import GenerationOptions, check_text
from dtufc.errors import DtufcError, InputError
from dtufc.v1 import inference_pb2

_COMMANDS = "/exit, /reset, /system TEXT, /save FILE"


class Reply:
    """The text of a reply, as far as it has come; at its end what it cost."""

    def __init__(self) -> None:
        self.text = ""
        self.last = inference_pb2.CompleteReply()
        self.tokens_per_second: float | None = None  # behind the first one

    def read(self, stream: Generator[inference_pb2.CompleteReply, None, None], *, is_shown: bool) -> None:
        """Takes the reply to its end. Whatever ends it early ends the work on the edge."""
        first_s: float | None = None
        with closing(stream):
            for self.last in stream:
                first_s = first_s or time.monotonic()
                self.text += self.last.text
                if is_shown:
                    print(self.last.text, end="", flush=True)
        if first_s is not None and self.last.generated.new_tokens > 1:
            self.tokens_per_second = (self.last.generated.new_tokens - 1) / (time.monotonic() - first_s)

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "text": self.text,
            "finish_reason": self.last.finish_reason,
            **generated_facts(self.last.generated),
            "tokens_per_second": self.tokens_per_second and round(self.tokens_per_second, 2),
            "cost": cost_facts(self.last.cost),
        }

    def cost_line(self) -> str:
        """What it cost, in one line."""
        cost, generated = self.last.cost, self.last.generated
        parts = [f"{generated.new_tokens} token{'s' * (generated.new_tokens != 1)}"]
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:.1f} tokens/s")
        parts.append(f"first after {1000 * generated.first_token_seconds:.0f} ms")
        parts.append(f"{cost.wire_bytes:,} bytes, {cost.bpfp_wire:.2f} BPFP")
        parts.append(f"{1 - cost.wire_bytes / cost.raw_bytes:z.1%} saved")
        if generated.drafted_tokens:
            parts.append(f"{generated.accepted_tokens} of {generated.drafted_tokens} drafts held")
        if generated.recoveries:
            parts.append(f"recoveries: {generated.recoveries}")
        if self.last.finish_reason != "end":
            parts.append(f"ended by {self.last.finish_reason}")
        return ", ".join(parts)


class Conversation:
    """Turns and replies so far.

    Args:
        client: of the edge.
        options: of every turn.
        system: the system's message, or none.
        as_json: print one JSON object a turn.
    """

    def __init__(self, client: EdgeClient, options: GenerationOptions, *, system: str, as_json: bool) -> None:
        self.num_failed = 0
        self._client, self._options = client, options
        self._system, self._as_json = system, as_json
        self._turns: list[dict[str, str]] = []
        self._console = Console(highlight=False)

    @property
    def messages(self) -> list[dict[str, str]]:
        """As OpenAI and transformers have them."""
        return [*([{"role": "system", "content": self._system}] if self._system else []), *self._turns]

    def hold(self, lines: Iterator[str]) -> None:
        """A line is a turn or a command; until they end or one says /exit."""
        for line in map(str.strip, lines):
            if line == "/exit":
                return
            try:
                check_text("line", line)
                if line.startswith("/"):
                    self._obey(line)
                elif line:
                    self._ask(line)
            except DtufcError as error:
                self.num_failed += 1
                self._say_error(error)

    def _ask(self, text: str) -> None:
        turn, reply = {"role": "user", "content": text}, Reply()
        is_whole = False
        try:
            reply.read(self._client.chat([*self.messages, turn], **self._options), is_shown=not self._as_json)
            is_whole = True
        except KeyboardInterrupt:
            pass  # the conversation goes on, with what has come
        finally:
            if reply.text and not self._as_json:
                print()
        if reply.text or is_whole:
            self._turns += [turn, {"role": "assistant", "content": reply.text}]
        if self._as_json:
            facts = reply.facts() if is_whole else {"text": reply.text, "finish_reason": "interrupted"}
            print(json.dumps(facts), flush=True)
        else:
            self._say(reply.cost_line() if is_whole else "interrupted")

    def _obey(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        match name, argument.strip():
            case "/reset", "":
                self._turns.clear()
            case "/system", text:
                self._system = text
            case "/save", path if path:
                self._save(Path(path))
            case _:
                raise InputError(field="command", problem=line, remedy=f"Use {_COMMANDS}")

    def _save(self, path: Path) -> None:
        try:
            path.write_text(json.dumps(self.messages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(field="/save", problem=str(error), remedy="Choose a path that can be written") from error

    def _say(self, line: str) -> None:
        self._console.print(line, style="dim", markup=False, soft_wrap=True)

    def _say_error(self, error: DtufcError) -> None:
        if self._as_json:
            print(json.dumps({"error": str(error), "code": error.code}), flush=True)
        else:
            print(f"error: {error}", file=sys.stderr, flush=True)


def typed() -> Iterator[str]:
    """Lines of the terminal, until Ctrl-D. Ctrl-C drops one."""
    with suppress(ImportError):  # not on Windows, whose terminal edits lines itself
        import readline  # noqa: F401 - `input` edits lines and remembers them where it is loaded
    _take_any_bytes()
    while True:
        try:
            line = input("> ")
        except KeyboardInterrupt:
            print()
            continue
        except EOFError:
            print()
            return
        yield line


def piped() -> Iterator[str]:
    """Lines of standard input."""
    _take_any_bytes()
    yield from sys.stdin


def _take_any_bytes() -> None:
    """A line that is no UTF-8 is an error of its turn, not the end of the conversation."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
