"""Names of topics that follow from others."""

import pytest

from gosvae_common.topics import CAMERA_INFO, IMAGE, camera_info_topic


@pytest.mark.parametrize(
    ("image", "info"),
    [
        (f"front/left/{IMAGE}", f"front/left/{CAMERA_INFO}"),
        ("/cam/image_rect_color/compressed", "/cam/camera_info"),
        ("/image_raw", "/camera_info"),
        ("image", "camera_info"),
    ],
)
def test_camera_info_stands_beside_the_images(image: str, info: str) -> None:
    assert camera_info_topic(image) == info
