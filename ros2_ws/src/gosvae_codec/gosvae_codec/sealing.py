"""Sealed packets and feedback: nobody without the key can read, alter or forge them.

    keys = KeyFile("vehicle.key")
    sealed = PacketSealer(keys).seal(packet)  # 28 bytes longer
    packet = PacketOpener(keys).open(sealed)  # SealError if it is forged, altered or replayed

AES-256-GCM (NIST SP 800-38D) of the package cryptography encrypts the payload and authenticates all
other fields. GCM fails if a key ever meets a nonce twice, so no key of the file is used itself:
each start of a sender has keys of its own, derived by HKDF-SHA256 (RFC 5869) from the file's key,
the stream's number and a salt of the start time and 32 random bits. Under such a key, the frame's
sequence number and the slice's index are the nonce. docs/wire-format.md defines the bytes,
docs/security.md tells what is protected and what is not.
"""

from __future__ import annotations

import secrets
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import SealError
from .keys import Key, KeyFile
from .packets import SEALED_VERSION, VERSION, Packet, sequence_distance

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SEAL_BYTES = 28
"""How much longer a sealed payload is: key id 4, start 4, random 4, tag 16."""
WINDOW = 256
"""Number of frames before the newest of which packets are still accepted, each once."""
_TAG_BYTES = 16
_PREFIX = struct.Struct(">III")
_PACKET_NONCE = struct.Struct(">IB7x")
_FEEDBACK_NONCE = struct.Struct(">I8x")
_FEEDBACK = struct.Struct("<iIQIQI??IIIIIff")
_REMEMBERED = 64


class PacketSealer:
    """Seals the packets of one stream, in the order of sending."""

    def __init__(self, keys: KeyFile, clock: Callable[[], float] = time.time) -> None:
        """Seal with the first of `keys`; `clock` returns seconds since 1970."""
        self._keys = keys
        self._clock = clock
        self._key: Key | None = None
        self._stream = -1
        self._last = (-1, -1)
        self._prefix = b""
        self._cipher: AESGCM | None = None

    def seal(self, packet: Packet) -> Packet:
        """Return the packet with its payload sealed."""
        key, place = self._keys.first, (packet.sequence, packet.slice_index)
        if self._cipher is None or key != self._key or packet.stream != self._stream:
            self._begin(key, packet.stream)
        elif place <= self._last:
            # Its nonce may have been used; so after 2^32 frames.
            self._begin(key, packet.stream)
        assert self._cipher is not None
        self._last = place
        head = self._prefix + packet.head_of(SEALED_VERSION)
        text = self._cipher.encrypt(_PACKET_NONCE.pack(*place), packet.payload, head)
        return packet.with_payload(SEALED_VERSION, self._prefix + text)

    def _begin(self, key: Key, stream: int) -> None:
        start, salt = int(self._clock()) % (1 << 32), secrets.randbits(32)
        self._key, self._stream = key, stream
        self._prefix = _PREFIX.pack(key.id, start, salt)
        self._cipher = _packet_cipher(key, stream, self._prefix)


class PacketOpener:
    """Opens the sealed packets of one camera, and refuses those that it has had."""

    def __init__(self, keys: KeyFile, replays: bool = False) -> None:
        """Open with any of `keys`; with `replays` any number of times, as for recordings."""
        self.keys = keys
        self.key: Key | None = None
        """The key of the last packet that was opened."""
        self._replays = replays
        self._began = 0
        self._streams: OrderedDict[tuple[int, bytes], tuple[AESGCM, _Window]] = OrderedDict()

    def open(self, packet: Packet) -> Packet:
        """Return the packet as it was before it was sealed.

        Raises:
            SealError: it is not sealed, or with an unknown key; it was forged or altered; it was
                received before, or its stream began before the newest one.
            PacketError: it was damaged on the way.
        """
        if packet.version != SEALED_VERSION:
            raise SealError(
                "packets are not sealed, but a key file is given here: give the transmitter one"
            )
        packet.check_intact()
        if len(packet.payload) < SEAL_BYTES:
            raise SealError(f"sealed payload of {len(packet.payload)} bytes: too short")
        prefix = packet.payload[: _PREFIX.size]
        number, start, _ = _PREFIX.unpack(prefix)
        key = _find(self.keys, number, "packets")
        place = packet.stream, prefix
        known = self._streams.get(place)
        cipher, window = known or (_packet_cipher(key, packet.stream, prefix), _Window())
        nonce = _PACKET_NONCE.pack(packet.sequence, packet.slice_index)
        head = prefix + packet.authenticated
        payload = _decrypt(cipher, nonce, packet.payload[_PREFIX.size :], head, key)
        if not self._replays:
            if start < self._began:
                raise SealError(
                    f"replayed packets: their stream began {self._began - start} s before the "
                    "newest one; if the vehicle's clock was set back, restart the receiver"
                )
            if not window.admit(packet.sequence, packet.slice_index):
                raise SealError(f"replayed packet of frame {packet.sequence}: it came before")
        self._began = max(self._began, start)
        self.key = key
        if known is None:
            # Not before it proved authentic: others must not fill the memory.
            self._streams[place] = cipher, window
            if len(self._streams) > _REMEMBERED:
                self._streams.popitem(last=False)
        return packet.with_payload(VERSION, payload)


class _Window:
    """Which packets of a stream were received."""

    def __init__(self) -> None:
        self._newest = -1
        self._seen: dict[int, int] = {}

    def admit(self, sequence: int, index: int) -> bool:
        """Record a packet; return whether it is neither too old nor one received before."""
        if self._newest < 0:
            self._newest = sequence
        ahead = sequence_distance(sequence, self._newest)
        seen = self._seen.get(sequence, 0)
        if ahead <= -WINDOW or seen >> index & 1:
            return False
        self._seen[sequence] = seen | 1 << index
        if ahead > 0:
            self._newest = sequence
        if len(self._seen) > 2 * WINDOW:
            self._seen = {
                each: bits
                for each, bits in self._seen.items()
                if sequence_distance(each, self._newest) > -WINDOW
            }
        return True


class FeedbackSealer:
    """Makes the seal of a receiver's feedback, which authenticates it and hides nothing."""

    def __init__(self, keys: KeyFile, clock: Callable[[], float] = time.time) -> None:
        """Seal with one of `keys`; `clock` returns seconds since 1970."""
        self._keys = keys
        self._clock = clock
        self._start = int(clock()) % (1 << 32)
        self._count = 0

    def seal(self, feedback: Any, key: Key | None = None) -> bytes:
        """Return the field `seal` of a ``gosvae_msgs/Feedback``, whose other fields are set.

        Args:
            feedback: the message, or anything with its fields.
            key: that of the packets which it answers; None: the first.
        """
        key = key or self._keys.first
        self._count += 1
        if self._count >= 1 << 32:
            self._start, self._count = int(self._clock()) % (1 << 32), 0
        prefix = _PREFIX.pack(key.id, self._start, self._count)
        cipher = _feedback_cipher(key, feedback, prefix)
        head = prefix + _feedback_bytes(feedback)
        return prefix + cipher.encrypt(_FEEDBACK_NONCE.pack(self._count), b"", head)


class FeedbackOpener:
    """Checks the seals of feedback on one stream, and refuses what came before."""

    def __init__(self, keys: KeyFile) -> None:
        self._keys = keys
        self._last: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def check(self, feedback: Any) -> None:
        """Raise SealError unless the feedback, a ``gosvae_msgs/Feedback``, is authentic and new."""
        seal = bytes(feedback.seal)
        if len(seal) != SEAL_BYTES:
            raise SealError(
                "feedback is not sealed, but a key file is given here: give the receiver one"
            )
        number, start, count = _PREFIX.unpack_from(seal)
        key = _find(self._keys, number, "feedback")
        prefix = seal[: _PREFIX.size]
        cipher = _feedback_cipher(key, feedback, prefix)
        head = prefix + _feedback_bytes(feedback)
        _decrypt(cipher, _FEEDBACK_NONCE.pack(count), seal[_PREFIX.size :], head, key)
        receiver = int(feedback.receiver)
        if (start, count) <= self._last.get(receiver, (-1, -1)):
            raise SealError("replayed feedback: it came before")
        self._last[receiver] = start, count
        self._last.move_to_end(receiver)
        if len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)


def _find(keys: KeyFile, number: int, what: str) -> Key:
    key = keys.keys.get(number)
    if key is None:
        raise SealError(
            f"{what} sealed with key {number:08x}, but key file {keys.path} holds {keys.ids}: give "
            "both sides the same key"
        )
    return key


def _derive(key: Key, salt: bytes, purpose: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESGCM(HKDF(SHA256(), 32, salt, purpose).derive(key.secret))


def _packet_cipher(key: Key, stream: int, prefix: bytes) -> AESGCM:
    return _derive(key, struct.pack(">I", stream) + prefix[4:], b"gosvae packet 3")


def _feedback_cipher(key: Key, feedback: Any, prefix: bytes) -> AESGCM:
    salt = struct.pack(">IQ", feedback.stream, feedback.receiver) + prefix[4:8]
    return _derive(key, salt, b"gosvae feedback 3")


def _decrypt(cipher: AESGCM, nonce: bytes, text: bytes, head: bytes, key: Key) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return cipher.decrypt(nonce, text, head)
    except InvalidTag:
        # Not from it, as it says nothing more.
        raise SealError(
            f"sealed with key {key.id:08x}, but not authentic: forged, or altered on the way"
        ) from None


def _feedback_bytes(feedback: Any) -> bytes:
    header = feedback.header
    fields = _FEEDBACK.pack(
        header.stamp.sec,
        header.stamp.nanosec,
        feedback.fingerprint,
        feedback.stream,
        feedback.receiver,
        feedback.acknowledged,
        feedback.has_acknowledged,
        feedback.request_intra,
        feedback.packets_received,
        feedback.packets_lost,
        feedback.newest,
        feedback.newest_arrival_us,
        feedback.packets_rejected,
        feedback.coverage,
        feedback.mask_age_ms,
    )
    return str(header.frame_id).encode("utf-8", "surrogateescape") + fields
