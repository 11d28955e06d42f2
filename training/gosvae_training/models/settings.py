"""What a configuration says of networks: experts, encoders, decoders, and what is sent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, Tag, model_validator

from ..strict import Size, Strict, kind_or

# --- experts


class Fpn(Strict):
    """EfficientNet-Lite with a feature pyramid, trained here from ImageNet weights."""

    kind: Literal["fpn"] = "fpn"
    backbone: Literal["lite0", "lite2"] = "lite0"
    weights: str = ""
    """A checkpoint to start from, ``runs/<name>/expert/last.pt``."""


class EspNet(Strict):
    """ESPNet for Cityscapes (Mehta et al. 2018)."""

    kind: Literal["espnet"]
    weights: str
    """A safetensors file of its authors' weights."""
    p: PositiveInt = 2
    q: PositiveInt = 8


class Picture(Strict):
    """What a foreign network takes: ``(pixels - mean) / std``, pixels from 0 to `scale`.

    Networks that take uint8 get pixels as they are, in `order`.
    """

    order: Literal["rgb", "bgr"] = "rgb"
    scale: Literal[1, 255] = 255
    """What white is before the mean is taken off."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def _mean_and_std_fit_the_scale(self) -> Picture:
        small = max(map(abs, self.mean)) <= 1 and max(self.std) < 1
        given = f"mean {self.mean} and std {self.std}"
        if small and self.scale == 255:
            raise ValueError(f"{given} are of pixels from 0 to 1: add scale: 1")
        if self.scale == 1 and max(*self.mean, *self.std) > 1:
            raise ValueError(f"{given} are not of pixels from 0 to 1: leave scale out")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std}: each has to be above 0")
        return self


Channels = list[str] | str
"""Label name of each channel, empty for none; or a label space, by its name or as a YAML file."""


class Torch(Strict):
    """Any torch network from float (N, 3, H, W) to logits (N, channels, h, w)."""

    kind: Literal["torch"]
    factory: str
    """``module:function`` that returns it, weights and all."""
    channels: Channels
    picture: Picture = Picture()


class Onnx(Strict):
    """Any ONNX network from one picture to a map of classes.

    It takes (N, 3, H, W) or (N, H, W, 3) of float, float16 or uint8, and makes logits or
    probabilities, (N, channels, h, w) or (N, h, w, channels), or labels (N, h, w) or (N, 1, h, w).
    N may be 1, H and W may be fixed.
    """

    kind: Literal["onnx"]
    path: str
    channels: Channels
    picture: Picture = Picture()
    size: Size | None = None
    """At which frames are shown to it; without one, its own or, if that is free, the encoder's."""
    output: str = ""
    """Name of the output to read where several could be meant."""


_Experts = (
    Annotated[Fpn, Tag("fpn")]
    | Annotated[EspNet, Tag("espnet")]
    | Annotated[Torch, Tag("torch")]
    | Annotated[Onnx, Tag("onnx")]
)
Network = Annotated[_Experts, kind_or("fpn")]
"""Any expert of masks."""


class Detector(Strict):
    """Any ONNX detector from one picture to boxes; see :class:`.onnx_detector.OnnxDetector`.

    It takes (1, 3, H, W) of float, float16 or uint8, and makes (1, boxes, 5 + channels) as YOLOX or
    YOLOv5, (1, 4 + channels, boxes) as YOLOv8, or (1, boxes, 6) of corners, score and class.
    """

    kind: Literal["detector"]
    path: str
    channels: Channels
    picture: Picture | None = None
    """Without one, what detectors of its form take."""
    size: Size | None = None
    """At which frames are shown to it where it takes any; a square of 640 without one."""


class FurtherTask(Strict):
    """Masks or boxes of another label space, imitated from an expert of its own."""

    network: Annotated[_Experts | Annotated[Detector, Tag("detector")], kind_or("fpn")]
    labels: str
    """Label space: its name, or a YAML file of labels."""


# --- what is sent, and what is made of it


class Backbone(Strict):
    """Encoder that starts as the expert's backbone; a token for 16x16 pixels."""

    kind: Literal["backbone"] = "backbone"


class Convolutional(Strict):
    """Encoder of a VQ-VAE, from scratch."""

    kind: Literal["convolutional"]
    stride: Literal[4, 8, 16, 32]
    """Pixels from one token to the next."""
    width: PositiveInt = 64
    """Channels at stride 2; doubled twice on the way."""
    blocks: NonNegativeInt = 1


class Light(Strict):
    """Encoder of a light vehicle: the expert's first blocks on a smaller frame."""

    kind: Literal["light"]
    shrink: Literal[1, 2, 4] = 2
    """Pixels of a side that are averaged before the network."""
    blocks: PositiveInt
    """Of the expert's backbone that are kept."""
    stride: Literal[4, 8, 16, 32]
    """Pixels from one vector to the next; at least twice `shrink`."""
    width: PositiveInt
    """Channels of what joins the blocks' features."""
    start: str = ""
    """Folder of a bundle with such an encoder, whose weights it starts from."""


class Trunk(Strict):
    """Encoder that is a trained segmenter but for its classifier.

    It learns at ``backbone_learning_rate``.
    """

    kind: Literal["trunk"]
    stride: Literal[8, 16] = 16
    """Pixels from one token to the next."""
    labels: bool = False
    """Whether the label sender's labels are the first level of tokens; it then learns no more."""
    label_sender: Light | None = None
    """The network of a label sender, with a start or `weights`; without one, the expert's."""
    weights: str = ""
    """The label sender's checkpoint, ``runs/<name>/codec/last.pt``."""
    narrow: PositiveInt | None = None
    """Channels that its features are brought down to, before 16x16 pixels are joined."""
    width: PositiveInt = 256
    """Channels of what joins them."""

    @model_validator(mode="after")
    def _label_sender_has_weights(self) -> Trunk:
        sender = self.label_sender
        starts = bool(self.weights) + bool(sender and sender.start)
        if starts != (sender is not None):
            raise ValueError(
                "label_sender needs weights or a start, not both; without one it is the expert "
                "itself, and there are no weights"
            )
        if self.labels and self.label_sender is None:
            raise ValueError("labels: true needs a label_sender, whose labels they are")
        return self


class Masks(Strict):
    """Decoder straight to logits."""

    kind: Literal["masks"] = "masks"
    width: PositiveInt = 256
    blocks: NonNegativeInt = 6


class Pixels(Strict):
    """Decoder to a picture, which the expert then segments: the paper's way."""

    kind: Literal["pixels"]
    width: PositiveInt = 64
    """Channels at strides 1 and 2, a multiple of 8."""
    blocks: NonNegativeInt = 1


class Upper(Strict):
    """Decoder to the expert's features of strides 4 and 8, from which the expert goes on."""

    kind: Literal["upper"]
    width: PositiveInt = 96
    blocks: NonNegativeInt = 0
    """Context blocks at the stride of the tokens, before the features."""
    frozen: bool = False
    """Whether the expert's layers keep their weights, so that only what leads to them learns."""


class Tokens(Strict):
    """Token stream: residual levels of `codes` vectors with `dim` numbers each."""

    kind: Literal["tokens"] = "tokens"
    levels: PositiveInt
    codes: NonNegativeInt
    """0 sends the numbers themselves, 8 bits each: an autoencoder."""
    dim: PositiveInt
    encoder: Annotated[
        Annotated[Backbone, Tag("backbone")]
        | Annotated[Convolutional, Tag("convolutional")]
        | Annotated[Light, Tag("light")]
        | Annotated[Trunk, Tag("trunk")],
        kind_or("backbone"),
    ] = Backbone()
    decoder: Annotated[
        Annotated[Masks, Tag("masks")]
        | Annotated[Pixels, Tag("pixels")]
        | Annotated[Upper, Tag("upper")],
        kind_or("masks"),
    ] = Masks()


class LabelSender(Strict):
    """A light segmenter whose labels are the tokens: what tokens have to beat."""

    kind: Literal["label_sender"]
    encoder: Light


class Labels(Strict):
    """The expert's label map is sent, and a picture drawn from it, which the expert segments."""

    kind: Literal["labels"]
    width: PositiveInt = 96
    steps: PositiveInt = 8
    """Of the drawing."""
    guidance: float = Field(default=1.5, ge=1)
    """How often the difference that labels make to the drawing is counted."""
