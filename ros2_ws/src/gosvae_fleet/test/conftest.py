from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

VEHICLES = {"vehicles": {"v01": {}, "v02": {"cameras": ["front", "rear/left"]}}}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of certificates: of the servers, two vehicles, and one that nobody knows."""
    from gosvae_fleet.certificates import make_certificate

    path = tmp_path_factory.mktemp("certificates")
    make_certificate(path, "router", ["127.0.0.1", "localhost"])
    for name in ("backend", "v01", "v02", "v09"):
        make_certificate(path, name)
    return path


@pytest.fixture
def endpoint(folder: Path) -> Iterator[str]:
    """Return the endpoint of a router of two vehicles."""
    from gosvae_fleet import link, router
    from gosvae_fleet.certificates import check_credentials
    from gosvae_fleet.vehicles import parse_vehicles

    address = router.local_endpoint()
    fleet = parse_vehicles(VEHICLES).values()
    session = link.open_router(
        router.router_config(fleet, check_credentials(folder, "router"), [address])
    )
    yield address
    session.close()
