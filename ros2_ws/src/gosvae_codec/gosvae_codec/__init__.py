"""Frames to packets to masks, boxes and depths: the GOS-VAE codec, free of ROS and of torch.

    bundle = ModelBundle.load("models/road")
    packets = Encoder(bundle).encode(frame)      # uint8 (H, W, 3) RGB -> list of Packet
    mask = Decoder(bundle).decode(packets).mask  # uint8 (H, W) label ids

One module stands for each stage of a frame, in this order: images, encoder, entropy (with prior and
kernels), slices, packets, redundancy, sealing (with keys); then reassembly, unpacking, decoder,
tasks, masks. Manifest, bundle and sessions load the networks; sender, rate and congestion control
what a stream may send; exposure tells frames that show nothing.
"""

try:
    import cv2  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"gosvae_codec needs OpenCV, which cannot be imported ({error}): install "
        "gosvae_codec[cpu], gosvae_codec[gpu] or any other package of OpenCV"
    ) from error

from .bundle import ModelBundle
from .decoder import (
    DecodedFrame,
    Decoder,
    Networks,
    Reconstructor,
    decode_together,
    finish,
    run,
)
from .encoder import Candidate, Encoder
from .errors import (
    BundleError,
    FingerprintError,
    GosvaeError,
    ImageError,
    KeyFileError,
    LabelError,
    MissingReferenceError,
    PacketError,
    ProviderError,
    SealError,
)
from .expert import Expert
from .exposure import Exposure
from .images import ImageConverter
from .labels import CAMVID, CITYSCAPES, UNLABELLED, Label, LabelSpace
from .packets import Header, Packet
from .reassembly import EncodedFrame, Reassembler
from .tasks import DepthResult, DetectionResult, SemanticResult, Task
from .unpacking import UnpackedFrame, Unpacker

__version__ = "0.1.0"

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "UNLABELLED",
    "BundleError",
    "Candidate",
    "DecodedFrame",
    "Decoder",
    "DepthResult",
    "DetectionResult",
    "EncodedFrame",
    "Encoder",
    "Expert",
    "Exposure",
    "FingerprintError",
    "GosvaeError",
    "Header",
    "ImageConverter",
    "ImageError",
    "KeyFileError",
    "Label",
    "LabelError",
    "LabelSpace",
    "MissingReferenceError",
    "ModelBundle",
    "Networks",
    "Packet",
    "PacketError",
    "ProviderError",
    "Reassembler",
    "Reconstructor",
    "SealError",
    "SemanticResult",
    "Task",
    "UnpackedFrame",
    "Unpacker",
    "decode_together",
    "finish",
    "run",
]
