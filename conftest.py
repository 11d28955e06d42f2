"""Markers that follow from what a test uses."""

from __future__ import annotations

import pytest

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
