"""One side as a process: started, stopped, killed, started again, and asked for its metrics and its memory."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from dtufc.errors import Unavailable
from dtufc.serving.transport import check_health

_START_S: Final = 180.0
_OWN_SETTINGS: Final = ("DTUFC_EDGE_", "DTUFC_CLOUD_")


class Service:
    """One side as a process, which can be killed and started again at the same address."""

    def __init__(
        self,
        side: str,
        flags: Mapping[str, str],
        logs: Path,
        *,
        host: str = "127.0.0.1",
        before: Sequence[str] = (),
    ) -> None:
        """
        Args:
            side: edge or cloud.
            flags: of its settings, without dashes.
            logs: a folder.
            host: that it listens on.
            before: words before the command, as `ip netns exec NAME`.
        """
        self._side, self._flags, self._logs = side, flags, logs
        self._host, self._before = host, before
        self.address = f"{host}:{free_port()}"
        self.start()

    def start(self) -> None:
        """Starts the process; `wait` tells when it serves."""
        self._metrics = f"{self._host}:{free_port()}"
        flags = {"listen": self.address, "metrics-listen": self._metrics, **self._flags}
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        env = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_SETTINGS)}
        self._log = self._logs / f"{self._side}-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            command = [*self._before, sys.executable, "-m", f"dtufc_{self._side}", *words]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=env)

    def wait(self) -> None:
        """Until it serves. Raises Unavailable with the end of its log where it never does."""
        end = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < end:
            with suppress(Unavailable):
                return check_health(self.address, timeout_s=2)
            time.sleep(0.1)
        raise Unavailable(
            peer=f"the {self._side}", address=self.address, problem=f"it does not start: {self.log_text()[-2000:]}"
        )

    def log_text(self) -> str:
        """What the process has written since its last start."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def metric(self, name: str) -> float:
        """The sum of a metric's samples now, without `dtufc_SIDE_`."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        start = f"dtufc_{self._side}_{name}"
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{start} ", f"{start}{{")))

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended; one that stands still runs."""
        return self._process.poll() is None

    @property
    def rss_bytes(self) -> int:
        """Memory that the process holds."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    @property
    def cpu_s(self) -> float:
        """Processor time that the process has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user, system

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    """A TCP port that nobody has now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
