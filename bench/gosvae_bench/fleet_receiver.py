"""What a fleet's service is compared with: one receiver, with the same packets on the same cores.

The fair comparison is the receiver behind `gosvae downlink`: vehicles, router and certificates are
the service's. The receiver over DDS alone has none of them, and shows what the link costs.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Thread

import rclpy
from sensor_msgs.msg import Image

from gosvae_bringup.pipeline import Node, describe
from gosvae_bringup.processes import Processes
from gosvae_common.process import ros_context, spinning
from gosvae_common.qos import qos_profile
from gosvae_fleet import keys
from gosvae_fleet.demo import Fleet
from gosvae_fleet.simulation import CAMERA

from .fleet_trials import Trials
from .system_nodes import environment, private_network, python_of


class DdsFleet(Fleet):
    """A fleet whose packets are ROS topics; nobody uses its router."""

    def simulate(self, names: Sequence[str], rate: float, *options: str) -> None:
        """See :class:`Fleet`; packets are encoded before in any case."""
        command = [*python_of("fleet_vehicles"), "--vehicles", ",".join(names)]
        command += ["--rate", str(rate), *(each for each in options if each != "--recorded")]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True
        )
        assert process.stdout is not None
        self.processes.append(process)
        Thread(target=self._read, args=[process.stdout], daemon=True).start()


class ReceiverTrials(Trials):
    """Trials of one receiver of the cameras of all vehicles, with its usual parameters."""

    def __init__(
        self, folder: Path, bundle: Path, names: Sequence[str], threads: int, uplinks: bool
    ) -> None:
        """Start it.

        Args:
            folder: for certificates and logs.
            bundle: whose masks it makes.
            names: of the vehicles.
            threads: of its networks.
            uplinks: whether packets come through a router and `gosvae downlink`, or over DDS.
        """
        fleet = (Fleet if uplinks else DdsFleet)(folder, names)
        super().__init__(fleet, bundle)
        with ExitStack() as stack:
            stack.callback(fleet.close)
            stack.enter_context(private_network())
            processes = stack.enter_context(Processes({}, folder))
            cameras = [f"{keys.PREFIX}/{name}/{CAMERA}" for name in names]
            values = {"cameras": ",".join(cameras), "bundle": str(bundle)}
            (receiver,) = describe(values, "rx").nodes
            parameters = {**receiver.parameters, "threads": threads}
            processes.start(dataclasses.replace(receiver, parameters=parameters))
            if uplinks:
                processes.start(_downlink(fleet))
            stack.enter_context(ros_context())
            node = rclpy.create_node("fleet_bench")
            for name in names:
                topic = f"/{keys.mask_key(name, CAMERA)}"
                note = partial(fleet.note, name)
                node.create_subscription(Image, topic, note, qos_profile("packets"), raw=True)
            stack.enter_context(spinning(node))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """End all of it."""
        self._stack.close()


def _downlink(fleet: Fleet) -> Node:
    parameters = {"router": fleet.endpoint, "certificates": str(fleet.folder)}
    parameters["vehicles"] = str(fleet.vehicles)
    return Node("gosvae_fleet", "downlink", "gosvae_downlink", parameters)
