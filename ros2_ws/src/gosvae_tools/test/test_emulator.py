"""Two namespaces and the link between them, with sockets of this process on both sides."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gosvae_tools.link.channel import LinkError, LinkSpec
from gosvae_tools.link.emulator import EDGE, SIDES, VEHICLE, EmulatedLink, Side

DEADLINE = 20.0


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LinkError, match="needs root: run it with sudo"), EmulatedLink(LinkSpec()):
        pytest.fail("it was let in")


class Ends:
    """A UDP socket on each side."""

    def __init__(self, link: EmulatedLink) -> None:
        self.link = link
        self.sockets: dict[Side, socket.socket] = {}
        for side in SIDES:
            with link.inside(side):
                self.sockets[side] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.sockets[side].bind(("", 5000))
            self.sockets[side].settimeout(DEADLINE)

    def send(self, side: Side, data: bytes) -> None:
        other = EDGE if side == VEHICLE else VEHICLE
        self.sockets[side].sendto(data, (self.link.address(other), 5000))

    def receive(self, side: Side) -> bytes:
        return self.sockets[side].recv(2000)


@contextmanager
def ends(description: str) -> Iterator[Ends]:
    with EmulatedLink(LinkSpec.parse(description)) as link:
        made = Ends(link)
        yield made
        for each in made.sockets.values():
            each.close()


@pytest.mark.root
def test_packets_cross_both_ways_with_the_delay_and_in_order() -> None:
    with ends("delay=30ms") as link:
        for sender, receiver in (SIDES, SIDES[::-1]):
            begin = time.monotonic()
            for number in range(20):
                link.send(sender, bytes([number]) * 1400)
            numbers = [link.receive(receiver)[0] for _ in range(20)]
            assert time.monotonic() - begin >= 0.03
            assert numbers == list(range(20))
        counters = link.link.counters()
    for side in SIDES:
        assert counters[side].carried == counters[side].packets >= 20
        assert counters[side].bytes >= 20 * (1400 + 42)


@pytest.mark.root
def test_the_rate_limits_what_crosses() -> None:
    with ends("rate=400kbit queue=100kB") as link:
        begin = time.monotonic()
        for _ in range(20):
            link.send(VEHICLE, bytes(958))
        for _ in range(20):
            link.receive(EDGE)
        # Twenty Ethernet frames of 1,000 bytes.
        assert time.monotonic() - begin >= 0.4


@pytest.mark.root
def test_what_gets_lost_is_what_the_model_says() -> None:
    with ends("loss=30% seed=4") as link:
        for number in range(200):
            link.send(VEHICLE, struct.pack("H", number))
        # Frames of the kernel's own are among them, lost or not.
        counters = link.link.counters()[VEHICLE]
        arrived = counters.carried
        assert 30 <= counters.lost <= 90
        assert counters.lost + counters.carried == counters.packets >= 200
        numbers = set()
        link.sockets[EDGE].settimeout(0.5)
        while len(numbers) < arrived:
            try:
                numbers.add(link.receive(EDGE))
            except TimeoutError:
                break
        assert 200 - counters.lost <= len(numbers) <= arrived


@pytest.mark.root
def test_multicast_crosses_and_shared_memory_does_not() -> None:
    group = "239.255.0.1"
    with ends("delay=1ms") as link:
        membership = socket.inet_aton(group) + socket.inet_aton(link.link.address(EDGE))
        with link.link.inside(EDGE):
            link.sockets[EDGE].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            Path("/dev/shm/left").touch()
            assert os.listdir("/dev/shm") == ["left"]
        with link.link.inside(VEHICLE):
            assert os.listdir("/dev/shm") == []
        link.sockets[VEHICLE].sendto(b"hello", (group, 5000))
        assert link.receive(EDGE) == b"hello"
    assert not Path("/dev/shm/left").exists()


@pytest.mark.root
def test_threads_and_processes_stay_where_they_belong() -> None:
    here, folder = os.readlink("/proc/thread-self/ns/net"), Path.cwd()
    with EmulatedLink(LinkSpec()) as link:

        def addresses(*prefix: str) -> str:
            return subprocess.check_output([*prefix, "ip", "address"], text=True)

        assert link.address(VEHICLE) in addresses(*link.command(VEHICLE))
        with link.inside(EDGE):
            assert Path.cwd() == folder
            assert link.address(EDGE) in addresses()
            assert link.address(VEHICLE) in addresses(*link.command(VEHICLE))
        assert os.readlink("/proc/thread-self/ns/net") == here
        assert Path.cwd() == folder
        assert "10.0.0." not in addresses()


LEFT = """
import sys, time
from gosvae_tools.link.emulator import EmulatedLink
from gosvae_tools.link.channel import LinkSpec
with EmulatedLink(LinkSpec()) as link:
    print(*(keeper.pid for keeper in link._keepers.values()), link._relay.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_however_it_ends(number: signal.Signals) -> None:
    command = [sys.executable, "-c", LEFT]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        children = process.stdout.readline().split()
        assert len(children) == 3
        process.send_signal(number)
        assert process.wait(DEADLINE) != 0
    end = time.monotonic() + DEADLINE
    while any(Path("/proc", child).exists() for child in children):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert f"gosvae{process.pid % 10**7}" not in subprocess.check_output(["ip", "link"], text=True)


@pytest.mark.root
def test_a_relay_that_died_is_named() -> None:
    with EmulatedLink(LinkSpec()) as link:
        link._relay.kill()
        link._relay.wait()
        with pytest.raises(LinkError, match="the relay has died"):
            link.counters()
