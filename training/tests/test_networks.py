"""One suite that every network passes, and what is particular to each."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file
from tiny import CHANNELS, PIXELS, SMALL, TinyExpert
from torch import Tensor, nn

from gosvae_codec import CAMVID, CITYSCAPES, UNLABELLED
from gosvae_training.bundle.graphs import (
    EncoderGraph,
    FeaturesGraph,
    PictureGraph,
    semantic_heads,
)
from gosvae_training.bundle.networks import share_expert
from gosvae_training.bundle.onnx_export import Inputs, infer, to_onnx, write_onnx
from gosvae_training.config import Config, load_config
from gosvae_training.models import settings as cfg
from gosvae_training.models.bit_cost import BitCost, count_costs
from gosvae_training.models.decoders import UpperDecoder
from gosvae_training.models.efficientnet import Conv, EfficientNetLite
from gosvae_training.models.encoders import PatchConv
from gosvae_training.models.espnet import EspNet
from gosvae_training.models.expert import Expert
from gosvae_training.models.experts import build_expert, features, frozen
from gosvae_training.models.flow import LabelFlow
from gosvae_training.models.pixels import Critic, PixelDecoder, to_frames
from gosvae_training.models.quantizers import Rounding
from gosvae_training.models.token_network import TokenNetwork, build_tokens
from gosvae_training.models.translate import Translate
from gosvae_training.objectives import Objective, TokenObjective, build_objective
from gosvae_training.strict import ConfigError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "experts"
OLD, NEW = (48, 64), (45, 61)
"""Height and width that all strides divide but 32, and that none does."""
SQUARE = (64, 64)
"""Height and width that all strides divide."""


def frames(size: tuple[int, int], count: int = 2) -> Tensor:
    return torch.randint(
        0, 256, (count, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


class Given(nn.Module):
    """An encoder the vectors of which are the frames."""

    stride = 1

    def forward(self, frames: Tensor) -> Tensor:
        return frames.permute(0, 3, 1, 2)


def test_a_token_is_kept_until_another_is_nearer_by_its_inertia() -> None:
    network = TokenNetwork(Given(), nn.Module(), nn.Identity())
    network.quantizer.codebooks = torch.tensor([[[0.0, 0, 0], [2, 0, 0]], [[0, 0, 0], [0, 1, 0]]])
    # Squared distances to the first level's codes: 0 and 4, 1 and 1, 1.69 and 0.49.
    vectors = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1.3, 0, 0]]).expand(1, 1, 3, 3)
    encoder = EncoderGraph(network, (1.3, 0.0))
    nothing = encoder.no_reference(vectors)
    assert encoder(vectors, nothing)[0, 0, 0].tolist() == [0, 0, 1]
    for earlier, kept in ((0, [0, 0, 0]), (1, [0, 1, 1])):
        reference = torch.full_like(nothing, earlier)
        tokens = encoder(vectors, reference)
        assert tokens[0, 0, 0].tolist() == kept
        # Without inertia, only what is as near.
        assert tokens[0, 1, 0].tolist() == [0, 0, 0]


class Contract:
    """What every network can do; a subclass builds it and says what it gives."""

    def build(self) -> nn.Module:
        raise NotImplementedError

    def call(self, network: nn.Module, size: tuple[int, int]) -> Tensor:
        raise NotImplementedError

    def check(self, result: Tensor, size: tuple[int, int]) -> None:
        raise NotImplementedError

    def graphs(self, network: nn.Module) -> list[tuple[nn.Module, Inputs]]:
        """Modules to export, each with an example of its inputs."""
        raise NotImplementedError

    @pytest.mark.parametrize("size", [OLD, NEW])
    def test_forward_and_odd_sizes(self, size: tuple[int, int]) -> None:
        network = self.build().eval()
        with torch.inference_mode():
            result = self.call(network, size)
        self.check(result, size)
        assert torch.isfinite(result).all()

    def test_gradients_reach_every_trained_parameter(self) -> None:
        network = self.build().train()
        self.call(network, OLD).float().square().mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None or not parameter.requires_grad, name

    def test_saved_and_loaded_it_is_the_same(self) -> None:
        network, other = self.build().eval(), self.build().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01)
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        with torch.inference_mode():
            assert torch.equal(self.call(network, OLD), self.call(other, OLD))

    def test_exports_with_free_batch(self) -> None:
        network = self.build().eval().requires_grad_(False)
        for graph, example in self.graphs(network):
            names = [f"taken_{index}" for index in range(len(example))]
            two, three = (tuple(torch.cat([x] * n) for x in example) for n in (2, 3))
            model = to_onnx(graph, two, (names, ["given"]))
            session = ort.InferenceSession(model.SerializeToString())
            for taken in (example, three):
                with torch.inference_mode():
                    wanted = graph(*taken).numpy()
                given = infer(session, taken)
                if wanted.dtype == np.float32:
                    np.testing.assert_allclose(given, wanted, atol=1e-2)
                else:
                    assert (np.abs(given.astype(int) - wanted) > 1).mean() < 0.01


class ExpertContract(Contract):
    stride = 4

    def call(self, network: nn.Module, size: tuple[int, int]) -> Tensor:
        return network(frames(size))

    def check(self, result: Tensor, size: tuple[int, int]) -> None:
        assert result.shape == (2, len(CAMVID), *(-(-side // self.stride) for side in size))

    def graphs(self, network: nn.Module) -> list[tuple[nn.Module, Inputs]]:
        return [(network, (frames(OLD, 1),))]


class TestFpnLite0(ExpertContract):
    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return Expert(len(CAMVID), width=16)


class TestFpnLite2(ExpertContract):
    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return Expert(len(CAMVID), width=16, variant="lite2")


class TestEspNet(ExpertContract):
    stride = 1

    @pytest.fixture(autouse=True)
    def weights(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        self.path = tmp_path / "espnet.safetensors"
        save_file(EspNet(20, 1, 1).state_dict(), self.path)

    def build(self) -> nn.Module:
        network = cfg.EspNet(kind="espnet", weights=str(self.path), p=1, q=1)
        return build_expert(network, CAMVID)

    def test_gradients_reach_every_trained_parameter(self) -> None:
        network = self.build().requires_grad_(False).eval()
        pixels = frames(OLD).float().requires_grad_()
        network(pixels).square().mean().backward()
        assert pixels.grad is not None and pixels.grad.abs().sum() > 0


class TestForeignTorch(ExpertContract):
    def build(self) -> nn.Module:
        return build_expert(
            cfg.Torch(kind="torch", factory="tiny:expert", channels=CHANNELS), CAMVID
        )

    def check(self, result: Tensor, size: tuple[int, int]) -> None:
        assert result.shape == (2, len(CAMVID), *(side // 4 for side in size))


class TokensContract(Contract):
    described: cfg.Tokens | cfg.LabelSender

    @property
    def codes(self) -> int:
        return getattr(self.described, "codes", 0)

    @property
    def draws(self) -> bool:
        return isinstance(getattr(self.described, "decoder", None), cfg.Pixels)

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        network = build_tokens(self.described, len(CAMVID), Expert(len(CAMVID), width=16))
        if self.codes:
            # Codes of their own, in place of those that k-means finds in the first batch.
            for layer in getattr(network.quantizer, "codes", network.quantizer).layers:
                book = layer._codebook
                book.initted.fill_(True)
                book.embed.copy_(torch.randn_like(book.embed))
                book.embed_avg.copy_(book.embed)
                book.cluster_size.fill_(1)
        return network

    def call(self, network: nn.Module, size: tuple[int, int]) -> Tensor:
        made, commitment, *_ = network(frames(size), True)
        return made + commitment

    def check(self, result: Tensor, size: tuple[int, int]) -> None:
        if self.draws:
            assert result.shape == (2, 3, *size)
        else:
            assert result.shape == (2, len(CAMVID), *(-(-side // 4) for side in size))

    def graphs(self, network: TokenNetwork) -> list[tuple[nn.Module, Inputs]]:
        if isinstance(network.quantizer, Rounding):
            return []
        encoder = EncoderGraph(network)
        taken = frames(OLD, 1), encoder.no_reference(frames(OLD, 1))
        tokens = encoder(*taken)
        features = FeaturesGraph(network, OLD)
        (head,) = semantic_heads(network, TinyFrames(), [len(CAMVID)])
        decode = [(features, (tokens,)), (head, (features(tokens),))]
        if self.draws:
            decode.append((PictureGraph(network, OLD), (tokens,)))
        return [(encoder, taken), *decode]

    def test_the_exported_encoder_gives_the_tokens_of_training(self) -> None:
        network = self.build().eval()
        if isinstance(network.quantizer, Rounding):
            return
        with torch.inference_mode():
            _, _, indices, _ = network(frames(NEW), True)
            encoder = EncoderGraph(network)
            own = encoder(frames(NEW), encoder.no_reference(frames(NEW)))
        assert torch.equal(own, indices.permute(0, 3, 1, 2).int())
        stride = network.encoder.stride
        assert own.shape[2:] == tuple(-(-side // stride) for side in NEW)


class TinyFrames(TinyExpert):
    def forward(self, frames: Tensor) -> Tensor:
        return super().forward(frames.permute(0, 3, 1, 2).float())


def tokens(**changes: object) -> cfg.Tokens:
    values = {"levels": 2, "codes": 16, "dim": 8, **changes}
    small = {"width": 16, "blocks": 1}
    values.setdefault("decoder", cfg.Masks(**small))
    return cfg.Tokens(**values)


def convolutional(stride: int) -> cfg.Convolutional:
    return cfg.Convolutional(kind="convolutional", stride=stride, width=8, blocks=1)


PIXEL_DECODER = cfg.Pixels(kind="pixels", width=8, blocks=1)


class TestMasksFromBackbone(TokensContract):
    described = tokens()


class TestMasksOfWhatTheExpertSees(TokensContract):
    described = tokens(encoder=cfg.Trunk(kind="trunk"))

    def test_training_leaves_its_statistics_as_they_are(self) -> None:
        network = self.build()
        trunk = network.encoder.segmenter
        before = {name: value.clone() for name, value in trunk.named_buffers()}
        self.call(network.train(), SQUARE).mean().backward()
        assert any(each.grad is not None for each in trunk.parameters())
        assert all(torch.equal(value, before[name]) for name, value in trunk.named_buffers())


class TestMasksAtStride4(TokensContract):
    described = tokens(encoder=convolutional(4))


class TestMasksAtStride32(TokensContract):
    described = tokens(encoder=convolutional(32))


class TestPixelsAtStride4(TokensContract):
    described = tokens(levels=1, encoder=convolutional(4), decoder=PIXEL_DECODER)


class TestPixelsAtStride32(TokensContract):
    described = tokens(encoder=convolutional(32), decoder=PIXEL_DECODER)


class TestAutoencoder(TokensContract):
    described = tokens(codes=0, encoder=convolutional(16), decoder=PIXEL_DECODER)


def light(stride: int, shrink: int = 2, blocks: int = 6) -> cfg.Light:
    return cfg.Light(kind="light", shrink=shrink, blocks=blocks, stride=stride, width=8)


class TestMasksOfWhatALabelSenderSees(TokensContract):
    more: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def weights(self, tmp_path: Path) -> None:
        labels = cfg.LabelSender(kind="label_sender", encoder=light(4))
        sender = build_tokens(labels, len(CAMVID), Expert(len(CAMVID), width=16))
        path = tmp_path / "last.pt"
        torch.save({"averaged": sender.state_dict()}, path)
        self.described = tokens(
            encoder=cfg.Trunk(
                kind="trunk",
                label_sender=light(4),
                weights=str(path),
                narrow=4,
                width=16,
                **self.more,
            )
        )


class TestLabelsBeforeWhatALabelSenderSees(TestMasksOfWhatALabelSenderSees):
    more: ClassVar[dict[str, Any]] = {"stride": 8, "labels": True}

    def test_codes_are_left_out_for_some_frames_in_training(self) -> None:
        quantizer = self.build().train().quantizer
        labels = torch.eye(len(CAMVID))[torch.arange(12) % len(CAMVID)].expand(200, -1, -1)
        made, indices, _ = quantizer(torch.cat([labels, torch.randn(200, 12, 8)], -1))
        assert torch.equal(made[..., : len(CAMVID)], labels)
        assert torch.equal(indices[..., 0], labels.argmax(-1))
        alone = (indices[..., 1] < 0).all(1)
        assert 60 < alone.sum() < 140
        assert (made[alone][..., len(CAMVID) :] == 0).all()
        assert (indices[~alone] >= 0).all() and made[~alone][..., len(CAMVID) :].abs().sum() > 0

    def test_labels_cost_bits_once_they_are_counted(self) -> None:
        encoder, taken = self.build().encoder, frames(SQUARE)
        # A network that has learned nothing makes labels of one class; now of all.
        with torch.no_grad():
            usual = encoder(taken)[:, : len(CAMVID)].mean((0, 2, 3))
            encoder.segmenter.classifier.bias -= usual
        plain = encoder(taken)[:, : len(CAMVID)]
        before = {name: each.clone() for name, each in encoder.segmenter.state_dict().items()}
        names = list(encoder.state_dict())
        encoder.weigh_bits(taken.split(1), 0.5)
        weighed = encoder(taken)[:, : len(CAMVID)].argmax(1)
        costs = count_costs(plain.argmax(1).numpy(), len(CAMVID))
        wanted = BitCost(costs, 0.5)(-2 * plain.permute(0, 2, 3, 1)).argmin(-1)
        assert torch.equal(weighed, wanted) and not torch.equal(weighed, plain.argmax(1))
        assert list(encoder.state_dict()) == names
        for name, each in encoder.segmenter.state_dict().items():
            assert torch.equal(each, before[name]), name


class TestLightTokens(TokensContract):
    described = tokens(encoder=light(8), decoder=cfg.Upper(kind="upper", width=8))


class TestLightTokensCoarserThanAnyBlock(TokensContract):
    described = tokens(encoder=light(16, blocks=1), decoder=cfg.Upper(kind="upper", width=8))


class TestLightLabels(TokensContract):
    described = cfg.LabelSender(kind="label_sender", encoder=light(4))


class TestLightLabelsOfAQuarterFrame(TokensContract):
    described = cfg.LabelSender(kind="label_sender", encoder=light(8, shrink=4, blocks=4))

    def check(self, result: Tensor, size: tuple[int, int]) -> None:
        assert result.shape == (2, len(CAMVID), *(-(-side // 8) for side in size))


class TestLabelFlow(Contract):
    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return LabelFlow(len(CAMVID), width=16, steps=2)

    def labels(self, size: tuple[int, int]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 11, (2, size[0] // 4, size[1] // 4), generator=generator)
        labels[:, 0] = UNLABELLED
        return labels

    def call(self, network: LabelFlow, size: tuple[int, int]) -> Tensor:
        if network.training:
            size = (size[0] // 8 * 8, size[1] // 8 * 8)
            flow, enlarged = network(frames(size), self.labels(size))
            assert enlarged.shape == (2, 3, *size)
            return flow + enlarged.mean()
        return network.draw(self.labels(size))

    def check(self, result: Tensor, size: tuple[int, int]) -> None:
        assert result.shape == (2, 3, *(side // 4 * 4 for side in size))

    def graphs(self, network: nn.Module) -> list[tuple[nn.Module, Inputs]]:
        return []  # a baseline for tables; it is in no bundle


# --- what is particular


def test_guidance_counts_what_labels_change_in_a_drawing() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 11, (1, 16, 24))
    network = LabelFlow(len(CAMVID), width=16, steps=1).eval()
    # What enlarges sees labels as well.
    network.enlarge = lambda small, labels: small
    blind = network.draw(torch.full_like(labels, UNLABELLED))
    drawn = {}
    for network.guidance in (1.0, 2.0):
        drawn[network.guidance] = network.draw(labels)
    once, twice = drawn[1.0] - blind, drawn[2.0] - blind
    torch.testing.assert_close(twice, 2 * once, rtol=1e-3, atol=1e-3)
    assert once.abs().max() > 1


@pytest.mark.parametrize("variant", ["lite0", "lite2"])
def test_features_halve_and_round_up_with_imagenet_weights(variant: str) -> None:
    network = EfficientNetLite(variant).eval()
    network.load_imagenet()
    for size in ((64, 96), (65, 77)):
        with torch.inference_mode():
            maps = network(torch.zeros(1, *size, 3, dtype=torch.uint8))
        for each, channels, stride in zip(maps, network.channels, (4, 8, 16, 32), strict=True):
            assert each.shape[1:] == (channels, *(-(-side // stride) for side in size))


@pytest.mark.parametrize(
    ("kernel", "stride", "groups", "trained_in"),
    [
        (3, 1, 4, torch.bfloat16),
        (5, 1, 4, torch.float32),
        (3, 2, 4, torch.float32),
        (5, 1, 1, torch.bfloat16),
    ],
)
def test_large_depthwise_filters_are_trained_in_float32(
    kernel: int, stride: int, groups: int, trained_in: torch.dtype
) -> None:
    layer = Conv(4, 4, kernel, stride, groups=groups)
    x = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        trained = layer(x)
        with torch.no_grad():
            used = layer(x)
    assert trained.dtype == trained_in
    assert used.dtype == torch.bfloat16
    torch.testing.assert_close(trained.float(), layer(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("size", [(40, 64), (61, 93)])
def test_what_lies_beyond_the_frame_does_not_shift_what_is_in_it(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    encoder = build_tokens(tokens(), 11).encoder.eval()
    frame = frames(size, 1)
    whole = torch.nn.functional.pad(
        frame.permute(0, 3, 1, 2).float(), (0, -size[1] % 32, 0, -size[0] % 32), mode="replicate"
    )
    whole = whole.permute(0, 2, 3, 1).to(torch.uint8)
    h, w = (-(-side // 16) for side in size)
    with torch.inference_mode():
        vectors = encoder(frame)
        torch.testing.assert_close(vectors, encoder(whole)[:, :, :h, :w])
    assert vectors.shape[2:] == (h, w)


def test_labels_are_the_greatest_logit_and_their_mask_is_theirs() -> None:
    torch.manual_seed(0)
    network = build_tokens(cfg.LabelSender(kind="label_sender", encoder=light(4)), 11).eval()
    with torch.inference_mode():
        logits = network(frames(NEW), quantize=False).made
        encoder = EncoderGraph(network)
        labels = encoder(frames(NEW), encoder.no_reference(frames(NEW)))
        mask = FeaturesGraph(network, NEW)(labels)
    assert torch.equal(labels[:, 0], logits.argmax(1).int())
    assert torch.equal(mask.argmax(1), logits.argmax(1))


def test_a_decoder_given_the_experts_features_makes_the_experts_logits() -> None:
    torch.manual_seed(0)
    expert = Expert(len(CAMVID), width=16).eval()
    decoder = UpperDecoder(8, expert, 8, 8).eval()
    with torch.inference_mode():
        stride4, stride8, *_ = expert.backbone(frames(SQUARE))
        coarser = decoder.expert.backbone.resume(stride8, 8)
        made = decoder.expert.decode([stride4, stride8, *coarser])
        torch.testing.assert_close(made, expert(frames(SQUARE)))


@pytest.mark.parametrize(("channels", "side"), [(16, 8), (24, 4), (16, 2)])
def test_patches_are_convolved_in_training_as_later(channels: int, side: int) -> None:
    torch.manual_seed(0)
    layer = PatchConv(channels, 32, side)
    x = torch.randn(2, channels, 16, 24)
    wanted = layer.eval()(x)
    torch.testing.assert_close(layer.train()(x), wanted, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), wanted, atol=0.05, rtol=0.05)


def test_an_encoder_finer_than_its_blocks_is_refused() -> None:
    described = cfg.LabelSender(kind="label_sender", encoder=light(4, shrink=4))
    with pytest.raises(ConfigError, match="stride 4 is finer than the finest, 8"):
        build_tokens(described, 11)


@pytest.mark.parametrize(
    "part", [{"encoder": cfg.Trunk(kind="trunk")}, {"decoder": cfg.Upper(kind="upper")}]
)
def test_parts_of_an_expert_need_one_with_a_backbone(part: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="needs an expert of kind fpn"):
        build_tokens(tokens(**part), 11, TinyFrames())


def test_the_papers_size_is_the_papers_10_kilobytes() -> None:
    for name in ("cityscapes-gosvae", "ade20k-gosvae"):
        config = load_config(Path(__file__).parents[1] / "configs" / f"{name}.yaml")
        each, (height, width) = config.tokens, config.input_size
        stride = each.encoder.stride
        bits = each.levels * (each.codes - 1).bit_length()
        assert (height // stride) * (width // stride) * bits / 8 == 10_240


def test_channels_that_become_one_class_add_their_probabilities() -> None:
    names = ["road", "car", "bus", "", ""]
    logits = torch.randn(1, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    given = Translate(names, CAMVID)(logits)
    car, road = (CAMVID.labels.index(CAMVID.by_name(name)) for name in ("car", "road"))
    share = logits.softmax(1)
    torch.testing.assert_close(given[:, car].exp(), share[:, 1] + share[:, 2])
    torch.testing.assert_close(given[:, road].exp(), share[:, 0])
    assert (
        given.argmax(1) == torch.where(share[:, 0] > share[:, 1] + share[:, 2], road, car)
    ).all()
    with pytest.raises(ConfigError, match="no labels of camvid"):
        Translate(["kennel"], CAMVID)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the weights of ../shared/data/experts are absent")
def test_espnets_own_weights_fit_and_see_a_road() -> None:
    path = SHARED / "espnet_p2_q8_cityscapes.safetensors"
    expert = frozen(cfg.EspNet(kind="espnet", weights=str(path)), CITYSCAPES)
    sample = SHARED.parent / "camvid" / "val"

    picture = cv2.cvtColor(cv2.imread(str(sorted(sample.glob("*.png"))[0])), cv2.COLOR_BGR2RGB)
    with torch.inference_mode():
        mask = expert(torch.from_numpy(picture)[None]).argmax(1)[0]
    # Sky above, road below.
    assert (mask[-60:, 180:300] == CITYSCAPES.by_name("road").id).float().mean() > 0.8
    assert CITYSCAPES.by_name("building").id in mask


def write_foreign(path: Path) -> None:
    """An ONNX network of an older operator set, with three channels."""
    network = nn.Sequential(nn.Conv2d(3, 3, 4, stride=4), nn.ReLU(), nn.Conv2d(3, 3, 1)).eval()
    model = to_onnx(network, (torch.zeros(2, 3, *OLD),), (["image"], ["scores"]))
    onnx.save(model, path)


def test_a_foreign_onnx_network_serves_and_is_exported(tmp_path: Path) -> None:
    write_foreign(tmp_path / "foreign.onnx")
    described = cfg.Onnx(
        kind="onnx", path=str(tmp_path / "foreign.onnx"), channels=["sky", "road", "truck"]
    )
    expert = frozen(described, CAMVID)
    example = frames(OLD, 1)
    logits = expert(example)
    assert logits.shape == (1, 11, 12, 16)
    path = tmp_path / "whole.onnx"
    write_onnx(expert, [(example,), (example,)], (["frames"], ["logits"]), path)
    session = ort.InferenceSession(str(path))
    batch = torch.cat([example] * 3)
    given = session.run(None, {"frames": batch.numpy()})[0]
    # Its weights are stored as float16.
    np.testing.assert_allclose(given, expert(batch).numpy(), atol=0.2)
    with pytest.raises(ConfigError, match="has no gradient"):
        expert(example.float().requires_grad_())


def test_an_expert_that_was_exported_here_is_shared_as_the_file_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    examples = [frames(OLD, 1), frames(OLD, 1)]
    ours = share_expert(Expert(11).eval(), "ours", examples, ["logits"], tmp_path)
    path = str(next((tmp_path / "experts").iterdir()))
    described = cfg.Onnx(kind="onnx", path=path, channels="camvid")
    again = share_expert(frozen(described, CAMVID), "ours", examples, ["logits"], tmp_path)
    assert again == ours and len(list((tmp_path / "experts").iterdir())) == 1
    # Channels in another order are other labels.
    names = [each.name for each in CAMVID.labels]
    other = cfg.Onnx(kind="onnx", path=path, channels=names[::-1])
    turned = share_expert(frozen(other, CAMVID), "other", examples, ["logits"], tmp_path)
    assert turned["sha256"] != ours["sha256"]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (cfg.Fpn(), "needs weights"),
        (cfg.Fpn(weights="nowhere.pt"), "weights nowhere.pt"),
        (cfg.EspNet(kind="espnet", weights="nowhere"), "weights nowhere"),
        (cfg.Onnx(kind="onnx", path="nowhere.onnx", channels=["road"]), "nowhere.onnx: not an"),
        (cfg.Torch(kind="torch", factory="nowhere:f", channels=["road"]), "factory 'nowhere:f'"),
        (cfg.Torch(kind="torch", factory="tiny:f", channels=["road"]), "no attribute 'f'"),
    ],
)
def test_experts_that_cannot_be_had_are_named(described: cfg.Network, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        frozen(described, CAMVID)


def objective(values: dict[str, object], expert: nn.Module | None = None) -> Objective:
    torch.manual_seed(0)
    config = Config.model_validate_json(json.dumps(values))
    expert = expert or build_expert(config.expert.network, CAMVID)
    return build_objective(config, CAMVID, expert, {}, torch.ones(11))


LOSSES = {
    "imitation": {"imitation": 1.0, "distillation": 0.0, "supervised": 0.0},
    "vqvae": {"imitation": 0.0, "distillation": 0.0, "supervised": 0.0, "pixels": 1.0},
    "vqgan": {"imitation": 0.0, "pixels": 1.0, "perceptual": 0.5, "adversarial": 0.1},
    "policy": {"imitation": 0.0, "pixels": 1.0, "policy": 1.0},
}


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_are_trained_by_each_loss(name: str) -> None:
    each = objective({**PIXELS, "losses": LOSSES[name]})
    target = torch.randint(0, 11, (2, *OLD), generator=torch.Generator().manual_seed(0))
    terms = each(frames(OLD), target, False)
    wanted = {key for key, weight in LOSSES[name].items() if weight}
    assert wanted | {"loss", "commitment", "perplexity", "codes_used"} <= set(terms)
    terms["loss"].backward()
    assert each.network.encoder.layers[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for guide in each.guides for p in guide.parameters())
    assert (each.critic is not None) == (name == "vqgan")
    if each.critic is not None:
        assert all(p.grad is not None for p in each.critic.parameters())
    logits = each.segment(each.network.eval(), frames(OLD))
    assert logits.shape[:2] == (2, 11)


def test_features_are_matched_with_a_fpn_only() -> None:
    values = {**PIXELS, "losses": {"imitation": 0.0, "features": 1.0}}
    target = torch.zeros(2, *OLD, dtype=torch.long)
    terms = objective(values, Expert(11, width=16))(frames(OLD), target, True)
    assert terms["features"] > 0
    with pytest.raises(ConfigError, match="needs an expert of kind fpn"):
        objective(values)(frames(OLD), target, True)
    assert len(features(Expert(11, width=16), frames(OLD))) == 4


def test_a_critic_gets_its_own_gradient_and_none_from_the_generator() -> None:
    torch.manual_seed(0)
    critic = Critic(8)
    real, made = (torch.rand(2, 3, 32, 32) * 255 for _ in range(2))
    made.requires_grad_()
    generator, hinge = critic.losses(real, made)
    generator.backward()
    assert made.grad.abs().sum() > 0 and all(p.grad is None for p in critic.parameters())
    made.grad = None
    hinge.backward()
    assert made.grad is None and all(p.grad is not None for p in critic.parameters())


def test_imitation_without_any_label_needs_none() -> None:
    each = objective(SMALL)
    terms = each(frames(OLD), torch.full((2, *OLD), UNLABELLED), False)
    assert terms["supervised"] == 0 and torch.isfinite(terms["loss"])
    assert isinstance(each, TokenObjective) and not each.reconstructs
    assert not isinstance(each.network.decoder, PixelDecoder)


def test_pictures_are_clipped() -> None:
    made = to_frames(torch.tensor([-5.0, 300.0])[None, :, None, None].expand(1, 2, 4, 4))
    assert made.shape == (1, 4, 4, 2) and made.min() == 0 and made.max() == 255
