"""Clients of an edge: prompts, conversations and images in, results back, errors as our own.

`EdgeClient` blocks and `AsyncEdgeClient` runs on asyncio. Both have the same methods and send the same messages, which
`requests` builds.
"""

from dtufc.client.asynchronous import AsyncEdgeClient
from dtufc.client.blocking import EdgeClient
from dtufc.client.requests import DEFAULT_ADDRESS, Sampling

__all__ = ["DEFAULT_ADDRESS", "AsyncEdgeClient", "EdgeClient", "Sampling"]
