"""Frames to packets to masks: the GOS-VAE codec, free of ROS and of torch.

    bundle = ModelBundle.load("models/camvid-base")
    packets = Encoder(bundle).encode(frame)      # uint8 (H, W, 3) RGB -> list of Packet
    mask = Decoder(bundle).decode(packets).mask  # uint8 (H, W) label ids

One module stands for each stage, in this order: images, bundle and sessions, encoder, prior,
entropy and its kernels, packets, redundancy, reassembly, decoder, masks.
"""

from .bundle import ModelBundle
from .decoder import DecodedFrame, Decoder, Reconstructor, decode_together
from .encoder import Encoder
from .errors import (
    BundleError,
    FingerprintError,
    GosvaeError,
    ImageError,
    LabelError,
    MissingReferenceError,
    PacketError,
    ProviderError,
)
from .expert import Expert
from .labels import CAMVID, CITYSCAPES, UNLABELLED, Label, LabelSpace
from .packets import Header, Packet
from .reassembly import EncodedFrame, Reassembler

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "UNLABELLED",
    "BundleError",
    "DecodedFrame",
    "Decoder",
    "EncodedFrame",
    "Encoder",
    "Expert",
    "FingerprintError",
    "GosvaeError",
    "Header",
    "ImageError",
    "Label",
    "LabelError",
    "LabelSpace",
    "MissingReferenceError",
    "ModelBundle",
    "Packet",
    "PacketError",
    "ProviderError",
    "Reassembler",
    "Reconstructor",
    "decode_together",
]
