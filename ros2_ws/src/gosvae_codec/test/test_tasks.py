"""What every kind of task promises, and what each makes of a frame."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from gosvae_codec import (
    BundleError,
    DecodedFrame,
    Decoder,
    Encoder,
    Expert,
    ModelBundle,
    decode_together,
)
from gosvae_codec.labels import UNLABELLED
from gosvae_codec.manifest import FEATURES, dump, head_file, record
from gosvae_codec.masks import upsampled_confidence
from gosvae_codec.sessions import Session
from gosvae_codec.tasks import (
    KINDS,
    Canvas,
    DepthResult,
    Detection,
    DetectionResult,
    Result,
    SemanticResult,
)
from gosvae_codec.testing import (
    OBJECTS,
    describe_tiny_head,
    write_tiny_bundle,
    write_tiny_head,
)

SIZES = [(64, 96), (51, 77), (480, 640), (1, 3)]
"""Heights and widths of camera frames."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tasks"
    return write_tiny_bundle(folder, tasks=("semantic", "detection", "depth"))


@pytest.fixture(scope="module")
def bundle(path: Path) -> ModelBundle:
    return ModelBundle.load(path)


def frame(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Blocks of random colours, so that tokens differ."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (4, 6, 3), np.uint8)
    rows, columns = (np.arange(side) * n // side for side, n in zip(size, (4, 6), strict=True))
    return blocks[rows[:, None], columns]


class Contract:
    """What tests of one kind inherit."""

    kind: str

    def check(self, result: Result, size: tuple[int, int]) -> None:
        """Check shapes, dtypes and ranges."""
        raise NotImplementedError

    def check_absent(self, result: Result, lines: slice) -> None:
        """Check that nothing is made up where tokens never arrived, which are these lines."""
        raise NotImplementedError

    def equal(self, one: Result, other: Result) -> None:
        """Check that two results are the same."""
        raise NotImplementedError

    def decode(self, bundle: ModelBundle, size: tuple[int, int], seed: int = 0) -> DecodedFrame:
        packets = Encoder(bundle).encode(frame(size, seed))
        return Decoder(bundle, tasks=[self.kind]).decode(packets)

    @pytest.mark.parametrize("size", SIZES)
    def test_results_are_at_the_cameras_size(
        self, bundle: ModelBundle, size: tuple[int, int]
    ) -> None:
        decoded = self.decode(bundle, size)
        assert decoded.size == size and list(decoded.tasks) == [self.kind]
        self.check(decoded.tasks[self.kind], size)

    def test_nothing_is_made_up_of_bands_that_never_arrived(self, bundle: ModelBundle) -> None:
        packets = Encoder(bundle).encode(frame((128, 96)), slices=2)
        result = Decoder(bundle, tasks=[self.kind]).decode(packets[1:]).tasks[self.kind]
        self.check(result, (128, 96))
        self.check_absent(result, slice(0, 64))

    def test_frames_decoded_together_get_what_they_get_alone(self, bundle: ModelBundle) -> None:
        packets = [Encoder(bundle).encode(frame(SIZES[i], i)) for i in range(3)]
        decoders = [Decoder(bundle, batch=3, tasks=[self.kind]) for _ in packets]
        together = decode_together(list(zip(decoders, packets, strict=True)))
        for decoded, few in zip(together, packets, strict=True):
            assert isinstance(decoded, DecodedFrame)
            alone = Decoder(bundle, tasks=[self.kind]).decode(few)
            self.equal(decoded.tasks[self.kind], alone.tasks[self.kind])

    @pytest.mark.parametrize("other", KINDS)
    def test_a_head_of_another_kind_is_refused(
        self, bundle: ModelBundle, tmp_path: Path, other: str
    ) -> None:
        head = Session(write_tiny_head(tmp_path / f"{other}.onnx", other), ["cpu"], 1)
        task = bundle.tasks[self.kind]
        if other == self.kind:
            task.check(head)
            return
        first = next(iter(task.outputs))
        message = f"{other}.onnx: makes .*; a head of kind {self.kind} makes {first}"
        with pytest.raises(BundleError, match=message):
            task.check(head)


class TestSemantic(Contract):
    kind = "semantic"

    def check(self, result: Result, size: tuple[int, int]) -> None:
        assert isinstance(result, SemanticResult)
        assert result.mask.shape == result.confidence.shape == size
        assert result.mask.dtype == result.confidence.dtype == np.uint8
        known = result.mask != UNLABELLED
        assert (result.confidence[known] >= 255 // 11).all()

    def check_absent(self, result: Result, lines: slice) -> None:
        assert isinstance(result, SemanticResult)
        assert (result.mask[lines] == UNLABELLED).all()
        assert (result.confidence[lines] == 0).all()
        assert (result.mask[lines.stop :] != UNLABELLED).all()

    def equal(self, one: Result, other: Result) -> None:
        assert isinstance(one, SemanticResult) and isinstance(other, SemanticResult)
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.confidence, other.confidence)

    def test_as_many_channels_as_labels(self, bundle: ModelBundle, tmp_path: Path) -> None:
        head = write_tiny_head(tmp_path / "semantic.onnx", "semantic", 5)
        with pytest.raises(BundleError, match="makes 5 channels, the manifest lists 11 labels"):
            bundle.tasks["semantic"].check(Session(head, ["cpu"], 1))


class TestDetection(Contract):
    kind = "detection"

    def check(self, result: Result, size: tuple[int, int]) -> None:
        assert isinstance(result, DetectionResult)
        count = len(result.boxes)
        assert result.boxes.shape == (count, 4) and result.boxes.dtype == np.float32
        assert result.scores.shape == (count,) and result.scores.dtype == np.float32
        assert result.classes.shape == (count,) and result.classes.dtype == np.int64
        assert (np.diff(result.scores) <= 0).all()
        assert (result.boxes >= 0).all() and (result.boxes <= [*size[::-1], *size[::-1]]).all()
        assert (result.classes < len(OBJECTS)).all()

    def check_absent(self, result: Result, lines: slice) -> None:
        assert isinstance(result, DetectionResult)
        assert len(result.boxes) > 0
        assert (result.boxes[:, [1, 3]].mean(1) >= lines.stop).all()

    def equal(self, one: Result, other: Result) -> None:
        assert isinstance(one, DetectionResult) and isinstance(other, DetectionResult)
        for ours, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_boxes_are_in_pixels_of_the_camera(self, bundle: ModelBundle) -> None:
        small = self.decode(bundle, (64, 96)).tasks["detection"]
        large = self.decode(bundle, (640, 480)).tasks["detection"]
        assert isinstance(small, DetectionResult) and isinstance(large, DetectionResult)
        assert len(small.boxes) > 1
        np.testing.assert_allclose(small.boxes * [5, 10, 5, 10], large.boxes)
        # Each box is a token's patch.
        np.testing.assert_allclose(small.boxes[:, 2:] - small.boxes[:, :2], 16)

    def test_boxes_that_are_not_likely_enough_are_left_out(self, bundle: ModelBundle) -> None:
        packets = Encoder(bundle).encode(frame((64, 96)))
        everything = Decoder(bundle, min_score=0).decode(packets).tasks["detection"]
        assert isinstance(everything, DetectionResult)
        least = float(everything.scores[1])
        kept = int((everything.scores >= least).sum())
        assert 0 < kept < len(everything.scores)
        decoders = [Decoder(bundle, batch=2, min_score=each) for each in (least, 0)]
        together = decode_together([(decoder, packets) for decoder in decoders])
        alone = Decoder(bundle, min_score=least).decode(packets)
        for decoded, count in zip([*together, alone], [kept, None, kept], strict=True):
            assert isinstance(decoded, DecodedFrame)
            wanted = DetectionResult(*(each[:count] for each in everything))
            self.equal(decoded.tasks["detection"], wanted)
        # What a receiver keeps by default.
        made = everything.boxes[:2] / [96, 64, 96, 64], np.array([0.21, 0.19]), np.array([0, 0])
        canvas = Canvas((64, 96), (64, 96), np.zeros(64, bool))
        result = bundle.tasks["detection"].finish(made, canvas)
        assert isinstance(result, DetectionResult) and result.scores.tolist() == [0.21]

    def test_a_frame_without_objects_is_empty(self, bundle: ModelBundle) -> None:
        decoder, tokens = Decoder(bundle), np.full((2, 4, 6), bundle.codes)
        features = decoder.networks.features.compute(tokens[None].astype(np.int32))
        task, head = decoder.networks.heads["detection"]
        (made,) = task.split(head.run_all(*features), 1)
        canvas = Canvas((64, 96), (50, 70), np.zeros(64, bool))
        result = task.finish(made, canvas)
        self.check(result, (50, 70))
        assert isinstance(result, DetectionResult) and len(result.boxes) == 0

    def test_impossible_boxes_are_cut_or_left_out(self, bundle: ModelBundle) -> None:
        task = bundle.tasks["detection"]
        assert isinstance(task, Detection)
        shares = [[-1, 0.5, 2, 1], [np.nan] * 4, [0, 0, 1, 1], [0, 0, 1, 1]]
        scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
        canvas = Canvas((64, 96), (64, 96), np.zeros(64, bool))
        made = (np.array(shares, np.float32), scores, np.array([0, 1, 9, -1]))
        result = task.finish(made, canvas)
        assert result.classes.tolist() == [0, 1]
        np.testing.assert_array_equal(result.boxes, [[0, 32, 96, 64], [0, 0, 0, 0]])


class TestDepth(Contract):
    kind = "depth"

    def check(self, result: Result, size: tuple[int, int]) -> None:
        assert isinstance(result, DepthResult)
        assert result.depth.shape == size and result.depth.dtype == np.float32
        assert (result.depth[np.isfinite(result.depth)] >= 1).all()

    def check_absent(self, result: Result, lines: slice) -> None:
        assert isinstance(result, DepthResult)
        assert np.isnan(result.depth[lines]).all()
        assert np.isfinite(result.depth[lines.stop :]).all()

    def equal(self, one: Result, other: Result) -> None:
        assert isinstance(one, DepthResult) and isinstance(other, DepthResult)
        np.testing.assert_array_equal(one.depth, other.depth)


def test_every_kind_has_its_contract() -> None:
    assert {each.kind for each in Contract.__subclasses__()} == set(KINDS)


# --- what runs


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the networks that ran, in order."""
    runs: list[str] = []
    compute = Session.compute

    def note(self: Session, *arrays: object) -> list[object]:
        runs.append(self.path.stem)
        return compute(self, *arrays)

    monkeypatch.setattr(Session, "compute", note)
    return runs


@pytest.mark.parametrize(
    ("tasks", "wanted"),
    [
        (None, ["features", "semantic", "detection", "depth"]),
        (["depth", "semantic"], ["features", "semantic", "depth"]),
        ([], []),
    ],
)
def test_features_run_once_and_heads_as_asked(
    path: Path, runs: list[str], tasks: Sequence[str] | None, wanted: list[str]
) -> None:
    bundle = ModelBundle.load(path)
    decoder, packets = Decoder(bundle), Encoder(bundle).encode(frame((64, 96)))
    runs.clear()
    decoded = decoder.decode(packets, tasks)
    assert runs == wanted
    assert list(decoded.tasks) == wanted[1:]
    if "semantic" not in wanted:
        with pytest.raises(AttributeError, match="no mask was made of this frame"):
            _ = decoded.mask


def test_frames_together_get_the_tasks_that_each_asked_for(path: Path, runs: list[str]) -> None:
    bundle = ModelBundle.load(path)
    pairs = [
        (Decoder(bundle, batch=2), Encoder(bundle).encode(frame((64, 96), i))) for i in range(2)
    ]
    runs.clear()
    one, two = decode_together(pairs, [{"semantic"}, {"semantic", "depth"}])
    assert runs == ["features", "semantic", "depth"]
    assert isinstance(one, DecodedFrame) and isinstance(two, DecodedFrame)
    assert (list(one.tasks), list(two.tasks)) == (["semantic"], ["semantic", "depth"])


def test_confidence_is_the_softmax_of_the_logits_scaled_up() -> None:
    logits = np.zeros((2, 1, 2), np.float32)
    logits[0] = [np.log(3), 0]
    confidence = upsampled_confidence(logits, (1, 8))
    # Left 3/4, right 1/2, and the logits' interpolation between.
    assert confidence[0, 0] == 191 and confidence[0, -1] == 128
    assert (np.diff(confidence[0].astype(int)) <= 0).all()
    with np.errstate(over="raise"):
        assert (upsampled_confidence(logits * 1e4, (4, 4)) >= 127).all()


# --- heads and bundles


def test_a_bundle_may_make_no_masks(tmp_path: Path) -> None:
    bundle = ModelBundle.load(write_tiny_bundle(tmp_path / "boxes", tasks=["detection"]))
    decoded = Decoder(bundle).decode(Encoder(bundle).encode(frame((64, 96))))
    assert list(decoded.tasks) == ["detection"]
    with pytest.raises(BundleError, match="it makes no masks, only: detection"):
        _ = bundle.labels
    with pytest.raises(BundleError, match="it makes no masks"):
        Expert(bundle)
    with pytest.raises(BundleError, match="expert: expected dict, got None"):
        Expert(bundle, task="detection")


def test_a_head_of_another_bundle_is_refused_by_name(tmp_path: Path) -> None:
    ours = write_tiny_bundle(tmp_path / "ours")
    theirs = write_tiny_bundle(tmp_path / "theirs", seed=1, tasks=["semantic", "depth"])
    name = head_file("depth")
    (ours / name).write_bytes((theirs / name).read_bytes())
    manifest = yaml.safe_load((ours / "manifest.yaml").read_text())
    manifest["tasks"]["depth"] = yaml.safe_load((theirs / "manifest.yaml").read_text())["tasks"][
        "depth"
    ]
    (ours / "manifest.yaml").write_text(dump(manifest))
    other, own = (record(each / FEATURES)["sha256"] for each in (theirs, ours))
    message = (
        rf"depth: tasks/depth\.onnx was made for other features, {str(other)[:16]}.*{str(own)[:16]}"
    )
    with pytest.raises(BundleError, match=message):
        ModelBundle.load(ours)


def test_a_head_that_takes_other_features_does_not_run(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "tiny", tasks=["semantic", "depth"])
    model = onnx.load(path / head_file("depth"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 99
    onnx.save(model, str(path / head_file("depth")))
    manifest = yaml.safe_load((path / "manifest.yaml").read_text())
    manifest["tasks"]["depth"] = describe_tiny_head(path, path / head_file("depth"))
    (path / "manifest.yaml").write_text(dump(manifest))
    bundle = ModelBundle.load(path)
    assert Decoder(bundle, tasks=["semantic"]).networks.heads.keys() == {"semantic"}
    with pytest.raises(BundleError, match=r"tasks/depth\.onnx: cannot run"):
        Decoder(bundle)
