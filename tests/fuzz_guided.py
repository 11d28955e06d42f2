"""Fuzz what comes from outside, guided by coverage, by hand; needs ``pip install atheris``.

    python tests/fuzz_guided.py packets -max_total_time=600

``packets``, ``feedback`` and ``bundles`` are what can be fuzzed; all else is libFuzzer's. Whatever
the bytes are, only GosvaeError may be raised. The kernels run as Python, so that their branches
guide the search, and so that an index out of range is an error instead of a read beyond an array.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

os.environ["NUMBA_DISABLE_JIT"] = "1"

import atheris
import numpy as np
import yaml

with atheris.instrument_imports(include=["gosvae_codec"]):
    from gosvae_codec import Decoder, Encoder, GosvaeError, Header, ModelBundle, Reassembler
    from gosvae_codec.congestion import Report
    from gosvae_codec.prior import Prior
    from gosvae_codec.sender import Feedback, Sender, Settings
    from gosvae_codec.testing import write_tiny_bundle

Target = Callable[[bytes], None]

FRAME = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def packets(folder: Path) -> Target:
    """Return what decodes a packet of any fields and payload, alone and as reassembled."""
    bundle = ModelBundle.load(write_tiny_bundle(folder / "tiny"))
    encoder = Encoder(bundle)
    decoder, reassembler = Decoder(bundle), Reassembler()
    (genuine,) = encoder.encode(FRAME)
    decoder.decode([genuine])

    def target(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        packet = replace(
            genuine,
            header=Header(0, 0, given.ConsumeUnicodeNoSurrogates(4)),
            sequence=genuine.sequence + given.ConsumeIntInRange(0, 3),
            # Large masks are allowed, but slow.
            source_width=given.ConsumeIntInRange(0, 200),
            source_height=given.ConsumeIntInRange(0, 200),
            levels=given.ConsumeIntInRange(0, 3),
            reference=given.ConsumeIntInRange(0, 255),
            slice_index=given.ConsumeIntInRange(0, 255),
            slice_count=given.ConsumeIntInRange(0, 255),
            payload=given.ConsumeBytes(1400),
        ).with_checksum()
        with suppress(GosvaeError):
            packet.check(bundle.fingerprint, bundle.grid, bundle.levels)
            for frame in reassembler.push(packet, 0.0):
                with suppress(GosvaeError):
                    decoder.decode(frame.packets)
            mask = decoder.decode([packet]).mask
            assert mask.shape == (packet.source_height, packet.source_width)

    return target


def feedback(folder: Path) -> Target:
    """Return what gives a sender any reports, sending in between."""
    bundle = ModelBundle.load(write_tiny_bundle(folder / "tiny"))
    now = [0.0]

    def target(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        sender = Sender(Encoder(bundle), lambda: now[0])
        settings = Settings(max_kbit_per_s=given.ConsumeIntInRange(0, 100), parity=-1)
        while given.remaining_bytes():
            now[0] += given.ConsumeIntInRange(0, 255) / 100
            sender.send(FRAME, Header(), settings)
            report = Report(*(given.ConsumeUInt(4) for _ in range(4)))
            acknowledged = given.ConsumeUInt(1) if given.ConsumeBool() else None
            sender.on_feedback(Feedback(sender.encoder.stream, acknowledged, report))

    return target


def bundles(folder: Path) -> Target:
    """Return what loads a bundle with one entry of its manifest, or its prior, changed."""
    whole = write_tiny_bundle(folder / "tiny")
    manifest = (whole / "manifest.yaml").read_text()
    names = list(yaml.safe_load(manifest))
    with np.load(whole / "prior.npz") as archive:
        tables = {name: archive[name] for name in archive.files}
    tried = folder / "tried"
    shutil.copytree(whole, tried)

    def target(data: bytes) -> None:
        given = atheris.FuzzedDataProvider(data)
        if given.ConsumeBool():
            entry = given.PickValueInList(names)
            text = given.ConsumeUnicodeNoSurrogates(200)
            kept = {key: value for key, value in yaml.safe_load(manifest).items() if key != entry}
            changed = f"{yaml.safe_dump(kept)}\n{entry}: {text}\n"
            (tried / "manifest.yaml").write_text(changed, encoding="utf-8")
            with suppress(GosvaeError):
                ModelBundle.load(tried)
            return
        with zipfile.ZipFile(tried / "prior.npz", "w") as archive:
            damaged = given.PickValueInList(list(tables))
            for name, table in tables.items():
                file = io.BytesIO()
                np.save(file, table)
                content = bytearray(file.getvalue())
                if name == damaged:
                    place = given.ConsumeIntInRange(0, len(content) - 1)
                    content[place:] = given.ConsumeBytes(64) + content[place + 64 :]
                archive.writestr(f"{name}.npy", bytes(content))
        with suppress(GosvaeError):
            Prior.load(tried / "prior.npz", 2, 64, (4, 6))

    return target


def main() -> None:
    """Fuzz until libFuzzer's own limits."""
    targets = {each.__name__: each for each in (packets, feedback, bundles)}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(f"usage: fuzz_guided.py {'|'.join(targets)} [libFuzzer's options]")
    with tempfile.TemporaryDirectory() as folder:
        target = targets[sys.argv.pop(1)](Path(folder))
        atheris.Setup(sys.argv, target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
