"""Routers in this process, and what each certificate may do there."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

zenoh = pytest.importorskip("zenoh", reason="the extra uplink is not installed")

from gosvae_codec.packets import MAX_SERIALIZED_BYTES
from gosvae_fleet import keys, link, presence
from gosvae_fleet.certificates import check_credentials, make_certificate
from gosvae_fleet.router import local_endpoint

SECONDS = 20.0


class Sessions:
    """Sessions of one test."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint = folder, endpoint
        self._open: list[Any] = []

    def __call__(self, name: str) -> Any:
        session = link.open_client(self.endpoint, check_credentials(self.folder, name))
        self._open.append(session)
        return session

    def close(self) -> None:
        for session in self._open:
            session.close()


@pytest.fixture
def sessions(folder: Path, endpoint: str) -> Iterator[Sessions]:
    made = Sessions(folder, endpoint)
    yield made
    made.close()


def collect(session: Any, *key_exprs: str) -> list[tuple[str, str]]:
    got: list[tuple[str, str]] = []
    for each in key_exprs:
        session.declare_subscriber(
            each, lambda sample: got.append((str(sample.key_expr), sample.payload.to_string()))
        )
    return got


def wait(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


PACKETS = {
    "v01": keys.packets_key("v01", "camera"),
    "v02": keys.packets_key("v02", "rear/left"),
}
FEEDBACK = {
    "v01": keys.feedback_key("v01", "camera"),
    "v02": keys.feedback_key("v02", "rear/left"),
}


def test_vehicle_writes_and_reads_its_own_keys_only(sessions: Sessions) -> None:
    backend = sessions("backend")
    arrived = collect(backend, *PACKETS.values(), *FEEDBACK.values(), "gosvae/v01/x/semantic/mask")
    vehicles = {name: sessions(name) for name in ("v01", "v02", "v09")}
    heard = {
        name: collect(session, *PACKETS.values(), *FEEDBACK.values(), "gosvae/**")
        for name, session in vehicles.items()
    }
    publishers = {
        (name, target): link.token_publisher(session, PACKETS[target])
        for name, session in vehicles.items()
        for target in PACKETS
    }
    wait(lambda: all(link.has_listeners(publishers[name, name]) for name in PACKETS))
    for (name, _), publisher in publishers.items():
        publisher.put(f"from {name}")
    for name, session in vehicles.items():
        for key in (*PACKETS.values(), *FEEDBACK.values(), "gosvae/v01/x/semantic/mask"):
            session.put(key, f"put by {name}")
    for name, key in FEEDBACK.items():
        backend.put(key, f"for {name}")
    own = [(PACKETS[name], text) for name in PACKETS for text in (f"from {name}", f"put by {name}")]
    fed = [(FEEDBACK[name], f"for {name}") for name in FEEDBACK]
    wait(lambda: set(arrived) >= {*own, *fed} and heard["v01"] and heard["v02"])
    time.sleep(0.3)  # for what must not come
    assert sorted(arrived) == sorted(own + fed)
    # A vehicle also hears what it put itself, which never left its own session.
    others = {
        name: {(key, text) for key, text in messages if text != f"put by {name}"}
        - {(key, f"from {name}") for key in PACKETS.values()}
        for name, messages in heard.items()
    }
    assert others == {
        "v01": {(FEEDBACK["v01"], "for v01")},
        "v02": {(FEEDBACK["v02"], "for v02")},
        "v09": set(),
    }


def test_slices_of_a_frame_pass_together_and_larger_messages_do_not(sessions: Sessions) -> None:
    arrived = collect(sessions("backend"), PACKETS["v01"])
    publisher = link.token_publisher(sessions("v01"), PACKETS["v01"])
    wait(lambda: link.has_listeners(publisher))
    burst = [str(index) + "x" * (MAX_SERIALIZED_BYTES - 1) for index in range(8)]

    def passes() -> bool:
        """Send a burst; of best-effort messages some may be lost where the machine is busy."""
        arrived.clear()
        publisher.put("x" * (MAX_SERIALIZED_BYTES + 1))
        for text in burst:
            publisher.put(text)
        time.sleep(0.2)
        assert {text for _, text in arrived} <= set(burst)
        return len(arrived) == len(burst)

    wait(passes)


def test_name_taken_twice_is_said_once_on_both_sides(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TWICE_SECONDS", 0.2)
    lines: dict[str, list[str]] = {"backend": [], "v01": []}
    watch = [presence.Presence(sessions("backend"), log=lines["backend"].append)]
    first, second = sessions("v01"), sessions("v01")
    watch.append(presence.Presence(first, "v01", lines["v01"].append))
    tokens = [
        each.liveliness().declare_token(keys.alive_key("v01", str(each.info.zid())))
        for each in (first, second)
    ]
    wait(lambda: all(each.twice() == ["v01"] for each in watch))
    assert all(each.twice() == ["v01"] for each in watch)
    for said in lines.values():
        (line,) = said
        assert "vehicle v01 is connected 2 times" in line and "certificate of its own" in line
    tokens[1].undeclare()
    wait(lambda: all(each.twice() == [] for each in watch))
    assert watch[0].vehicles() == {"v01": 1}


def test_two_who_answer_a_camera_have_one_line_on_both_sides(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TWICE_SECONDS", 0.2)
    lines: dict[str, list[str]] = {}
    sides: dict[str, Any] = {}
    for name in ("gateway", "downlink"):
        lines[name] = []
        sides[name] = presence.Answering(sessions("backend"), name, lines[name].append)
    # Different cameras of one vehicle are no conflict.
    sides["gateway"].answer([("v02", "front"), ("v02", "rear/left")])
    sides["downlink"].answer([("v01", "camera")])
    time.sleep(0.5)
    assert all(each.twice() == [] for each in sides.values())
    sides["downlink"].answer([("v02", "front"), ("v02", "rear/left")])
    wait(lambda: all(each.twice() == ["v02/front", "v02/rear/left"] for each in sides.values()))
    for said in lines.values():
        (line,) = said
        assert line.startswith("v02/front and 1 more cameras: answered by downlink-")
        assert " and by gateway-" in line and "let one of them" in line
    sides["downlink"].answer([("v02", "rear/left")])
    wait(lambda: all(each.twice() == ["v02/rear/left"] for each in sides.values()))
    assert all(len(said) == 1 for said in lines.values())
    # A vehicle does not see who answers, and cannot say that it does.
    tokens = sessions("v02").liveliness()
    forged = tokens.declare_token(keys.answered_key("v02", "front", "vehicle"))
    seen = list(tokens.get(keys.answered_key("*", "**")))
    assert all("vehicle" in str(each.ok.key_expr) for each in seen if each.ok)
    assert sides["gateway"].twice() == ["v02/rear/left"]
    del forged


def test_session_that_ends_is_gone(sessions: Sessions) -> None:
    watch = presence.Presence(sessions("backend"))
    vehicle = sessions("v02")
    token = vehicle.liveliness().declare_token(keys.alive_key("v02", str(vehicle.info.zid())))
    wait(lambda: watch.vehicles() == {"v02": 1})
    vehicle.close()
    wait(lambda: watch.vehicles() == {})
    del token


@pytest.mark.slow
def test_certificate_of_another_authority_is_refused_in_one_line(
    folder: Path, endpoint: str, tmp_path: Path
) -> None:
    make_certificate(tmp_path, "v01")
    # A vehicle whose own files fit each other, and one that was given the right authority.
    for authority in (tmp_path / "authority.pem", folder / "authority.pem"):
        forged = check_credentials(tmp_path, "v01")._replace(authority=authority)
        with pytest.raises(link.LinkError, match=r"or it refuses .*v01\.pem") as caught:
            link.open_client(endpoint, forged)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_expired_certificate_is_refused_by_the_router_and_both_tell(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("authority.pem", "authority.key"):
        shutil.copy(folder / name, tmp_path)
    make_certificate(tmp_path, "v01", days=-1.0)
    fresh = check_credentials(folder, "v01")
    old = fresh._replace(certificate=tmp_path / "v01.pem", key=tmp_path / "v01.key")
    vehicles, endpoint = tmp_path / "vehicles.yaml", local_endpoint()
    vehicles.write_text("vehicles: {v01: {}}")
    command = ["gosvae", "router", "--vehicles", vehicles, "--certificates", folder]
    process = subprocess.Popen(
        [*command, "--listen", endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None and "listening at" in process.stderr.readline()
        with pytest.raises(link.LinkError, match=r"or it refuses .*v01\.pem"):
            link.open_client(endpoint, old)
        link.open_client(endpoint, fresh).close()
    finally:
        process.terminate()
        said, _ = process.communicate()
    assert "invalid peer certificate: certificate expired" in said


def test_port_that_is_taken_has_one_line(folder: Path, endpoint: str) -> None:
    from gosvae_fleet.router import router_config

    config = router_config([], check_credentials(folder, "router"), [endpoint])
    with pytest.raises(link.LinkError, match=r"router at quic/127\.0\.0\.1:") as caught:
        link.open_router(config)
    assert "\n" not in str(caught.value)
