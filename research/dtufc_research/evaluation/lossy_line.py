"""A network of its own for the cloud, with one line to it that loses packets, is narrow, or is cut. Linux and root.

edge, client: this network --- veth pair, filters of the kernel --- a network namespace: cloud

Packets are dropped where they arrive, at both ends, by a filter of the kernel's traffic control that draws a random
number for each (classic BPF): the sender's TCP learns of it as on any network. Segments are not merged, so that a
packet is one of 1500 bytes. netem is not needed, which many kernels lack.
"""

import os
import shutil
import subprocess
from ipaddress import IPv4Network
from typing import Final

_DRAW: Final = "32 0 0 4294963256"  # load SKF_AD_OFF + SKF_AD_RANDOM
_OK, _DROP = "6 0 0 0", "6 0 0 2"  # return TC_ACT_OK, TC_ACT_SHOT
_RANDOM_NUMBERS: Final = 1 << 32
_NETWORK: Final = IPv4Network("198.18.0.0/15")  # of RFC 2544: for measurements, and nowhere else
_NUM_NETWORKS: Final = _NETWORK.num_addresses // 4


def can_make_lines() -> bool:
    """Whether this process may make networks, and has the tools."""
    return os.geteuid() == 0 and all(map(shutil.which, ("ip", "tc")))


class LossyLine:
    """A line, and the network behind it.

    Attributes:
        host: address of whoever listens behind it.
        before: words before a command that runs it there.
    """

    def __init__(self) -> None:
        """Raises CalledProcessError where the kernel does not let it be made."""
        number = os.getpid() % _NUM_NETWORKS  # processes at the same time have their own
        near, self.host = (str(_NETWORK[4 * number + place]) for place in (1, 2))
        self._name = f"dtufc{number}"
        self._near, self._far = f"dtn{number}", f"dtf{number}"
        self.before = ("ip", "netns", "exec", self._name)
        _run("ip", "netns", "add", self._name)
        try:
            _run("ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._name)
            _run("ip", "addr", "add", f"{near}/30", "dev", self._near)
            _run(*self.before, "ip", "addr", "add", f"{self.host}/30", "dev", self._far)
            _run("ip", "link", "set", self._near, "up", "gso_max_segs", "1")
            _run(*self.before, "ip", "link", "set", self._far, "up", "gso_max_segs", "1")
            _run(*self.before, "ip", "link", "set", "lo", "up")
        except subprocess.CalledProcessError:
            self.close()
            raise

    def close(self) -> None:
        """Removes the network; the line goes with it."""
        _run("ip", "netns", "del", self._name)

    def lose(self, share: float) -> None:
        """From now on this share of the packets is lost, each way: 0 none, 1 all."""
        threshold = round(share * _RANDOM_NUMBERS)
        program = f"4,{_DRAW},53 1 0 {threshold},{_DROP},{_OK}" if share < 1 else f"1,{_DROP}"
        for tc, device in self._ends():
            _run(*tc, "qdisc", "del", "dev", device, "clsact", check=False)
            if share:
                _run(*tc, "qdisc", "add", "dev", device, "clsact")
                _run(*tc, "filter", "add", "dev", device, "ingress", "bpf", "bytecode", program, "da")

    def narrow(self, kbit: int | None) -> None:
        """From now on so many kilobits a second pass, each way. None: as many as the machine can."""
        for tc, device in self._ends():
            _run(*tc, "qdisc", "del", "dev", device, "root", check=False)
            if kbit is not None:
                rate = ("rate", f"{kbit}kbit", "burst", "4kb", "latency", "2s")
                _run(*tc, "qdisc", "add", "dev", device, "root", "tbf", *rate)

    def _ends(self) -> tuple[tuple[tuple[str, ...], str], ...]:
        """tc of each end, and its device."""
        return (("tc",), self._near), ((*self.before, "tc"), self._far)


def _run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, capture_output=True)
