"""Simulated vehicles: they replay a drive through real encoders and uplinks, all in one process.

    python -m gosvae_fleet.simulation --router ENDPOINT --certificates DIR --vehicles v01,v02

Each has a session and a certificate of its own, and starts elsewhere in the drive. For each frame
that was sent a line with the vehicle and the frame's stamp in ns goes to stdout. With --recorded
frames are encoded before, so that many vehicles cost this machine little.
"""

from __future__ import annotations

import argparse
import heapq
import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

from rclpy.serialization import deserialize_message

from gosvae_codec import Encoder, FingerprintError, Header, ModelBundle, Packet, SealError
from gosvae_codec.congestion import Report
from gosvae_codec.errors import GosvaeError
from gosvae_codec.keys import KeyFile
from gosvae_codec.sealing import FeedbackOpener, PacketSealer
from gosvae_codec.sender import Feedback, Sender, Settings
from gosvae_common.meters import ErrorLog
from gosvae_common.shipped import find_bundle, find_drive
from gosvae_common.signals import stop_signals
from gosvae_msgs.msg import Feedback as FeedbackMessage
from gosvae_tools.drives import open_source
from gosvae_tools.verbs import split_names

from . import keys
from .certificates import check_credentials
from .link import open_client, token_publisher

CAMERA = "camera"
FRAMES = 100
"""Of the drive that are held in memory."""


class Vehicle:
    """A vehicle with one camera."""

    def __init__(
        self, name: str, session: Any, bundle: ModelBundle, key_file: str = "", limit: float = 0.0
    ) -> None:
        """Connect `session`; send at most `limit` kbit/s, or what it takes."""
        self.name = name
        key = KeyFile(key_file) if key_file else None
        self._sender = Sender(Encoder(bundle), sealer=PacketSealer(key) if key else None)
        self._opener = FeedbackOpener(key) if key else None
        self.errors = ErrorLog(lambda text: print(f"{name}: {text}", file=sys.stderr))
        """Of feedback, as a transmitter shows them on ``/diagnostics``."""
        self._settings = Settings(max_kbit_per_s=limit)
        self._token = session.liveliness().declare_token(
            keys.alive_key(name, str(session.info.zid()))
        )
        self.packets = token_publisher(session, keys.packets_key(name, CAMERA))
        self._feedback = session.declare_subscriber(
            keys.feedback_key(name, CAMERA), self._on_feedback
        )
        self.answers: dict[int, int] = {}
        """Messages of feedback by the number that each receiver has drawn."""

    def send(self, image: Any) -> int | None:
        """Send a frame, uint8 (H, W, 3) RGB; return its stamp in ns, None if it was skipped."""
        stamp = time.time_ns()
        header = Header(stamp // 10**9, stamp % 10**9, CAMERA)
        packets = self._sender.send(image, header, self._settings)
        for packet in packets:
            self.packets.put(packet.to_bytes())
        return stamp if packets else None

    def _on_feedback(self, sample: Any) -> None:
        message = deserialize_message(sample.payload.to_bytes(), FeedbackMessage)
        try:
            self._check(message)
        except GosvaeError as error:
            self.errors.add(error)
            return
        self.answers[message.receiver] = self.answers.get(message.receiver, 0) + 1
        usable = message.has_acknowledged and not message.request_intra
        self._sender.on_feedback(
            Feedback(
                message.stream,
                message.acknowledged if usable else None,
                Report(
                    message.packets_received,
                    message.packets_lost,
                    message.newest,
                    message.newest_arrival_us,
                ),
                message.receiver,
            )
        )

    def _check(self, message: FeedbackMessage) -> None:
        """Raise SealError or FingerprintError where feedback cannot be used."""
        own = self._sender.encoder.bundle.fingerprint
        if self._opener is not None:
            self._opener.check(message)
        elif len(message.seal):
            raise SealError("the service expects sealed packets: give a key file")
        if message.fingerprint != own:
            raise FingerprintError(own, message.fingerprint)


class Recorded:
    """A vehicle that sends what was encoded before, each frame by itself, and heeds no feedback."""

    def __init__(self, name: str, session: Any) -> None:
        self.name = name
        self._token = session.liveliness().declare_token(
            keys.alive_key(name, str(session.info.zid()))
        )
        self._packets = token_publisher(session, keys.packets_key(name, CAMERA))
        self._stream, self._sequence = secrets.randbits(32), 0

    def send(self, packets: Sequence[Packet]) -> int:
        """Send the packets of an intra frame as the next one; return its stamp in ns."""
        stamp = time.time_ns()
        header = Header(stamp // 10**9, stamp % 10**9, CAMERA)
        for packet in packets:
            made = replace(packet, header=header, stream=self._stream, sequence=self._sequence)
            self._packets.put(made.with_checksum().to_bytes())
        self._sequence += 1
        return stamp


def read_frames(path: Path, count: int = FRAMES) -> list[Any]:
    """Return the first frames of a drive, uint8 (H, W, 3) RGB each."""
    return [frame.image for frame in islice(open_source(path).frames(), count)]


def drive(
    vehicles: Sequence[Vehicle | Recorded], frames: Sequence[Any], rate: float, stop: Event
) -> None:
    """Send `rate` frames a second of each vehicle, evenly spread, until `stop` is set.

    Vehicles that are :class:`Recorded` take frames as their packets.
    """
    begin = time.monotonic()
    due = [
        (begin + index / len(vehicles) / rate, index, index * len(frames) // len(vehicles))
        for index in range(len(vehicles))
    ]
    heapq.heapify(due)
    while not stop.is_set():
        when, index, place = heapq.heappop(due)
        if stop.wait(max(when - time.monotonic(), 0)):
            return
        stamp = vehicles[index].send(frames[place % len(frames)])
        if stamp is not None:
            print(vehicles[index].name, stamp, flush=True)
        # What could not be sent in time is not made up for.
        late = max(time.monotonic() - when - 1 / rate, 0.0)
        heapq.heappush(due, (when + 1 / rate + late, index, place + 1))


def _follow(parent: int, stop: Event) -> None:
    """Set `stop` when the process that started this one is gone, however it ended."""
    while os.getppid() == parent and not stop.wait(1.0):
        pass
    stop.set()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--router", required=True)
    parser.add_argument("--certificates", type=Path, required=True)
    parser.add_argument("--vehicles", type=split_names, required=True, help="v01,v02,...")
    parser.add_argument("--rate", type=float, default=1.0, help="frames a second of each")
    parser.add_argument("--bundle", default="")
    parser.add_argument("--key-file", default="")
    parser.add_argument("--recorded", action="store_true", help="frames encoded before")
    options = parser.parse_args(arguments)
    parent = os.getppid()
    with stop_signals() as stop:
        Thread(target=_follow, args=[parent, stop], daemon=True).start()
        frames = read_frames(find_drive())
        bundle = ModelBundle.load(find_bundle(options.bundle))
        sessions = {
            name: open_client(options.router, check_credentials(options.certificates, name))
            for name in options.vehicles
        }
        vehicles: list[Vehicle | Recorded]
        if options.recorded:
            encoder = Encoder(bundle)
            frames = [encoder.encode(frame, intra=True) for frame in frames]
            vehicles = [Recorded(name, session) for name, session in sessions.items()]
        else:
            vehicles = [
                Vehicle(name, session, bundle, options.key_file)
                for name, session in sessions.items()
            ]
        drive(vehicles, frames, options.rate, stop)
        for session in sessions.values():
            session.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
