"""Markers that follow from what a test uses, and patience with slow machines."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How fast examples are made and run says more of the machine's other work than of the code.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")

STARTS_NODES = ("rclpy", "get_package_prefix", "DOMAINS")
"""Names in a module whose tests start nodes, or talk to some, over DDS."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need DDS, and skip those that need root where there is none."""
    for item in items:
        module = getattr(item, "module", None)
        if "pipeline" in getattr(item, "fixturenames", ()) or any(
            name in vars(module) for name in STARTS_NODES
        ):
            item.add_marker(pytest.mark.dds)
        if item.get_closest_marker("root") and (reason := missing_for_root()):
            item.add_marker(pytest.mark.skip(reason=reason))


def missing_for_root() -> str | None:
    """Return why links cannot be emulated here, None if they can."""
    from gosvae_tools.link.emulator import unavailable

    return unavailable()
