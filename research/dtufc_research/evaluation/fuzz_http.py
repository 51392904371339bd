"""Hostile HTTP requests to the edge: bodies with odd values, bytes that are no JSON, requests that are no HTTP."""

import asyncio
import json
from random import Random
from typing import Any, Final

from dtufc_research.evaluation.fuzz_wire import hostile_bytes

_CHAT: Final = "/v1/chat/completions"
_COMPLETION: Final = "/v1/completions"
_PATHS: Final = (
    *(
        "/v1/models",
        "/v1/models/tiny",
        "/v1/models/%ff%00",
        "/v1/models/../../x",
        "/health",
        "/metrics",
        "/openapi.json",
    ),
    *("/", "/v1", "/docs", "//v1//models", "/v1/models?a=%", "/" + "a" * 5000, "/v1/models/\xff"),
)
_VALUES: Final = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-1", "0", "-0.0", "1", "1.5", "2.1", "257", "1e308"),
    *("18446744073709551615", "18446744073709551616", "9" * 400, "true", "false", "null", "[]", "{}", "[null]"),
    *(
        '""',
        '" "',
        '"tiny"',
        '"user"',
        '"\\ud800"',
        '"\\u0000"',
        '"\\udc00\\ud800"',
        '"a\\nb"',
        '"NaN"',
        '"1"',
        "01",
        "'a'",
    ),
    *("[" * 60 + "]" * 60, "[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000, '"' + "a" * 100_000 + '"'),
    *("[" + "1," * 20_000 + "1]", '[{"role":"user","content":"a"}]', '[{"type":"text","text":"a"}]', '["a","b"]'),
    *('{"33": 1}', '{"33": 101}', '{"-1": 1}', '{"99999999999": 1}', '{"a": 1}', '{"type": "json_object"}'),
)
_ODD_HEADERS: Final = (
    *(b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 5", b"Content-Length: a"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Content-Encoding: gzip", b"Expect: 100-continue"),
    *(b"Content-Type: text/plain", b"Content-Type: application/json; charset=utf-16", b"Content-Type: \xff"),
    *(
        b"Authorization: Bearer \xff\xfe",
        b"X: " + b"a" * 70_000,
        b"Accept-Encoding: *",
        b"no colon",
        b": empty",
        b"\0: \0",
    ),
    *(b"Upgrade: websocket\r\nConnection: Upgrade", b"Host: a\r\nHost: b", b"Content-Type: multipart/form-data"),
)
_WHOLE_S: Final = 30.0
_CUT_S: Final = 0.5
_VALID: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    (
        _CHAT,
        {
            "model": "tiny",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "max_completion_tokens": 3,
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 1,
            "n": 2,
            "stop": ["x"],
            "logprobs": True,
            "top_logprobs": 2,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.1,
            "logit_bias": {"40": 1},
            "dtufc": {"codec": "klt", "quality": 0.5},
        },
    ),
    (
        _CHAT,
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "max_tokens": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    (_COMPLETION, {"model": "tiny", "prompt": ["One, two", "three"], "max_tokens": 3, "temperature": 0, "logprobs": 2}),
    (_COMPLETION, {"model": "tiny", "prompt": "One", "max_tokens": 3, "stream": True, "n": 2, "seed": 3}),
)


def valid_requests() -> list[tuple[str, bytes]]:
    """Method and path, and the bytes of a valid request, of each kind."""
    posts = [(f"POST {path}", _post(path, json.dumps(body).encode())) for path, body in _VALID]
    return [*posts, *((f"GET {path}", _request("GET", path)) for path in _PATHS[:2])]


def hostile_request(random: Random) -> tuple[str, bytes, bool]:
    """Method and path for the tally, all bytes of a request, and whether an edge can know where it ends."""
    way = random.random()
    path, body = random.choice(_VALID)
    if way < 0.15:
        path, verb = random.choice(_PATHS), random.choice(("GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS", "x\0y"))
        return "other paths", _request(verb, path), True
    data = _hostile_json(random, body) if way < 0.75 else json.dumps(body).encode()
    if way > 0.85:
        data = hostile_bytes(random, data)
    headers = [b"Content-Type: application/json", b"Content-Length: %d" % len(data)]
    is_whole = way < 0.96
    if not is_whole:
        headers[random.randrange(2)] = random.choice(_ODD_HEADERS)
    request = _request("POST", path, headers, data)
    if not is_whole and random.random() < 0.3:
        request = hostile_bytes(random, request)
    return f"POST {path}", request, is_whole


async def status_of(address: str, data: bytes, *, is_whole: bool = True) -> str:
    """Sends a request, and tells the status of its response; `closed` where there was none.

    Of a request that is not whole, an edge may wait for the rest: then nobody waits here, and that is `waits`.

    Raises:
        TimeoutError: a whole request is not answered to the end.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    reply = bytearray()
    try:
        writer.write(data)
        async with asyncio.timeout(_WHOLE_S if is_whole else _CUT_S):
            while part := await reader.read(1 << 16):
                reply += part
    except ConnectionError:
        pass
    except TimeoutError:
        if is_whole:
            raise
        if not reply:
            return "waits"
    finally:
        writer.close()
    words = bytes(reply[:20]).split(maxsplit=2)
    return words[1].decode() if len(words) > 1 and words[0].startswith(b"HTTP/") else "closed"


def _hostile_json(random: Random, body: dict[str, Any]) -> bytes:
    """A body in which one to three values are odd, left out or invented."""
    changed: Any = json.loads(json.dumps(body))
    put: dict[str, str] = {}
    for number in range(random.randint(1, 3)):
        place = _place(random, changed)
        mark = f"@{number}@"
        put[json.dumps(mark)] = random.choice(_VALUES)
        match place:
            case dict() if random.random() < 0.1:
                place[random.choice(("x", "", "functions", "tools", "user", "best_of"))] = mark
            case dict() if place and random.random() < 0.1:
                del place[random.choice(list(place))]
            case dict() if place:
                place[random.choice(list(place))] = mark
            case list() if place:
                place[random.randrange(len(place))] = mark
            case _:
                changed = {**changed, "model": mark}
    text = json.dumps(changed)
    for mark, value in put.items():
        text = text.replace(mark, value)
    return text.encode()


def _place(random: Random, value: Any) -> Any:
    """An object or a list, at any depth."""
    within = [each for each in (value.values() if isinstance(value, dict) else value) if isinstance(each, dict | list)]
    return _place(random, random.choice(within)) if within and random.random() < 0.4 else value


def _post(path: str, body: bytes) -> bytes:
    return _request("POST", path, [b"Content-Type: application/json", b"Content-Length: %d" % len(body)], body)


def _request(verb: str, path: str, headers: list[bytes] | None = None, body: bytes = b"") -> bytes:
    first = f"{verb} {path} HTTP/1.1".encode("latin-1")
    return b"\r\n".join([first, b"Host: edge", b"Connection: close", *(headers or []), b"", body])
