"""Feed mutated packets to a receiver's codec, by hand: ``python tests/fuzz_packets.py``.

Packets of real streams are mutated and for the most part signed again, so that they get past the
checksum; then they are decoded, each alone and as reassembled. Whatever a packet holds, only
GosvaeError may be raised, masks have the size that the packet says, and no packet takes long.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import track

from gosvae_codec import UNLABELLED, Decoder, Encoder, GosvaeError, ModelBundle, Packet, Reassembler
from gosvae_codec.testing import write_tiny_bundle

NUMBERS = {
    "fingerprint": 64,
    "stream": 32,
    "sequence": 32,
    "source_width": 16,
    "source_height": 16,
    "version": 8,
    "levels": 8,
    "reference": 8,
    "slice_index": 8,
    "slice_count": 8,
}


def mutate(packet: Packet, rng: np.random.Generator) -> Packet:
    """Return the packet with some fields or payload bytes changed."""
    for _ in range(rng.integers(0, 4)):
        name = str(rng.choice(list(NUMBERS)))
        if name.startswith("source") and rng.random() < 0.99:
            continue  # large masks are allowed, but slow
        near = int(getattr(packet, name)) + int(rng.integers(-2, 3))
        wild = int(rng.integers(0, 1 << min(NUMBERS[name], 62)))
        value = (near if rng.random() < 0.8 else wild) % (1 << NUMBERS[name])
        packet = replace(packet, **{name: value})
    payload = bytearray(packet.payload)
    for _ in range(rng.integers(0, 3)):
        kind = rng.integers(0, 4)
        place = int(rng.integers(0, len(payload) + 1))
        if kind == 0 and place < len(payload):
            payload[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            payload[place:place] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 2:
            del payload[place : place + int(rng.integers(1, 9))]
        elif rng.random() < 0.1:
            payload = bytearray(rng.bytes(int(rng.integers(0, 1400))))
    packet = replace(packet, payload=bytes(payload))
    return packet.with_checksum() if rng.random() < 0.95 else packet


def main() -> int:
    """Run until `count` packets were mutated;."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="packets to mutate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    outcomes: Counter[str] = Counter()
    slowest = 0.0

    def count(name: str) -> None:
        outcomes[name] += 1

    with tempfile.TemporaryDirectory() as folder:
        bundle = ModelBundle.load(write_tiny_bundle(Path(folder) / "tiny"))
        encoder, decoder, reassembler = Encoder(bundle), Decoder(bundle), Reassembler()
        packets: list[Packet] = []
        for number in track(range(options.count), "packets"):
            if number % 20 == 0:
                if rng.random() < 0.01:
                    encoder = Encoder(bundle)
                frame = np.repeat(rng.integers(0, 256, (64, 6, 3), np.uint8), 16, 1)
                slices, parity = int(rng.integers(1, 4)), int(rng.integers(0, 3))
                packets = encoder.encode(
                    frame, None, int(rng.integers(1, 3)), False, slices, parity
                )
                with suppress(GosvaeError):
                    decoder.decode(packets)
                # Feedback is as hostile as packets are.
                known = rng.random() < 0.7
                encoder.acknowledge(packets[0].sequence if known else int(rng.integers(0, 1 << 32)))
            packet = mutate(packets[int(rng.integers(0, len(packets)))], rng)
            begin = time.perf_counter()
            frames = [[packet]]
            try:
                packet.check(bundle.fingerprint, bundle.grid, bundle.levels)
                frames += [each.packets for each in reassembler.push(packet, number / 10)]
            except GosvaeError as error:
                count(type(error).__name__)
            for each in frames:
                try:
                    decoded = decoder.decode(each)
                    size = (each[0].source_height, each[0].source_width)
                    assert decoded.mask.shape == size, (decoded.mask.shape, size)
                    assert set(np.unique(decoded.mask)) <= {*bundle.labels.ids, UNLABELLED}
                    count("decoded")
                except GosvaeError as error:
                    count(f"{type(error).__name__} in decoding")
            slowest = max(slowest, time.perf_counter() - begin)
    for name, times in sorted(outcomes.items()):
        print(f"{name}: {times}")
    print(f"slowest packet: {slowest * 1e3:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
