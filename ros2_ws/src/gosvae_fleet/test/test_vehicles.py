from __future__ import annotations

from pathlib import Path

import pytest

from gosvae_common.errors import UsageError
from gosvae_fleet import keys
from gosvae_fleet.vehicles import Vehicle, load_vehicles

SHIPPED = Path(__file__).resolve().parents[1] / "config" / "vehicles.yaml"


def test_file_that_ships() -> None:
    vehicles = load_vehicles(SHIPPED)
    assert vehicles["v01"] == Vehicle("v01", ("camera",))
    assert vehicles["v02"] == Vehicle("v02", ("front", "rear"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vehicles: [v01]", "expected `vehicles:`"),
        ("vehicles: {}", "no vehicles; give at least one"),
        ("vehicles: {v01: {}, v02: {}, v01: {}}", "v01 is there twice; give each vehicle a name"),
        ("vehicles: {router: {}}", "vehicle 'router'"),
        ("vehicles: {a/b: {}}", "vehicle 'a/b': give a letter"),
        ("vehicles: {1: {}}", "vehicle 1: give a letter"),
        ("vehicles: {v01: {speed: 1}}", "v01: unknown speed; there are cameras"),
        ("vehicles: {v01: {kbit_per_s: 0}}", "v01: kbit_per_s is 0; give a number over 0"),
        ("vehicles: {v01: {packets_per_s: x}}", "packets_per_s is 'x'; give a number over 0"),
        ("vehicles: {v01: {cameras: front}}", "cameras is 'front'; give a list"),
        ("vehicles: {v01: {cameras: [a, a/]}}", "give different, non-empty names"),
        ("vehicles: {v01: {cameras: ['a*']}}", "give different, non-empty names"),
        ("vehicles: {v01: 3}", "v01 is 3; give {cameras: [...]}"),
        ("vehicle: {v01: {}}", "expected `vehicles:`"),
        ("{vehicles: {v01: {}}, default: {}}", "unknown default; there are defaults, vehicles"),
        ("vehicles: {v01: [", "while parsing"),
    ],
)
def test_bad_file_has_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "vehicles.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_vehicles(path)
    assert str(caught.value).startswith(f"vehicles: {path}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(UsageError, match="No such file or directory; see docs"):
        load_vehicles(Path("/nowhere/vehicles.yaml"))


def test_keys_are_those_of_the_official_bridge() -> None:
    assert keys.packets_key("v01", "front") == "gosvae/v01/front/image_raw/gosvae"
    assert keys.feedback_key("v01", "front") == "gosvae/v01/front/image_raw/gosvae/feedback"
    assert keys.key("v01", "/robot/front/semantic/mask") == "gosvae/v01/robot/front/semantic/mask"
    assert keys.split_alive(keys.alive_key("v01", "af")) == ("v01", "af")
