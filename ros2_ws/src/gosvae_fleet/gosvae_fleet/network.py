"""The networks of one bundle, as a stateless deployment of Ray Serve: tokens to messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from rclpy.serialization import serialize_message

from gosvae_codec import ModelBundle
from gosvae_codec.decoder import Networks, finish, run
from gosvae_codec.unpacking import UnpackedFrame
from gosvae_common.messages import to_header_message
from gosvae_common.task_messages import Output, outputs_of


class Job(NamedTuple):
    """A frame of any stream, and what is wanted of it."""

    frame: UnpackedFrame
    topics: Collection[str]
    """Below the camera's base name, as of :func:`gosvae_common.task_messages.outputs_of`."""


def network_name(fingerprint: int) -> str:
    """Return the name of the deployment that makes messages of a bundle's tokens."""
    return f"{fingerprint:016x}"


class Network:
    """One replica."""

    def __init__(self, path: str, providers: Sequence[str], threads: int, batch: int) -> None:
        """Load the networks of the bundle at `path`, for up to `batch` frames in one inference.

        Raises:
            BundleError, ProviderError: see :meth:`Networks.load`.
        """
        self._bundle = ModelBundle.load(path)
        self._networks = Networks.load(self._bundle, providers, threads, batch)
        self._outputs: dict[str, tuple[str, Output]] = {}
        """By topic, each with its task's name."""
        for name, task in self._bundle.tasks.items():
            task.prepare()
            self._outputs |= {each.topic: (name, each) for each in outputs_of(task)}
        self._batch = batch

    def __call__(self, jobs: Sequence[Job]) -> list[dict[str, bytes]]:
        """Return for each job the CDR of its messages by topic.

        The features of a frame are computed once; a head that one frame of a batch needs is run on
        all of them.
        """
        made: list[dict[str, bytes]] = []
        for begin in range(0, len(jobs), self._batch):
            made += self._run(jobs[begin : begin + self._batch])
        return made

    def _run(self, jobs: Sequence[Job]) -> list[dict[str, bytes]]:
        wanted = [{self._outputs[topic][0] for topic in each.topics} for each in jobs]
        results = run(self._networks, [each.frame for each in jobs], set().union(*wanted))
        made = []
        for (frame, topics), tasks, result in zip(jobs, wanted, results, strict=True):
            decoded = finish(self._bundle, frame, {name: result[name] for name in tasks})
            header = to_header_message(frame.header)
            messages = {}
            for topic in topics:
                name, output = self._outputs[topic]
                messages[topic] = serialize_message(output.make(decoded.tasks[name], header))
            made.append(messages)
        return made
