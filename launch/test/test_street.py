"""The drawn drive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import WriterError

from gosvae_bringup.sources import EPOCH, open_source
from gosvae_bringup.street import RATE, draw, write_bag


def test_frames_follow_from_seed_and_index_alone() -> None:
    image, label = draw(3, 40, (90, 120))
    assert image.shape == (90, 120, 3) and label.shape == (90, 120)
    assert image.dtype == label.dtype == np.uint8
    draw(4, 0, (90, 120))
    again = draw(3, 40, (90, 120))
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    assert np.any(draw(3, 41, (90, 120))[1] != label)
    assert np.any(draw(4, 40, (90, 120))[1] != label)


def test_it_looks_like_a_street() -> None:
    labels = np.stack([draw(1, index, (180, 240))[1] for index in range(0, 150, 15)])
    share = np.bincount(labels.reshape(-1), minlength=256) / labels.size
    road, sidewalk, building, pole, vegetation, sky, person, car = share[
        [0, 1, 2, 5, 8, 10, 11, 13]
    ]
    assert road > 0.2 and building > 0.1 and sky > 0.05 and vegetation > 0.02 and car > 0.01
    assert min(sidewalk, pole, person) > 0.001
    assert set(np.unique(labels)) <= {0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 13}
    assert np.all(labels[:, -1, 120] == 0), "the camera drives on the road"
    assert np.all(labels[:, 0, 120] == 10), "under the sky"


def test_bag_plays_as_drawn(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", seconds=0.4, size=(60, 80), seed=5, camera="front")
    source = open_source(tmp_path / "bag", ["front"])
    assert source.transport == {"front": "compressed"} and len(source) == 6
    for index, frame in enumerate(source.frames()):
        image, label = draw(5, index, (60, 80))
        assert frame.stamp == EPOCH + round(index * 1e9 / RATE)
        assert np.abs(frame.image.astype(int) - image).mean() < 8
        np.testing.assert_array_equal(frame.label, label)
    with pytest.raises(WriterError):
        write_bag(tmp_path / "bag")
