"""An error as OpenAI's clients read it: a status, and a JSON body."""

import json
import math
from collections.abc import Mapping
from typing import Final

from fastapi import Response

from dtufc import errors

Json = dict[str, object]

_STATUS: Final[Mapping[type[errors.DtufcError], int]] = {
    errors.InputError: 400,
    errors.Overloaded: 429,
    errors.CacheFull: 429,
    errors.SessionLost: 503,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.Internal: 500,
    errors.DtufcError: 502,  # the rest: what edge and cloud disagree on
}


def status_of(error: errors.DtufcError) -> int:
    """The HTTP status of an error: its own or its nearest ancestor's."""
    return next(_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS)


def body_of(status: int, message: str, code: str, param: str | None = None) -> Json:
    """OpenAI's error object."""
    kind = {429: "rate_limit_error"}.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of_error(error: errors.DtufcError) -> Json:
    """The same of an error of ours; `param` is the field of an InputError."""
    param = error.context["field"] if isinstance(error, errors.InputError) else None
    return body_of(status_of(error), str(error), error.code, param)


def json_response(status: int, body: Json, headers: Mapping[str, str] | None = None) -> Response:
    """The body in ASCII: a message may hold what a caller sent, which need not be Unicode."""
    return Response(json.dumps(body), status, headers, media_type="application/json")


def response_of(error: errors.DtufcError) -> Response:
    """An error's whole response."""
    headers = {"Retry-After": str(math.ceil(error.retry_s))} if isinstance(error, errors.Busy) else None
    return json_response(status_of(error), body_of_error(error), headers)
