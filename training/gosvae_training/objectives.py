"""What a run minimises: a network, the frozen ones that it learns from, and its losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gosvae_codec.labels import LabelSpace

from .config import Config, Losses
from .losses import (
    box_loss,
    frame_miou,
    imitation_loss,
    imitation_losses,
    label_losses,
    segmentation_loss,
    unexplained_variance,
)
from .models.decoders import UpperDecoder
from .models.efficientnet import EfficientNetLite
from .models.encoders import TrunkEncoder
from .models.experts import features
from .models.flow import LabelFlow
from .models.perceptual import PERCEPTUAL
from .models.pixels import Critic, PixelDecoder, to_frames
from .models.quantizers import nearest_codes
from .models.settings import Labels
from .models.token_network import TokenNetwork, build_tokens
from .models.token_network import resize_logits as resize
from .rate import INTRA, TrainingPrior, moved


class Objective(nn.Module):
    """A network in training; called with a batch it gives the terms of its loss.

    ``forward(frames, target, warming_up)`` takes frames (N, H, W, 3) and targets int64 (N, H, W),
    channel index or 255, and returns terms by name: ``loss`` is minimised, the others are shown.
    With logits (N, classes, h, w) of the expert behind these, it need not ask the expert.
    """

    def __init__(self, network: nn.Module) -> None:
        """Keep what is trained, averaged and exported."""
        super().__init__()
        self.network = network
        self.critic: nn.Module | None = None
        self.prior: nn.Module | None = None

    @property
    def companions(self) -> dict[str, nn.Module]:
        """What is trained beside the network, and of no use after it."""
        named = {"critic": self.critic, "prior": self.prior}
        return {name: module for name, module in named.items() if module is not None}

    @property
    def backbone(self) -> EfficientNetLite | None:
        """The pretrained part the beginning of which may be frozen."""
        raise NotImplementedError

    @property
    def pretrained(self) -> list[nn.Module]:
        """All parts that learn at the backbone's rate."""
        return [] if self.backbone is None else [self.backbone]

    def segment(self, network: nn.Module, frames: Tensor) -> Tensor:
        """Return the logits of frames with `network` (this one or its average) in use."""
        raise NotImplementedError


class ExpertObjective(Objective):
    """An expert against the labels."""

    def __init__(self, network: nn.Module, class_weights: Tensor) -> None:
        super().__init__(network)
        self.register_buffer("class_weights", class_weights, persistent=False)

    @property
    def backbone(self) -> EfficientNetLite | None:
        return getattr(self.network, "backbone", None)

    def forward(self, frames: Tensor, target: Tensor, warming_up: bool) -> dict[str, Tensor]:
        logits = self.network(frames)
        return segmentation_loss(resize(logits, target.shape[1:]), target, self.class_weights)

    def segment(self, network: nn.Module, frames: Tensor) -> Tensor:
        return network(frames)


class _Likeness(nn.Module):
    """How pictures differ from frames, by the terms that have a weight."""

    def __init__(self, losses: Losses) -> None:
        super().__init__()
        self._pixels = bool(losses.pixels)
        self.perceptual = PERCEPTUAL[losses.perceptual_network]() if losses.perceptual else None

    def forward(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Compare float (N, 3, H, W) of any range with (N, H, W, 3), 0 to 255."""
        terms = {}
        if self._pixels:
            # Not clipped: what overshoots has to find back.
            terms["pixels"] = (made.float().permute(0, 2, 3, 1) - real).abs().mean() / 255
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(to_frames(made), real)
        return terms


class TokenObjective(Objective):
    """Tokens whose masks, or pictures as the guides see them, are to be as the guides' are."""

    def __init__(
        self,
        network: TokenNetwork,
        guides: Sequence[nn.Module],
        losses: Losses,
        class_weights: Tensor,
        classes: Sequence[int],
    ) -> None:
        """Keep what is trained, and what it learns from; `classes` are those of each mask."""
        super().__init__(network)
        self.classes = tuple(classes)
        self.guides = nn.ModuleList(guides).requires_grad_(False).eval()
        self.losses = losses
        self.reconstructs = isinstance(network.decoder, PixelDecoder)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.likeness = _Likeness(losses)
        if losses.adversarial:
            self.critic = Critic()
        if losses.rate:
            levels, codes, _ = network.codebooks().shape
            self.prior = TrainingPrior(levels, codes)

    @property
    def backbone(self) -> EfficientNetLite | None:
        return getattr(self.network.encoder, "backbone", None)

    @property
    def pretrained(self) -> list[nn.Module]:
        decoder = self.network.decoder
        upper = [decoder.expert] if isinstance(decoder, UpperDecoder) else []
        encoder = self.network.encoder
        trunk = [encoder.segmenter] if isinstance(encoder, TrunkEncoder) else []
        return super().pretrained + trunk + upper

    def segment(self, network: nn.Module, frames: Tensor) -> Tensor:
        made = network(frames).made
        return self.guides[0](to_frames(made)) if self.reconstructs else made

    def forward(
        self, frames: Tensor, target: Tensor, warming_up: bool, taught: Tensor | None = None
    ) -> dict[str, Tensor]:
        weights = self.losses
        if weights.features and not self.reconstructs:
            received, commitment, indices, vectors = self.network.transmit(frames, not warming_up)
            terms = self._feature_terms(frames, target, received)
        else:
            made, commitment, indices, vectors = self.network(frames, quantize=not warming_up)
            terms = self._output_terms(frames, target, made, taught)
        if self.reconstructs:
            terms |= self._picture_terms(frames, target, made)
        loss = sum(getattr(weights, name) * value for name, value in terms.items()) + commitment
        terms["commitment"] = commitment
        if self.critic is not None and not warming_up:
            real = frames.permute(0, 3, 1, 2).float()
            terms["adversarial"], terms["critic"] = self.critic.losses(real, made.float())
            loss = loss + weights.adversarial * terms["adversarial"] + terms["critic"]
        if self.prior is not None and not warming_up:
            bits = self.prior(vectors, self.network.codebooks(), indices, self._before(frames))
            for level, (each, weight) in enumerate(zip(bits, weights.rate, strict=False), 1):
                terms[f"bits_{level}"] = each
                loss = loss + weight * each
        return {"loss": loss, **terms, **usage(indices, self.network)}

    def _output_terms(
        self, frames: Tensor, target: Tensor, made: Tensor, taught: Tensor | None
    ) -> dict[str, Tensor]:
        """Return how logits, or guides' logits of pictures, differ from the guides' and labels."""
        weights, size = self.losses, target.shape[1:]
        terms: dict[str, Tensor] = {}
        if taught is not None:
            masks = sum(self.classes)
            ours, theirs = resize(made[:, :masks], taught.shape[2:]), taught[:, :masks].float()
            if masks < made.shape[1]:
                terms["boxes"] = box_loss(made[:, masks:], taught[:, masks:])
            terms |= imitation_losses(ours, theirs, self.classes)
            if weights.expert_labels:
                terms["expert_labels"] = label_losses(ours, theirs, self.classes)
            if weights.supervised:
                ours = resize(made, size)
                terms["supervised"] = segmentation_loss(ours, target, self.class_weights)["loss"]
        # A network that only rebuilds pixels does not ask the guides.
        elif weights.imitation or weights.distillation or weights.supervised:
            seen = to_frames(made) if self.reconstructs else None
            for index, guide in enumerate(self.guides):
                with torch.no_grad():
                    theirs = resize(guide(frames), size)
                ours = resize(made if seen is None else guide(seen), size)
                each = imitation_loss(ours, theirs)
                if index == 0 and weights.supervised:
                    supervised = segmentation_loss(ours, target, self.class_weights)["loss"]
                    each["supervised"] = supervised * len(self.guides)
                for name, value in each.items():
                    terms[name] = terms.get(name, 0) + value / len(self.guides)
        return terms

    def _feature_terms(self, frames: Tensor, target: Tensor, received: Tensor) -> dict[str, Tensor]:
        """Return how the receiver's features and logits differ from the expert's own.

        Sides of the frames divide by 32, as those of crops do, so that both lie alike.
        """
        decoder, expert = self.network.decoder, self.guides[0]
        with torch.no_grad():
            wanted = expert.backbone(frames)
            logits = expert.decode(wanted).float()
        made = decoder.features(received)
        ours = decoder.expert.decode(made)
        terms = {"features": unexplained_variance(made, wanted), **imitation_loss(ours, logits)}
        if self.losses.supervised:
            ours = resize(ours, target.shape[1:])
            terms["supervised"] = segmentation_loss(ours, target, self.class_weights)["loss"]
        return terms

    @torch.no_grad()
    def _before(self, frames: Tensor) -> Tensor:
        """Return the tokens of a moment before, int64 (N, h, w, levels); -1 for some frames."""
        tokens = nearest_codes(self.network.encoder(moved(frames)), self.network.codebooks())
        alone = torch.rand(len(frames), 1, 1, 1, device=frames.device) < INTRA
        return torch.where(alone, -1, tokens)

    def _picture_terms(self, frames: Tensor, target: Tensor, made: Tensor) -> dict[str, Tensor]:
        weights, seen, real = self.losses, to_frames(made), frames.float()
        terms = self.likeness(made, real)
        if weights.features:
            with torch.no_grad():
                wanted = features(self.guides[0], real)
            pairs = zip(features(self.guides[0], seen), wanted, strict=True)
            terms["features"] = sum((a - b).abs().sum(1).mean() for a, b in pairs)
        if weights.policy:
            terms["policy"] = self._policy(frames, target, seen)
        return terms

    def _policy(self, frames: Tensor, target: Tensor, seen: Tensor) -> Tensor:
        """REINFORCE on the first level's tokens (Williams 1992), the nearest codes as baseline.

        Codes are drawn with probability exp(-distance squared); both choices are rewarded with
        the first guide's mIoU on the picture, frame by frame (self-critical, Rennie et al. 2017).
        """
        vectors = self.network.encoder(frames).float()
        codes = self.network.codebooks()[0]
        distances = torch.cdist(vectors.flatten(2).mT, codes.expand(len(vectors), -1, -1))
        chances = torch.distributions.Categorical(logits=-distances.square())
        drawn = chances.sample()
        with torch.no_grad():
            picture = self.network.decoder(codes[drawn].mT.unflatten(2, vectors.shape[2:]))
            picture = to_frames(picture[:, :, : frames.shape[1], : frames.shape[2]])
            size = target.shape[1:]
            reward, baseline = (
                frame_miou(resize(self.guides[0](each), size), target) for each in (picture, seen)
            )
        return -((reward - baseline) * chances.log_prob(drawn).mean(1)).mean()


class LabelObjective(Objective):
    """A drawer of pictures from an expert's label maps.

    What enlarges them is trained as pictures of tokens are: by pixels and a perceptual distance.
    """

    def __init__(self, network: LabelFlow, expert: nn.Module, losses: Losses) -> None:
        super().__init__(network)
        self.expert = expert.requires_grad_(False).eval()
        self.losses, self.likeness = losses, _Likeness(losses)

    @property
    def backbone(self) -> EfficientNetLite | None:
        return None

    def labels(self, frames: Tensor) -> Tensor:
        """Return what is sent: the expert's labels at a quarter of the frame, (N, H/4, W/4)."""
        size = [side // 4 for side in frames.shape[1:3]]
        with torch.no_grad():
            return resize(self.expert(frames), size).argmax(1)

    def forward(self, frames: Tensor, target: Tensor, warming_up: bool) -> dict[str, Tensor]:
        flow, enlarged = self.network(frames, self.labels(frames))
        terms = self.likeness(enlarged, frames.float())
        loss = flow + sum(getattr(self.losses, name) * value for name, value in terms.items())
        return {"loss": loss, "flow": flow, **terms}

    def segment(self, network: nn.Module, frames: Tensor) -> Tensor:
        return self.expert(to_frames(network.draw(self.labels(frames))))


@torch.no_grad()
def usage(indices: Tensor, network: TokenNetwork) -> dict[str, Tensor]:
    """Return codes used and perplexity of the first level in a batch of indices, as floats."""
    if not indices.numel():
        return {}
    first = indices[..., 0].flatten()
    share = torch.bincount(first, minlength=network.codebooks().shape[1]) / len(first)
    perplexity = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
    return {"codes_used": (share > 0).sum().float(), "perplexity": perplexity}


def build_objective(
    config: Config,
    labels: LabelSpace,
    expert: nn.Module,
    guides: Mapping[str, nn.Module],
    class_weights: Tensor,
) -> Objective:
    """Return what ``config.tokens`` and ``config.losses`` describe, to be trained.

    Args:
        config: the configuration.
        labels: its label space.
        expert: the trained expert.
        guides: further frozen experts.
        class_weights: (classes,).
    """
    if isinstance(config.tokens, Labels):
        sent = config.tokens
        flow = LabelFlow(len(labels), sent.width, sent.steps, sent.guidance)
        return LabelObjective(flow, expert, config.losses)
    classes = [len(space) for space in config.spaces()]
    boxes = sum(map(len, config.detected()))
    network = build_tokens(config.tokens, sum(classes), expert, config.codec, boxes)
    experts = [expert, *guides.values()]
    return TokenObjective(network, experts, config.losses, class_weights, classes)
