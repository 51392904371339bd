"""`dtufc chat` as its users have it: a line a turn from a pipe, and keys in a terminal."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dtufc.client import EdgeClient
from tests.e2e.services import Service, environment, free_port
from tests.e2e.test_clients import assert_quiet

DTUFC = Path(sys.executable).with_name("dtufc")
COST = r"\d+ tokens?, (\d+\.\d tokens/s, )?first after \d+ ms, [\d,]+ bytes, \d+\.\d\d BPFP, -?[\d.]+% saved"
FRANCE = "What is the capital of France? Answer in one word."
ITALY = "And of Italy?"


def piped(edge: str, lines: list[str], *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [DTUFC, "chat", "--edge", edge, "--max-tokens", "12", *options],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        timeout=120,
        env=environment({"TERM": "xterm-256color"}),
    )


def said(client: EdgeClient, messages: list[dict[str, str]]) -> str:
    return "".join(reply.text for reply in client.chat(messages, max_tokens=12))


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def test_a_turn_of_a_pipe_has_those_before_it_until_a_reset(edge: Service, client: EdgeClient, tmp_path: Path) -> None:
    saved = tmp_path / "messages.json"
    lines = [FRANCE, ITALY, f"/save {saved}", "/reset", "/system You are a pirate.", FRANCE]
    done = piped(edge.address, lines, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    first = said(client, turns(FRANCE))
    second = said(client, turns(FRANCE, first, ITALY))
    pirate = said(client, [{"role": "system", "content": "You are a pirate."}, *turns(FRANCE)])
    assert [reply["text"] for reply in replies] == [first, second, pirate]
    assert json.loads(saved.read_text(encoding="utf-8")) == turns(FRANCE, first, ITALY, second)
    assert all(reply["cost"]["wire_bytes"] > 0 and reply["new_tokens"] > 0 for reply in replies)
    assert replies[1]["prompt_tokens"] > replies[0]["prompt_tokens"]


def test_a_pipe_shows_replies_and_costs_without_colours(edge: Service, client: EdgeClient) -> None:
    done = piped(edge.address, [FRANCE, "", "/exit", "not asked"])
    assert (done.returncode, done.stderr) == (0, "")
    reply, cost = done.stdout.rsplit("\n", 2)[:2]
    assert reply == said(client, turns(FRANCE))
    assert re.fullmatch(COST + "(, ended by length)?", cost), cost


def test_a_turn_that_fails_is_no_part_of_the_conversation(edge: Service, client: EdgeClient) -> None:
    lines = ["word " * 300, "no text: \udcff", "/shout", FRANCE]
    done = piped(edge.address, lines, "--json")
    assert done.returncode == 1
    *failed, reply = [json.loads(line) for line in done.stdout.splitlines()]
    assert [error["code"] for error in failed] == ["INPUT"] * 3
    assert "/reset" in failed[2]["error"]
    assert reply["text"] == said(client, turns(FRANCE))


def test_an_edge_that_is_gone_is_said_each_turn() -> None:
    address = f"127.0.0.1:{free_port()}"
    done = piped(address, [FRANCE, ITALY], "--timeout", "5")
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.startswith("error: ") and address in line for line in done.stderr.splitlines()] == [True] * 2


class Terminal:
    """A program in a terminal of its own; what it shows is kept until it is expected."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._shown = ""

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def expect(self, pattern: str, timeout_s: float = 60.0) -> str:
        """Waits until the pattern is shown; what was shown up to its end."""
        end = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self._shown)):
            assert time.monotonic() < end, self._shown
            if select.select([self._descriptor], [], [], 0.1)[0]:
                self._shown += os.read(self._descriptor, 4096).decode()
        shown, self._shown = self._shown[: found.end()], self._shown[found.end() :]
        return shown


@contextmanager
def in_terminal(*arguments: str) -> Iterator[tuple[Terminal, "subprocess.Popen[bytes]"]]:
    here, there = pty.openpty()
    env = environment({"TERM": "xterm-256color", "COLUMNS": "60"})
    process = subprocess.Popen(  # `setsid -c` makes the terminal the one whose Ctrl-C reaches the program
        ["env", "--default-signal=INT", "setsid", "-c", DTUFC, *arguments],  # tests may run where Ctrl-C is ignored
        stdin=there,
        stdout=there,
        stderr=there,
        env=env,
    )
    os.close(there)
    try:
        yield Terminal(here), process
    finally:
        process.kill()
        process.wait(30)
        os.close(here)


def test_in_a_terminal_ctrl_c_ends_a_reply_and_ctrl_d_the_conversation(edge: Service) -> None:
    with in_terminal("chat", "--edge", edge.address, "--codec", "raw", "--max-tokens", "250") as (terminal, process):
        terminal.expect("> ")
        terminal.type("Tell me a very long story.\r")
        terminal.expect(r"story\.\s+\w+ \w+")
        terminal.type("\x03")
        terminal.expect("interrupted")
        assert_quiet(edge)
        terminal.expect("> ")
        terminal.type("not this")
        terminal.expect("not this")
        terminal.type("\x03")
        terminal.expect("> ")
        terminal.type("/reset\r")
        terminal.expect("> ")
        terminal.type(f"{FRANCE}\r")
        shown = terminal.expect(COST)
        assert "Paris" in shown
        assert "\x1b[2m" in shown, "the cost is dim"
        terminal.expect("> ")
        terminal.type("\x04")
        assert process.wait(30) == 0
