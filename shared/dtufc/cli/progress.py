"""Progress on the terminal: bars where there is one, a line when a step begins where there is none."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


class Bars:
    """Bars on stderr, one for each step of the work, which stay with the time that the step took."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._is_shown = console.is_terminal
        columns = (TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, TimeRemainingColumn(), console=console, disable=not self._is_shown)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def steps(self, of: Iterable[T], total: int, description: str) -> Iterator[T]:
        """The same, shown as it is taken."""
        self._say(f"{description}: {total}")
        start = time.monotonic()
        task = self._bars.add_task(description, total=total)
        for one in of:  # not rich's `track`: after an error, its thread keeps Python 3.13 from ending
            yield one
            self._bars.advance(task)
        self._say(f"{description}: {time.monotonic() - start:.1f} s")

    def share(self, description: str) -> Callable[[float], None]:
        """Is told a share of work that is done."""
        task = self._bars.add_task(description, total=100)
        is_told = False

        def update(share: float) -> None:
            nonlocal is_told
            if not is_told:  # not before the work has begun: what is checked first may fail
                self._say(description)
            is_told = True
            self._bars.update(task, completed=round(100 * share))

        return update

    def _say(self, line: str) -> None:
        if not self._is_shown:
            print(line, file=sys.stderr, flush=True)
