"""What one message, one call and one task may ask for: both sides, and every client, hold to the same numbers."""

from typing import Final

MAX_MESSAGE_BYTES: Final = 65 << 20  # the largest raw frame is 64 MiB of values, and its head
MAX_TIMEOUT_S: Final = 86_400  # of a call: a deadline beyond 2262 is one that has passed, to gRPC
MAX_TOKENS: Final = 1 << 20  # of one text, whatever a setting says
MAX_SETTABLE_MESSAGE_BYTES: Final = 1 << 30  # what a service may be told to take, and a client takes
MAX_PENDING_BYTES: Final = 8 * MAX_MESSAGE_BYTES  # of messages of all requests that are not done
MAX_HTTP_CALLS: Final = 256  # at a time, the queued ones counted
UNREAD_BYTES: Final = 2 << 20  # of a message that its receiver has no room for: a stream's window
MAX_STREAMS: Final = 256  # of one connection: more wait at its client
MAX_STREAMS_OF_KIND: Final = 4096  # of health watches, of which each edge keeps one at its clouds, and of reflection
MAX_STREAMS_OF_KIND_EACH: Final = 8  # of one connection
MAX_BRIEF_READS: Final = 32  # messages that are waited for by calls that take no place
MAX_CHOICES: Final = 26  # of one question: a letter each
MAX_LABELS: Final = 100  # of one classified image
MAX_LATENT_POSITIONS: Final = 1 << 14  # of one generated image: 1024 x 1024 pixels of a Stable Diffusion
MAX_PASS_ROWS: Final = 128  # of a sequence in one pass: steps of other sequences go between them
MAX_SHARING: Final = 16  # sequences that share a pass
MAX_DRAFTED: Final = 16  # tokens that are guessed ahead for one step
SESSION_ID_BYTES: Final = 16
MAX_TOP_LOG_PROBABILITIES: Final = 20  # beside each generated token
MAX_LOGIT_BIASES: Final = 300  # of one request
MAX_STOP_TOKEN_IDS: Final = 64  # of one request
MAX_STOP_TEXTS: Final = 16  # of one completion
MAX_STOP_CHARACTERS: Final = 256  # of each: as much may be held back
