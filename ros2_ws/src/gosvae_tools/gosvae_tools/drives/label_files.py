"""Label images of data sets: indices, palettes or colours become train ids."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np

from gosvae_codec.errors import ImageError
from gosvae_codec.labels import (
    CITYSCAPES,
    UNLABELLED,
    camvid_to_train_ids,
    cityscapes_to_train_ids,
)

from .source import Pixels

_CAMVID_COLORS = """
Animal 408040 person, Archway c00080 building, Bicyclist 0080c0 rider, Bridge 008040 building,
Building 800000 building, Car 400080 car, CartLuggagePram 4000c0 person, Child c08040 person,
Column_Pole c0c080 pole, Fence 404080 fence, LaneMkgsDriv 8000c0 road, LaneMkgsNonDriv c00040 road,
Misc_Text 808040 traffic_sign, MotorcycleScooter c000c0 rider, OtherMoving 804040 car,
ParkingBlock 40c080 sidewalk, Pedestrian 404000 person, Road 804080 road,
RoadShoulder 8080c0 sidewalk, Sidewalk 0000c0 sidewalk, SignSymbol c08080 traffic_sign,
Sky 808080 sky, SUVPickupTruck 4080c0 car, TrafficCone 000040 pole,
TrafficLight 004040 traffic_sign, Train c04080 car, Tree 808000 vegetation,
Truck_Bus c080c0 car, Tunnel 400040 building, VegetationMisc c0c000 vegetation, Void 000000 -,
Wall 40c000 building
"""
"""CamVid's 32 classes in the order of their indices, their colours (Brostow et al. 2009), and the
one of 11 classes that SegNet puts each into (Badrinarayanan et al. 2017), by Cityscapes' name."""

_CAMVID_CLASSES = 32
_STRANGE_SHARE = 0.01
"""Share of pixels that may have other colours than CamVid's."""


def read_label(path: Path) -> Pixels:
    """Return a label file's train ids, uint8 (H, W).

    Its name tells what its values are: ``*TrainIds`` as they are, ``*labelIds`` Cityscapes' ids,
    ``*_P`` indices of CamVid's 32 classes, any other SegNet's 11 classes of CamVid; images in
    colour are CamVid's.

    Raises:
        ImageError: it does not decode, or is no image of labels.
    """
    values = read_values(path)
    stem = path.stem.lower()
    if values.ndim == 3:
        return _from_colors(values)
    if stem.endswith("trainids"):
        return values
    if stem.endswith("labelids"):
        return np.asarray(cityscapes_to_train_ids()[values], np.uint8)
    table = _camvid_classes()[1] if stem.endswith("_p") else camvid_to_train_ids()
    return np.asarray(table[values], np.uint8)


def read_values(path: Path) -> Pixels:
    """Return what a label file holds: indices, uint8 (H, W), or colours, uint8 (H, W, 3) RGB.

    Raises:
        ImageError: it does not decode, or is no image of labels.
    """
    # The colour type is behind the size and the bit depth in a PNG's header; 3 is a palette, which
    # OpenCV turns into colours.
    with path.open("rb") as file:
        header = file.read(26)
        if header.startswith(b"\x89PNG") and header[25:] == b"\x03":
            file.seek(0)
            return _palette_indices(file)
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ImageError("it does not decode as an image")
    if values.dtype != np.uint8:
        raise ImageError(f"it has {8 * values.itemsize} bits a channel; labels have 8")
    if values.ndim == 3 and values.shape[2] >= 3:
        rgb = np.asarray(values[..., 2::-1], np.uint8)
        gray = bool(np.all(rgb == rgb[..., :1]))
        # Some tools save indices as three equal channels.
        is_index = gray and rgb.max(initial=0) < _CAMVID_CLASSES and not path.stem.endswith("_L")
        return rgb[..., 0] if is_index else rgb
    if values.ndim != 2:
        raise ImageError(f"it has {values.shape[2]} channels; labels have 1, or 3 in colour")
    return np.asarray(values, np.uint8)


def _palette_indices(file: object) -> Pixels:
    try:
        with av.open(file, mode="r", format="png_pipe") as container:
            indices, _ = next(container.decode(video=0)).to_ndarray()
    except (av.error.FFmpegError, StopIteration) as error:
        raise ImageError(f"it does not decode as a PNG with a palette: {error}") from error
    return np.ascontiguousarray(indices, np.uint8)


@cache
def _camvid_classes() -> tuple[dict[int, int], Pixels]:
    """Return CamVid's train ids by colour as 24 bits, and by index, uint8 (256,)."""
    colors: dict[int, int] = {}
    table = np.full(256, UNLABELLED, np.uint8)
    for index, entry in enumerate(" ".join(_CAMVID_COLORS.split()).split(", ")):
        _, color, name = entry.split(" ")
        train_id = UNLABELLED if name == "-" else CITYSCAPES.by_name(name.replace("_", " ")).id
        colors[int(color, 16)] = table[index] = train_id
    return colors, table


def _from_colors(rgb: Pixels) -> Pixels:
    codes = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    ids = np.full(codes.shape, UNLABELLED, np.uint8)
    known = np.zeros(codes.shape, bool)
    for color, train_id in _camvid_classes()[0].items():
        here = codes == color
        known |= here
        ids[here] = train_id
    if np.mean(~known) > _STRANGE_SHARE:
        raise ImageError(
            f"{np.mean(~known):.0%} of its pixels have colours that CamVid's labels do not have; "
            "labels come as indices in one channel, or in CamVid's colours"
        )
    return ids
