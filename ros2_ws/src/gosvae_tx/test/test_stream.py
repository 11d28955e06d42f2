"""One camera's stream at the transmitter: figures and findings, without DDS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Header as HeaderMessage

from gosvae_codec import Decoder, Encoder, ImageConverter, ImageError, ModelBundle
from gosvae_codec.sender import Settings
from gosvae_codec.testing import write_tiny_bundle
from gosvae_common.diagnostics import Report
from gosvae_common.health import ERROR, EVENTS, OK, WARN, Judge
from gosvae_common.messages import to_image
from gosvae_msgs.msg import Feedback
from gosvae_tx.stream import UNUSABLE_FRAMES, Conditions, Stream
from gosvae_tx.transmitter import Transmitter

PARAMETERS = {
    **{name: each[0] for one in Transmitter.thresholds for name, each in one.parameters.items()},
    **{f"diagnostics.{name}": level for name, level, _ in EVENTS},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    bundle = ModelBundle.load(write_tiny_bundle(tmp_path_factory.mktemp("models") / "tiny"))
    # Compiles the kernels, which takes as long as silence needs to be an error.
    Decoder(bundle).decode(Encoder(bundle).encode(np.zeros((64, 96, 3), np.uint8)))
    return bundle


class Camera:
    """A stream with a camera before it and a node around it."""

    def __init__(self, bundle: ModelBundle, bits: int = 0) -> None:
        self.logged: list[str] = []
        self.bundle = bundle
        self.encoder = Encoder(bundle)
        self.stream = Stream(self.encoder, ImageConverter(bits), self.logged.append)
        self.rng = np.random.default_rng(0)
        self.stamp = 1000.0

    def frame(self, pixels: np.ndarray | None = None, stamp: float | None = None) -> Any:
        if pixels is None:
            pixels = self.rng.integers(0, 256, (64, 96, 3), np.uint8)
        self.stamp += 1 / 30
        sec, part = divmod(self.stamp if stamp is None else stamp, 1)
        header = HeaderMessage(stamp=Time(sec=int(sec), nanosec=int(part * 1e9)))
        message = to_image(pixels, "rgb8", header)
        self.stream.on_frame(message)
        return message

    def send(self, pixels: np.ndarray | None = None, **settings: Any) -> list[Any]:
        return list(self.stream.encode(self.frame(pixels), Settings(**settings)))

    def report(self, active: bool = True, **conditions: Any) -> Report:
        defaults = Conditions(
            judge=Judge(Transmitter.thresholds, PARAMETERS.__getitem__),
            providers=["cpu"],
            max_kbit_per_s=0.0,
            camera_publishers=2,
            listeners=1,
            dropped=0,
            drop_rate=0.0,
            feedback_topic="/camera/image_raw/gosvae/feedback",
            profile="/share/fastdds.xml",
            explain_silence=lambda: "it sleeps",
        )
        return self.stream.report(defaults._replace(**conditions), active)


@pytest.fixture
def camera(bundle: ModelBundle) -> Camera:
    return Camera(bundle)


def test_packets_are_the_codecs_and_counted(camera: Camera, bundle: ModelBundle) -> None:
    pixels = camera.rng.integers(0, 256, (64, 96, 3), np.uint8)
    packets = camera.send(pixels)
    expected = Decoder(bundle).decode(Encoder(bundle).encode(pixels)).mask
    np.testing.assert_array_equal(Decoder(bundle).decode(packets).mask, expected)
    level, text, values = camera.report()
    assert (level, text) == (OK, "sending")
    assert (values["frames"], values["intra frames"], values["packets"]) == (1, 1, len(packets))
    assert values["bytes/frame"] == sum(packet.serialized_size() for packet in packets)
    assert values["max kbit/s"] == "none" and values["listeners"] == 1
    assert values["camera publishers"] == 2


def test_states_without_frames(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    assert camera.report(active=False)[:2] == (WARN, "inactive")
    assert camera.report(explain_silence=None)[:2] == (OK, "waiting for a receiver")
    assert camera.report()[:2] == (OK, "sending")
    later = camera.stream._arrivals._newest + 7.2
    monkeypatch.setattr("time.monotonic", lambda: later)
    assert camera.report()[:2] == (ERROR, "no frames for 7 s: it sleeps")
    camera.stream.expect_frames()
    assert camera.report().level == OK


def test_errors_are_counted_and_told(camera: Camera) -> None:
    message = camera.frame()
    message.encoding = "32FC1"
    with pytest.raises(ImageError) as caught:
        camera.stream.encode(message, Settings())
    camera.stream.on_error(caught.value)
    level, text, values = camera.report()
    assert level == ERROR and "frames that cannot be encoded" in text and "32FC1" in text
    assert values["failed"] == 1 and "32FC1" in values["last failure"]
    assert len(camera.logged) == 1
    camera.send()
    assert camera.report().level == WARN


def test_feedback_is_judged(camera: Camera) -> None:
    camera.send()
    feedback = Feedback(fingerprint=camera.bundle.fingerprint, stream=camera.encoder.stream)
    feedback.has_acknowledged, feedback.acknowledged = True, 0
    feedback.packets_received, feedback.packets_lost = 40, 60
    camera.stream.on_feedback(feedback)
    level, text, values = camera.report()
    assert level == ERROR and text.startswith("60% of the packets are lost")
    assert values["receiver lost"] == 60
    (packet, *_) = camera.send()
    assert packet.reference == 1
    feedback.fingerprint ^= 1
    camera.stream.on_feedback(feedback)
    assert "the receiver has another bundle" in camera.report().text


def test_a_budget_without_room(camera: Camera) -> None:
    for _ in range(60):
        if not camera.send(max_kbit_per_s=0.1):
            break
    else:
        pytest.fail("no frame was skipped")
    fresh = Camera(camera.bundle)
    assert not fresh.send(max_kbit_per_s=0.1)
    level, text, _ = fresh.report(max_kbit_per_s=0.1)
    assert (level, text) == (
        ERROR,
        "max_kbit_per_s 0.1 leaves no room for a single frame: raise it",
    )


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        (np.zeros((64, 96, 3), np.uint8), "frames are nearly black"),
        (np.full((64, 96, 3), 128, np.uint8), "frames are nearly constant"),
    ],
)
def test_frames_that_show_nothing(camera: Camera, pixels: np.ndarray, text: str) -> None:
    for _ in range(UNUSABLE_FRAMES - 1):
        camera.send(pixels)
    assert text not in camera.report().text
    camera.send(pixels)
    report = camera.report()
    assert report.level == WARN and text in report.text
    assert "lens cap" in report.text and "bits" in report.text
    camera.send()
    assert text not in camera.report().text


def test_bits_of_sixteen_bit_encodings(bundle: ModelBundle) -> None:
    values = np.random.default_rng(0).integers(0, 1024, (64, 96), np.uint16)
    for bits, found in ((0, 10), (12, 12), (16, 16)):
        camera = Camera(bundle, bits)
        message = camera.frame()
        message.encoding, message.step = "mono16", 2 * 96
        message.data = values.tobytes()
        camera.stream.encode(message, Settings())
        assert camera.report().values["bits"] == found


def test_cameras_without_stamps(camera: Camera) -> None:
    for _ in range(3):
        camera.frame(stamp=0.0)
    level, text, _ = camera.report()
    assert level == WARN and "the camera does not stamp its frames" in text


def test_frames_that_do_not_arrive(camera: Camera) -> None:
    arrives = np.random.default_rng(5).random(200) < 0.5
    for k in range(200):
        if arrives[k]:
            camera.frame(stamp=1000 + k / 30)
    report = camera.report()
    assert report.level == WARN
    assert "of the camera's frames do not arrive" in report.text
    assert "export FASTRTPS_DEFAULT_PROFILES_FILE=/share/fastdds.xml" in report.text
    assert 0.3 < report.values["undelivered"] < 0.7
    # A process that is overloaded loses frames itself.
    camera.send()
    assert "do not arrive" not in camera.report(drop_rate=1e6).text


def test_networks_that_run_elsewhere(camera: Camera) -> None:
    camera.encoder.session.fell_back = True  # type: ignore[misc]
    report = camera.report(providers=["cuda", "cpu"])
    assert report.level == WARN and "running on cpu, not on cuda" in report.text
