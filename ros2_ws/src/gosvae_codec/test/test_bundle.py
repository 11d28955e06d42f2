import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml

from gosvae_codec import BundleError, Decoder, Encoder, Expert, ModelBundle, ProviderError
from gosvae_codec.manifest import MANIFEST, head_file, record
from gosvae_codec.sessions import PROVIDERS, Session, configure
from gosvae_codec.testing import (
    describe_tiny_head,
    write_tiny_bundle,
    write_tiny_head,
)


@pytest.fixture
def copy(bundle_path: Path, tmp_path: Path) -> Path:
    shutil.copytree(bundle_path.parent / "experts", tmp_path / "experts")
    return Path(shutil.copytree(bundle_path, tmp_path / "copy"))


def change(path: Path, **values: object) -> None:
    manifest = yaml.safe_load((path / "manifest.yaml").read_text())
    for key, value in values.items():
        if value is None:
            del manifest[key]
        else:
            manifest[key] = value
    (path / "manifest.yaml").write_text(yaml.safe_dump(manifest))


def test_a_copy_has_the_same_fingerprint_and_another_training_has_not(
    bundle: ModelBundle, copy: Path, tmp_path: Path
) -> None:
    assert ModelBundle.load(copy).fingerprint == bundle.fingerprint
    other = write_tiny_bundle(tmp_path / "other", seed=1)
    assert ModelBundle.load(other).fingerprint != bundle.fingerprint
    assert 0 < bundle.fingerprint < 1 << 64


def test_the_fingerprint_covers_what_both_sides_need_and_nothing_else(
    bundle: ModelBundle, copy: Path
) -> None:
    change(copy, provenance={"seed": 7}, name="other", figures={"miou": 1.0})
    assert ModelBundle.load(copy).fingerprint == bundle.fingerprint
    # Of the receiver alone.
    write_tiny_head(copy / head_file("depth"), "depth")
    tasks = bundle.manifest["tasks"]
    change(copy, tasks={**tasks, "depth": describe_tiny_head(copy, copy / head_file("depth"))})
    assert ModelBundle.load(copy).fingerprint == bundle.fingerprint
    for key, value in (("inertia", [0.5, 0.0]), ("input_size", [64, 95]), ("codes", 63)):
        change(copy, **{key: value})
        assert ModelBundle.load(copy).fingerprint != bundle.fingerprint
        change(copy, **{key: bundle.manifest[key]})


def test_the_fingerprint_is_the_one_of_the_specification(copy: Path) -> None:
    manifest = yaml.safe_load((copy / "manifest.yaml").read_text())
    sums = {name: manifest["files"][name]["sha256"] for name in ("encoder.onnx", "prior.npz")}
    text = (
        f'{{"codes":64,"files":{{"encoder.onnx":"{sums["encoder.onnx"]}",'
        f'"prior.npz":"{sums["prior.npz"]}"}},"grid":[4,6],"inertia":[0.0,0.0],'
        '"input_size":[64,96],"levels":2}'
    )
    wanted = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert f"{ModelBundle.load(copy).fingerprint:016x}" == wanted


def test_missing_folder_and_missing_manifest_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere: no such folder"):
        ModelBundle.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"manifest\.yaml: No such file.*not a model bundle"):
        ModelBundle.load(tmp_path)


@pytest.mark.parametrize(
    "name", ["encoder.onnx", "features.onnx", "prior.npz", "tasks/semantic.onnx"]
)
def test_missing_truncated_and_altered_files_are_told_apart(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1])
    with pytest.raises(BundleError, match=rf"{name}: {len(data) - 1} bytes, should be {len(data)}"):
        ModelBundle.load(copy)
    (copy / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=rf"{name}: SHA-256 .* altered"):
        ModelBundle.load(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: No such file"):
        ModelBundle.load(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not YAML"),
        ("\x00", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("- a", "no `format`"),
        ("name: x", "no `format`"),
        ("format: 99", "format 99, this software reads 3"),
        ("format: 2", "format 2, .* convert it with `gosvae convert-bundle"),
        ("format: 3", "lacks"),
    ],
)
def test_foreign_manifests_are_refused(copy: Path, text: str, message: str) -> None:
    (copy / "manifest.yaml").write_text(text)
    with pytest.raises(BundleError, match=message):
        ModelBundle.load(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_size", [0, 96]),
        ("input_size", "96x64"),
        ("grid", [4]),
        ("levels", 0),
        ("levels", True),
        ("codes", 70000),
        ("codes", 1),
        ("name", 5),
        ("inertia", [0.0]),
        ("inertia", ["a", "b"]),
        ("files", {}),
        ("files", {"../encoder.onnx": {"sha256": ""}, "encoder.onnx": {}, "features.onnx": {}}),
        ("tasks", None),
        ("tasks", {}),
        ("tasks", {"Semantic": {}}),
        ("tasks", {"semantic": []}),
    ],
)
def test_impossible_values_are_refused(copy: Path, key: str, value: object) -> None:
    change(copy, **{key: value})
    with pytest.raises(BundleError, match=key.rstrip("s")):
        ModelBundle.load(copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("labels", [{"id": 1}], "each needs id, name and color"),
        ("labels", [], "has no labels"),
        ("labels", [{"id": float("inf"), "name": "a", "color": [0, 0, 0]}], "each needs"),
        ("labels", [{"id": 255, "name": "a", "color": [0, 0, 0]}], "ids go from 0 to 254"),
        ("labels", [{"id": 1, "name": "a", "color": [0, 0]}], "each needs id"),
        ("labels", None, r"of kind semantic needs \['labels'\]"),
        ("kind", "boxes", "unknown kind 'boxes'; there are: semantic, detection, depth"),
        ("kind", "depth", r"needs \['unit'\]"),
        ("kind", None, "kind: expected str, got None"),
        ("expert", {"name": "x"}, "sha256: expected str"),
        ("files", {}, "tasks/semantic.onnx not listed"),
        ("files", {"tasks/semantic.onnx": {}, "tasks/b.onnx": {}}, "tasks/b.onnx'.* not of this"),
        ("features", None, "features: expected str"),
        (
            "features",
            "f" * 64,
            r"tasks/semantic.onnx was made for other features, ffffffffffffffff\.\.\., than",
        ),
    ],
)
def test_impossible_tasks_are_refused_by_name(
    copy: Path, key: str, value: object, message: str
) -> None:
    task = yaml.safe_load((copy / "manifest.yaml").read_text())["tasks"]["semantic"]
    task[key] = value
    change(copy, tasks={"semantic": {k: v for k, v in task.items() if v is not None}})
    with pytest.raises(BundleError, match=f"tasks: semantic: .*{message}"):
        ModelBundle.load(copy)


def test_tasks_are_chosen_by_name(bundle: ModelBundle) -> None:
    assert list(bundle.choose(None)) == list(bundle.choose(["semantic"])) == ["semantic"]
    assert bundle.choose([]) == {}
    with pytest.raises(BundleError, match="it has no task depth, only: semantic"):
        Decoder(bundle, tasks=["semantic", "depth"])


def test_a_huge_manifest_is_not_read(copy: Path) -> None:
    (copy / "manifest.yaml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(BundleError, match="not a manifest"):
        ModelBundle.load(copy)


def test_graphs_that_contradict_the_manifest_are_refused(copy: Path) -> None:
    change(copy, grid=[5, 6])
    bundle = ModelBundle.load(copy)
    with pytest.raises(BundleError, match=r"encoder\.onnx takes .*\[2, 4, 6\].* \[2, 5, 6\]"):
        Encoder(bundle)
    with pytest.raises(BundleError, match=r"features\.onnx takes"):
        Decoder(bundle)


def test_a_file_that_is_no_network_is_named(copy: Path) -> None:
    (copy / "encoder.onnx").write_bytes(b"not a network")
    manifest = yaml.safe_load((copy / "manifest.yaml").read_text())
    manifest["files"]["encoder.onnx"] = {"sha256": hashlib.sha256(b"not a network").hexdigest()}
    change(copy, files=manifest["files"])
    with pytest.raises(BundleError, match=r"encoder\.onnx: ONNX Runtime cannot load it"):
        Encoder(ModelBundle.load(copy))


def test_the_expert_is_found_by_hash_and_only_when_asked_for(copy: Path) -> None:
    bundle = ModelBundle.load(copy)
    bundle.expert_path().write_bytes(b"")
    Encoder(bundle)
    with pytest.raises(BundleError, match="0 bytes, should be"):
        Expert(bundle)
    bundle.expert_path().unlink()
    with pytest.raises(BundleError, match="No such file"):
        Expert(bundle)


def test_providers_are_refused_or_fallen_back_from_loudly(
    bundle_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = ModelBundle.load(bundle_path)
    with pytest.raises(ProviderError, match=r"\['gpu'\].*tensorrt"):
        Encoder(bundle, providers=["gpu"])
    with pytest.raises(ProviderError, match="give one or more"):
        Encoder(bundle, providers=[])
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA: nothing to fall back from")
    with pytest.raises(ProviderError, match=r"none of \['cuda'\] is available.*cpu"):
        Encoder(bundle, providers=["cuda"])
    encoder = Encoder(bundle, providers=["cuda", "cpu"])
    assert (encoder.session.provider, encoder.session.fell_back) == ("cpu", True)
    assert "runs on cpu although cuda was asked for" in caplog.text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, dict[str, object]]]]:
    """The providers of each session, of an ONNX Runtime that claims all but runs on the CPU."""
    asked = []
    session = onnxruntime.InferenceSession

    def make(path: str, options: object, providers: Any) -> Any:
        asked.append(providers)
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    return asked


def test_tensorrt_keeps_its_engines_and_falls_back_as_told(
    bundle_path: Path, tmp_path: Path, asked: list[list[tuple[str, dict[str, object]]]]
) -> None:
    """What ONNX Runtime is asked for; no GPU ever ran it."""
    cache = tmp_path / "deep" / "cache"
    providers = configure(["tensorrt", "cuda", "cpu"], cache, fp16=True)
    decoder = Decoder(ModelBundle.load(bundle_path), providers)
    # Of the features and of the head.
    (tensorrt, cuda, cpu), again = asked
    assert again == [tensorrt, cuda, cpu]
    assert [name for name, _ in (tensorrt, cuda, cpu)] == list(PROVIDERS.values())
    assert tensorrt[1] == {
        "trt_fp16_enable": True,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(cache),
    }
    assert cache.is_dir()
    assert cuda[1] == cpu[1] == {}
    assert (decoder.networks.features.provider, decoder.networks.features.fell_back) == (
        "cpu",
        True,
    )
    assert configure(["tensorrt"]) == [("tensorrt", {"trt_fp16_enable": False})]


def test_an_engine_cache_that_cannot_be_made_is_named(
    bundle_path: Path, tmp_path: Path, asked: list[list[tuple[str, dict[str, object]]]]
) -> None:
    (tmp_path / "file").write_text("")
    providers = configure(["tensorrt", "cpu"], tmp_path / "file" / "cache")
    with pytest.raises(ProviderError, match=r"file/cache cannot be made: .*another folder"):
        Decoder(ModelBundle.load(bundle_path), providers)
    assert asked == []


def test_an_engine_is_warmed_up_for_the_smallest_and_the_largest_batch(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    warm_up = Session.warm_up

    def note(self: Session, *arrays: Any) -> None:
        sizes.append(np.shape(arrays[0])[0] if isinstance(arrays[0], np.ndarray) else 0)
        warm_up(self, *arrays)

    monkeypatch.setattr(Session, "warm_up", note)
    bundle = ModelBundle.load(bundle_path)
    bundle.session("features.onnx", ["cpu"], 1, batch=4)
    assert sizes == [1, 4]
    bundle.session("features.onnx", ["cpu"], 1, batch=1)
    assert sizes == [1, 4, 1]


def test_the_cpu_runs_the_8_bit_network_where_there_is_one(copy: Path, tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    packets = Encoder(ModelBundle.load(copy)).encode(frame)
    without = Decoder(ModelBundle.load(copy)).decode(packets).mask
    other = (write_tiny_bundle(tmp_path / "other", seed=1) / "features.onnx").read_bytes()
    (copy / "features.int8.onnx").write_bytes(other)
    files = yaml.safe_load((copy / "manifest.yaml").read_text())["files"]
    record = {"sha256": hashlib.sha256(other).hexdigest()}
    change(copy, files={**files, "features.int8.onnx": record})
    bundle = ModelBundle.load(copy)
    packets = Encoder(bundle).encode(frame)
    assert (Decoder(bundle).decode(packets).mask != without).any()
    (copy / "features.int8.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"features\.int8\.onnx"):
        ModelBundle.load(copy)


def test_sessions_are_shared_and_free_of_a_fixed_batch(bundle_path: Path) -> None:
    bundle = ModelBundle.load(bundle_path)
    assert Encoder(bundle).session is Encoder(bundle).session
    assert Encoder(bundle, threads=2).session is not Encoder(bundle).session
    model = onnx.load(bundle_path / "encoder.onnx")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_an_expert_may_take_frames_of_any_size(copy: Path) -> None:
    bundle = ModelBundle.load(copy)
    frame = np.random.default_rng(0).integers(0, 256, (160, 240, 3), np.uint8)
    scaled_down = Expert(bundle).segment(frame)
    path = bundle.expert_path()
    model = onnx.load(path)
    for value, sides in ((model.graph.input[0], (1, 2)), (model.graph.output[0], (2, 3))):
        for side in sides:
            value.type.tensor_type.shape.dim[side].Clear()
            value.type.tensor_type.shape.dim[side].dim_param = f"side{side}"
    onnx.save(model, path)
    expert = record(path)
    path.rename(path.with_name(f"{expert['sha256'][:16]}.onnx"))
    tasks = yaml.safe_load((copy / MANIFEST).read_text())["tasks"]
    tasks["semantic"]["expert"] = expert
    change(copy, tasks=tasks)
    mask = Expert(ModelBundle.load(copy)).segment(frame)
    assert mask.shape == (160, 240)
    # A frame is not scaled to the encoder's size first.
    assert (mask != scaled_down).any()
