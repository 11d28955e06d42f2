"""Sealed packets and feedback: what opens, what does not, and that no nonce is ever used twice."""

import json
import os
import struct
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from gosvae_codec import (
    Decoder,
    Encoder,
    Header,
    KeyFileError,
    ModelBundle,
    Packet,
    PacketError,
    SealError,
    sealing,
)
from gosvae_codec.keys import KeyFile, generate
from gosvae_codec.packets import MAX_SERIALIZED_BYTES, SEALED_VERSION
from gosvae_codec.sealing import (
    SEAL_BYTES,
    WINDOW,
    FeedbackOpener,
    FeedbackSealer,
    PacketOpener,
    PacketSealer,
)
from gosvae_codec.sender import Sender, Settings
from gosvae_codec.testing import PACKET, random_coder

VECTORS = Path(__file__).with_name("vectors") / "sealed.json"


def write_keys(path: Path, *names: str) -> KeyFile:
    path.write_text("# made for a test\n\n" + "".join(f"{generate(name)[1]}\n" for name in names))
    path.chmod(0o600)
    return KeyFile(path)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return write_keys(tmp_path / "vehicle.key", "vehicle 7")


def feedback(**fields: object) -> SimpleNamespace:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=5, nanosec=6), frame_id="front")
    values: dict[str, object] = dict.fromkeys(
        (
            *("fingerprint", "stream", "receiver", "acknowledged", "packets_received"),
            *("packets_lost", "newest", "newest_arrival_us", "packets_rejected"),
        ),
        7,
    )
    values |= {"has_acknowledged": True, "request_intra": False, "seal": b""}
    values |= {"coverage": 0.5, "mask_age_ms": float("nan")}
    return SimpleNamespace(header=header, **{**values, **fields})


def test_a_sealed_packet_opens_to_what_it_was(keys: KeyFile) -> None:
    sealed = PacketSealer(keys).seal(PACKET)
    assert (sealed.version, len(sealed.payload)) == (SEALED_VERSION, 34 + SEAL_BYTES)
    assert PACKET.payload[:8] not in sealed.payload
    opener = PacketOpener(keys)
    assert opener.open(Packet.from_bytes(sealed.to_bytes())) == PACKET
    assert opener.key == keys.first


@settings(deadline=None)
@given(data=st.data())
def test_no_changed_packet_opens(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    keys = write_keys(tmp_path_factory.mktemp("keys") / "key", "a")
    sealed = PacketSealer(keys).seal(PACKET)
    changes = {
        "header": Header(1_700_000_000, 123_456_790, "front_camera"),
        "fingerprint": 1,
        "stream": 1,
        "sequence": 42,
        "source_width": 1,
        "source_height": 1,
        "levels": 1,
        "reference": 0,
        "slice_index": 3,
        "slice_count": 5,
    }
    bit = data.draw(st.integers(0, 8 * len(sealed.payload) - 1))
    flipped = bytearray(sealed.payload)
    flipped[bit // 8] ^= 1 << bit % 8
    name = data.draw(st.sampled_from([*changes, "payload", "short"]))
    value = {**changes, "payload": bytes(flipped), "short": b""}[name]
    name = "payload" if name == "short" else name
    forged = replace(sealed, **{name: value}).with_checksum()
    with pytest.raises(SealError, match=r"not authentic|too short|sealed with key"):
        PacketOpener(keys).open(forged)


def test_what_is_damaged_is_not_called_forged(keys: KeyFile) -> None:
    sealed = replace(PacketSealer(keys).seal(PACKET), sequence=9)
    with pytest.raises(PacketError, match="CRC-32C") as raised:
        PacketOpener(keys).open(sealed)
    assert not isinstance(raised.value, SealError)


def test_each_side_says_what_the_other_lacks(
    keys: KeyFile, tmp_path: Path, bundle: ModelBundle
) -> None:
    other = write_keys(tmp_path / "other.key", "other")
    with pytest.raises(SealError, match="not sealed, but a key file is given here"):
        PacketOpener(keys).open(PACKET)
    with pytest.raises(SealError, match=rf"key {keys.ids}, .*other.key holds {other.ids}: give"):
        PacketOpener(other).open(PacketSealer(keys).seal(PACKET))
    sealed = PacketSealer(keys).seal(PACKET)
    with pytest.raises(SealError, match=r"packets are sealed, .* set key_file"):
        sealed.check(sealed.fingerprint, bundle.grid, bundle.levels)


def test_no_nonce_is_used_twice(keys: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[bytes, bytes]] = []

    class Watched:
        def __init__(self, key: bytes) -> None:
            self.key, self.cipher = key, AESGCM(key)

        def encrypt(self, nonce: bytes, data: bytes, head: bytes) -> bytes:
            used.append((self.key, nonce))
            return self.cipher.encrypt(nonce, data, head)

    def watched(key, salt, purpose):
        return Watched(HKDF(SHA256(), 32, salt, purpose).derive(key.secret))

    monkeypatch.setattr(sealing, "_derive", watched)
    # A clock that stands still, as without a battery: restarts at the same second, the same stream.
    for _ in range(50):
        sealer = PacketSealer(keys, lambda: 0.0)
        for sequence in (0, 1, 1, 0, (1 << 32) - 1, 0):
            for index in (0, 1, 2):
                sealer.seal(replace(PACKET, sequence=sequence, slice_index=index))
    for receiver in range(50):
        answers = FeedbackSealer(keys, lambda: 0.0)
        for stream in (1, 2, 1):
            answers.seal(feedback(stream=stream, receiver=receiver))
    assert len(set(used)) == len(used) == 50 * (18 + 3)


def test_replayed_packets_are_refused(keys: KeyFile) -> None:
    now = 1000.0
    first, opener = PacketSealer(keys, lambda: now), PacketOpener(keys)
    sealed = [first.seal(replace(PACKET, sequence=sequence)) for sequence in range(2 * WINDOW)]
    # Any order is accepted, each once.
    for packet in [*sealed[10:0:-1], *sealed[11:20]]:
        opener.open(packet)
    for packet in sealed[1:20]:
        with pytest.raises(SealError, match="it came before"):
            opener.open(packet)
    opener.open(sealed[-1])
    with pytest.raises(SealError, match="replayed"):
        opener.open(sealed[0])
    opener.open(sealed[-WINDOW])
    # The vehicle starts again; the whole stream before it is recorded and played.
    now = 1007.0
    opener.open(PacketSealer(keys, lambda: now).seal(replace(PACKET, stream=3)))
    with pytest.raises(SealError, match="began 7 s before the newest one"):
        opener.open(sealed[300])
    # A recording is decoded as often as one likes.
    recorded = PacketOpener(keys, replays=True)
    assert [recorded.open(sealed[0]).sequence for _ in range(3)] == [0, 0, 0]


def test_the_window_forgets_what_is_old(keys: KeyFile) -> None:
    sealer, opener = PacketSealer(keys), PacketOpener(keys)
    for sequence in range(0, 40 * WINDOW, 7):
        opener.open(sealer.seal(replace(PACKET, sequence=sequence)))
    ((_, window),) = opener._streams.values()
    assert len(window._seen) <= 2 * WINDOW + 1


def test_forged_packets_take_no_memory(keys: KeyFile) -> None:
    opener, sealed = PacketOpener(keys), PacketSealer(keys).seal(PACKET)
    for stream in range(500):
        with pytest.raises(SealError):
            opener.open(replace(sealed, stream=stream).with_checksum())
    assert not opener._streams
    for stream in range(200):
        opener.open(PacketSealer(keys).seal(replace(PACKET, stream=stream)))
    assert len(opener._streams) <= 64


def test_a_key_is_replaced_without_a_gap(tmp_path: Path) -> None:
    (_, old), (_, new) = generate("old"), generate("new")
    vehicle, edge = tmp_path / "vehicle.key", tmp_path / "edge.key"

    def write(path: Path, *lines: str) -> None:
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)
        # However coarse the clock of the file system is.
        os.utime(path, ns=(time.time_ns(), time.time_ns() + len(lines[0]) * 10**9))

    write(vehicle, old)
    write(edge, old)
    there, here = KeyFile(vehicle), KeyFile(edge)
    sealer, opener = PacketSealer(there), PacketOpener(here)
    used = []
    for sequence, (path, lines) in enumerate(
        [(edge, (old, new)), (vehicle, (new, old)), (vehicle, (new,)), (edge, (new,))]
    ):
        opener.open(sealer.seal(replace(PACKET, sequence=2 * sequence)))
        write(path, *lines)
        there.refresh()
        here.refresh()
        packet = opener.open(sealer.seal(replace(PACKET, sequence=2 * sequence + 1)))
        assert packet.payload == PACKET.payload
        used.append(opener.key.name)
    assert used == ["old", "new", "new", "new"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        ("abc\n", "line 1: not 64 hexadecimal digits"),
        ("00" * 32 + " a\n" + "00" * 32 + " b\n", "line 2: key .* is there twice"),
        ("zz" * 32, "line 1"),
    ],
)
def test_bad_key_files_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=problem) as raised:
        KeyFile(path)
    assert "abc" not in str(raised.value)


def test_key_files_are_for_few_eyes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = write_keys(tmp_path / "key", "a")
    keys.path.chmod(0o644)
    with pytest.raises(KeyFileError, match="everyone may read it; chmod 600"):
        KeyFile(keys.path)
    with pytest.raises(KeyFileError, match=r"no.key cannot be read: No such file .* keygen"):
        KeyFile(tmp_path / "no.key")
    assert keys.first.secret.hex() not in repr(keys.first)
    # What has become unusable leaves the keys that were.
    keys.path.write_text("nothing of this kind")
    keys.path.chmod(0o600)
    with pytest.raises(KeyFileError, match="line 1"):
        keys.refresh()
    assert keys.first.name == "a"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(KeyFileError, match=r"need the package cryptography: pip install"):
        KeyFile(keys.path)


def test_feedback_is_authentic_and_new(keys: KeyFile, tmp_path: Path) -> None:
    sealer, opener = FeedbackSealer(keys), FeedbackOpener(keys)
    said = []
    for newest in range(3):
        message = feedback(newest=newest)
        message.seal = sealer.seal(message)
        assert len(message.seal) == SEAL_BYTES
        said.append(message)
    opener.check(said[0])
    opener.check(said[2])
    for replayed in said:
        with pytest.raises(SealError, match="replayed"):
            opener.check(replayed)
    for name in vars(said[1]):
        value = getattr(said[1], name)
        if name in ("header", "seal"):
            continue
        changed = SimpleNamespace(**vars(said[1]))
        setattr(changed, name, not value if isinstance(value, bool) else value + 1)
        if changed.mask_age_ms != changed.mask_age_ms and name == "mask_age_ms":
            changed.mask_age_ms = 1.0
        with pytest.raises(SealError, match="not authentic"):
            FeedbackOpener(keys).check(changed)
    with pytest.raises(SealError, match="feedback is not sealed"):
        opener.check(feedback())
    other = write_keys(tmp_path / "other", "other")
    with pytest.raises(SealError, match=rf"feedback sealed with key {keys.ids}, .* {other.ids}"):
        FeedbackOpener(other).check(said[1])


def test_a_sender_seals_what_it_sends_and_nothing_grows_beyond_a_datagram(
    bundle: ModelBundle, keys: KeyFile
) -> None:
    plain = Encoder(bundle)
    sender = Sender(Encoder(bundle), sealer=PacketSealer(keys))
    sender.encoder.stream = plain.stream
    opener, decoder, rng = PacketOpener(keys), Decoder(bundle), np.random.default_rng(0)
    # A frame_id so long that an unsealed packet is as long as it may be.
    longest = 0
    for index in range(30):
        frame = rng.integers(0, 256, (64, 96, 3), np.uint8)
        header = Header(1, 2, "c" * (1250 + index))
        packets = sender.send(frame, header, Settings(parity=2, intra_period=0))
        longest = max(longest, *(each.serialized_size() for each in packets))
        decoded = decoder.decode([opener.open(each) for each in packets])
        expected = Decoder(bundle).decode(plain.encode(frame, header, intra=True))
        np.testing.assert_array_equal(decoded.tokens, expected.tokens)
    assert MAX_SERIALIZED_BYTES - 30 < longest <= MAX_SERIALIZED_BYTES


def test_sealing_costs_little_beside_coding(bundle: ModelBundle, keys: KeyFile) -> None:
    sealer, opener = PacketSealer(keys), PacketOpener(keys)
    big = replace(PACKET, payload=bytes(1200)).with_checksum()
    grid = (45, 60)
    coder = random_coder(1, 32, grid)
    tokens = np.random.default_rng(0).integers(0, 32, (1, *grid), np.uint16)

    def best(work, count: int) -> float:
        times = []
        for repetition in range(5):
            begin = time.perf_counter()
            for index in range(count):
                work(repetition * count + index)
            times.append((time.perf_counter() - begin) / count)
        return min(times)

    both = best(lambda index: opener.open(sealer.seal(replace(big, sequence=index))), 200)
    assert both < best(lambda index: coder.encode(tokens, 0, None), 5)


def open_by_the_page(secret: bytes, data: bytes) -> tuple[dict[str, int], bytes]:
    """Open a sealed packet as docs/wire-format.md tells, without the codec."""
    sec, nanosec, length = struct.unpack_from("<iII", data, 4)
    name = data[16 : 16 + length - 1]
    at = 4 + -(-(12 + length) // 8) * 8
    names = ("fingerprint", "stream", "sequence", "crc32c", "width", "height", "version")
    names += ("levels", "reference", "index", "count")
    fields = dict(zip(names, struct.unpack_from("<QIIIHHBBBBB", data, at), strict=True))
    at = 4 + -(-(at - 4 + 29) // 4) * 4
    (size,) = struct.unpack_from("<I", data, at)
    payload = data[at + 4 : at + 4 + size]
    prefix, text = payload[:12], payload[12:]
    mac = HMAC(secret, SHA256())
    mac.update(b"gosvae key id")
    assert prefix[:4] == mac.finalize()[:4]
    salt = fields["stream"].to_bytes(4, "big") + prefix[4:12]
    key = HKDF(SHA256(), 32, salt, b"gosvae packet 3").derive(secret)
    nonce = fields["sequence"].to_bytes(4, "big") + bytes([fields["index"]]) + bytes(7)
    head = prefix + name + struct.pack("<iI", sec, nanosec)
    head += struct.pack("<QII", *(fields[each] for each in ("fingerprint", "stream", "sequence")))
    head += struct.pack("<HH", fields["width"], fields["height"])
    head += bytes(fields[each] for each in ("version", "levels", "reference", "index", "count"))
    return fields, AESGCM(key).decrypt(nonce, text, head)


def test_the_committed_vectors_open_by_the_page_and_by_the_codec(tmp_path: Path) -> None:
    vectors = json.loads(VECTORS.read_text())
    path = tmp_path / "key"
    path.write_text(vectors["key"])
    path.chmod(0o600)
    keys, secret = KeyFile(path), bytes.fromhex(vectors["key"])
    assert len(vectors["packets"]) == 3
    for vector in vectors["packets"]:
        sealed, plain = (bytes.fromhex(vector[name]) for name in ("sealed", "plain"))
        assert PacketOpener(keys).open(Packet.from_bytes(sealed)).to_bytes() == plain
        fields, payload = open_by_the_page(secret, sealed)
        expected = Packet.from_bytes(plain)
        assert payload == expected.payload and fields["sequence"] == expected.sequence
        assert fields["version"] == SEALED_VERSION
    told = vectors["feedback"]
    message = feedback(**told["fields"], seal=bytes.fromhex(told["seal"]))
    FeedbackOpener(keys).check(message)
    prefix, tag = message.seal[:12], message.seal[12:]
    salt = struct.pack(">IQ", message.stream, message.receiver) + prefix[4:8]
    key = HKDF(SHA256(), 32, salt, b"gosvae feedback 3").derive(secret)
    head = prefix + b"front" + struct.pack("<iIQIQI", 5, 6, 7, message.stream, message.receiver, 7)
    head += bytes([1, 0]) + struct.pack("<5I2f", *(7,) * 5, 0.5, message.mask_age_ms)
    assert AESGCM(key).decrypt(prefix[8:] + bytes(8), tag, head) == b""
