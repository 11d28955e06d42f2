"""Base of our lifecycle nodes: parameters, bundle, cameras, diagnostics, autostart."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.validate_topic_name import validate_topic_name

from gosvae_codec import ImageConverter, ModelBundle
from gosvae_codec.errors import KeyFileError
from gosvae_codec.keys import KeyFile
from gosvae_codec.sessions import PROVIDERS, Provider, configure

from . import topics
from .diagnostics import Report, to_status
from .health import EVENTS, LEVELS, OK, WARN, ClockWatch, Judge, Threshold
from .messages import IMAGE_TRANSPORTS
from .parameters import ParameterNode
from .qos import QOS_NAMES, qos_profile
from .shipped import BUNDLE, BUNDLE_VARIABLE, find_bundle

JUMP_SHOWN_SECONDS = 10.0
"""For how long diagnostics report that the clock jumped."""


class ConfigurationError(Exception):
    """A parameter's value makes configuring impossible; the message says what to set."""


class PipelineNode(ParameterNode, LifecycleNode):
    """A lifecycle node with a model bundle and one or more cameras.

    Parameters are read when the node is configured; only those in `live` take effect at once, and
    the others are refused until the node is unconfigured again. Subclasses fill in `setup`,
    `start`, `stop`, `teardown` and `report`.
    """

    live: frozenset[str] = frozenset()
    """Parameters that can change while the node is active, besides all of ``diagnostics.``."""
    thresholds: tuple[Threshold, ...] = ()

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.bundle: ModelBundle | None = None
        self.keys: KeyFile | None = None
        """Keys of sealed packets; None: they are not sealed."""
        self.cameras: list[str] = []
        self._problem = "not configured"
        self.declare(
            "bundle",
            "",
            f"Folder of the model bundle, the same on both sides. Empty: ${BUNDLE_VARIABLE}, or "
            f"the {BUNDLE} that ships.",
        )
        self.declare(
            "key_file",
            "",
            "File of keys that seal packets and authenticate feedback, as `gosvae keygen` makes "
            "it; what is not sealed is dropped then. It is read again when it changes. Empty: "
            "nothing is sealed.",
        )
        self.declare("cameras", ["camera"], "Base names of the cameras, such as front/left.")
        self.declare(
            "providers",
            ["cpu"],
            f"ONNX Runtime execution providers, of {', '.join(PROVIDERS)}, in order of preference. "
            "A later one is used, with a warning, only if those before it are not available.",
        )
        self.declare(
            "engine_cache",
            "~/.cache/gosvae",
            "Folder for the engines that TensorRT builds, so that only the first start takes "
            "minutes; empty: none.",
        )
        self.declare("fp16", False, "Whether TensorRT may compute in half precision.")
        self.declare(
            "threads", 1, "Threads of one inference on the CPU; 0: as many as cores.", (0, 256)
        )
        self.declare(
            "queue_depth",
            4,
            "Frames of each camera that may wait; older ones are dropped.",
            (1, 100),
        )
        self.declare("autostart", True, "Configure and activate at start.", read_only=True)
        self.declare(
            "diagnostics_period", 1.0, "Seconds between diagnostics.", (0.1, 60.0), read_only=True
        )
        for threshold in self.thresholds:
            for parameter, (default, description) in threshold.parameters.items():
                self.declare(parameter, default, description, (0.0, threshold.most))
        for event, level, what in EVENTS:
            description = f"Level if {what}: {', '.join(LEVELS)}."
            self.declare(f"diagnostics.{event}", level, description)
        self.judge = Judge(self.thresholds, self.value)
        self.add_on_set_parameters_callback(self._guard)
        self._diagnostics = self.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, 10)
        # Steady, so that diagnostics go on while simulated time stands still.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._clock_watch = ClockWatch()
        self._jump, self._jumped_at = "", -math.inf
        self.create_timer(
            self.get_parameter("diagnostics_period").value, self._publish_status, clock=self._steady
        )
        _forward_codec_log(self)

    def declare_qos(self, name: str, default: str, what: str) -> None:
        """Declare a parameter that names a QoS profile."""
        self.declare(
            name,
            default,
            f"QoS profile of {what}: {', '.join(QOS_NAMES)}. Parameters qos_overrides.<topic> "
            "override single policies.",
        )

    @property
    def providers(self) -> list[Provider]:
        """Execution providers, as the parameters set them."""
        return configure(*map(self.value, ("providers", "engine_cache", "fp16")))

    def qos(self, parameter: str) -> QoSProfile:
        """Return the QoS profile that a parameter names; raises ConfigurationError for none."""
        try:
            return qos_profile(self.value(parameter))
        except ValueError as error:
            raise ConfigurationError(f"{parameter}: {error}") from error

    def declare_image_input(self, what: str) -> None:
        """Declare the parameters that say where a camera's frames come from."""
        kinds = " or ".join(IMAGE_TRANSPORTS)
        self.declare("image_transport", "raw", f"Type of the topics of {what}: {kinds}.")
        self.declare(
            "image_topics",
            [""],
            f"Topic of {what}, one name per camera, such as [/image_rect_color]; one that ends in "
            f"/compressed is taken as compressed. Empty: <camera>/{topics.IMAGE}, with "
            "/compressed if image_transport is compressed.",
        )

        self.declare(
            "bits",
            0,
            f"Significant bits of {what} in 16-bit encodings, 8 to 16; 0: as many as are observed.",
            (0, 16),
        )

    def image_converter(self) -> ImageConverter:
        """Return a converter for the frames of one camera.

        Raises:
            ConfigurationError: `bits` has an impossible value.
        """
        try:
            return ImageConverter(self.value("bits"))
        except ValueError as error:
            raise ConfigurationError(str(error)) from error

    def image_topic(self, camera: str) -> tuple[str, type]:
        """Return topic and message type of a camera's frames.

        Raises:
            ConfigurationError: image_transport or image_topics have impossible values.
        """
        transport = self.value("image_transport")
        if transport not in IMAGE_TRANSPORTS:
            raise ConfigurationError(
                f"image_transport {transport!r}: choose one of {', '.join(IMAGE_TRANSPORTS)}"
            )
        suffix, kind = IMAGE_TRANSPORTS[transport]
        named = self.value("image_topics")
        if any(named) and len(named) != len(self.cameras):
            raise ConfigurationError(
                f"image_topics has {len(named)} names for {len(self.cameras)} cameras "
                f"({', '.join(self.cameras)}): give one per camera, in the same order"
            )
        name = named[self.cameras.index(camera)] if any(named) else ""
        if not name:
            return f"{camera}/{topics.IMAGE}{suffix}", kind
        validate_topic_name(name)
        compressed_suffix, compressed = IMAGE_TRANSPORTS["compressed"]
        return name, compressed if name.endswith(compressed_suffix) else kind

    @property
    def overridable(self) -> QoSOverridingOptions:
        """QoS options that let YAML override history, depth and reliability of a topic."""
        return QoSOverridingOptions.with_default_policies()

    def every(self, seconds: float, callback: Callable[[], None]) -> rclpy.timer.Timer:
        """Create a timer on the steady clock, which does not depend on simulated time."""
        return self.create_timer(seconds, callback, clock=self._steady)

    def setup(self) -> None:
        """Create what exists from configuring to cleaning up; may raise ConfigurationError."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to process frames."""
        raise NotImplementedError

    def stop(self) -> None:
        """Undo `start`, also where it failed half-way or was not called."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Undo `setup`, also where it failed half-way."""
        raise NotImplementedError

    def check_live(self, parameter: Parameter) -> None:
        """Raise ConfigurationError if a parameter in `live` cannot have that value now."""

    def report(self, camera: str) -> Report:
        """Return level, text and figures of a camera."""
        raise NotImplementedError

    def clock_jumped(self) -> None:
        """Discard what was measured against the clock before it jumped."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle and create publishers; on failure the node stays unconfigured."""
        self._problem = "inactive"
        try:
            self.cameras = [camera.rstrip("/") for camera in self.value("cameras")]
            names = set(self.cameras)
            if not names or "" in names or len(names) != len(self.cameras):
                raise ConfigurationError(f"cameras {self.cameras}: give different, non-empty names")
            for camera in self.cameras:
                validate_topic_name(camera)
            for name, *_ in EVENTS:
                self._check_level(self.get_parameter(f"diagnostics.{name}"))
            key_file = self.value("key_file")
            self.keys = KeyFile(key_file) if key_file else None
            self.bundle = ModelBundle.load(find_bundle(self.value("bundle")))
            self.setup()
        except Exception as error:  # rclpy would discard it without a message
            self._dismantle()
            return self._refuse(f"cannot configure: {error}")
        self.get_logger().info(
            f"bundle {self.bundle.name} {self.bundle.fingerprint:016x}, "
            f"cameras {', '.join(self.cameras)}"
        )
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to process frames; on failure the node stays inactive."""
        try:
            result = super().on_activate(state)
            self.start()
        except Exception as error:  # as in on_configure
            self.stop()
            super().on_deactivate(state)
            return self._refuse(f"cannot activate: {error}")
        self._problem = ""
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing frames; publishers stay."""
        self.stop()
        self._problem = "inactive"
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release bundle and publishers."""
        self._dismantle()
        self._problem = "not configured"
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing and release everything."""
        self.close()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, so that the node can be configured again."""
        self.close()
        return super().on_error(state)

    def _refuse(self, problem: str) -> TransitionCallbackReturn:
        self._problem = problem
        self.get_logger().error(problem)
        return TransitionCallbackReturn.FAILURE

    def close(self) -> None:
        """Stop processing and release everything, in any state of the node."""
        self.stop()
        self._dismantle()

    def _dismantle(self) -> None:
        self.teardown()
        self.bundle = self.keys = None
        self.cameras = []

    def _check_level(self, parameter: Parameter) -> None:
        if isinstance(parameter.value, str) and parameter.value not in LEVELS:
            raise ConfigurationError(
                f"{parameter.name} {parameter.value!r}: choose one of {', '.join(LEVELS)}"
            )

    def _guard(self, parameters: list[Parameter]) -> SetParametersResult:
        if self.bundle is not None:
            for parameter in parameters:
                name = parameter.name
                free = name.startswith(("qos_overrides.", "diagnostics."))
                declared = self.has_parameter(name) and not free
                if declared and name not in self.live and name != "use_sim_time":
                    return SetParametersResult(
                        successful=False,
                        reason=f"{name} is read when the node is configured: clean it up first",
                    )
                try:
                    if name in self.live:
                        self.check_live(parameter)
                    elif name.startswith("diagnostics."):
                        self._check_level(parameter)
                except ConfigurationError as error:
                    return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _look_at_clock(self) -> str:
        """Return a text about a jump of the clock; empty if there was none lately."""
        now, simulated = self.get_clock().now().nanoseconds / 1e9, self.value("use_sim_time")
        if jump := self._clock_watch.jump(now, simulated):
            cause = (
                "the replay was probably started again: use loop:=true, which never goes back"
                if simulated
                else "let chrony or PTP slew it, and start it before this node"
            )
            self._jump = f"the clock jumped by {jump:+.1f} s, ages are measured anew: {cause}"
            self._jumped_at = time.monotonic()
            self.get_logger().warning(self._jump)
            self.clock_jumped()
        return self._jump if time.monotonic() - self._jumped_at < JUMP_SHOWN_SECONDS else ""

    def _refresh_keys(self) -> str:
        """Read the key file again if it has changed; return why that failed, else nothing."""
        try:
            if self.keys is not None and self.keys.refresh():
                self.get_logger().info(f"key file {self.keys.path} holds keys {self.keys.ids}")
        except KeyFileError as error:
            return f"{error}; the keys before it are still in use"
        return ""

    def _publish_status(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        problem = "; ".join(
            filter(None, (self._problem, self._look_at_clock(), self._refresh_keys()))
        )
        own = (
            {}
            if self.bundle is None
            else {
                "bundle": self.bundle.name,
                "fingerprint": f"{self.bundle.fingerprint:016x}",
            }
        )
        reports = {"": Report(WARN if problem else OK, problem or "active", {})}
        reports |= {camera: self.report(camera) for camera in self.cameras}
        message.status = [
            to_status(each._replace(values={**own, **each.values}), name, camera)
            for camera, each in reports.items()
        ]
        self._diagnostics.publish(message)


class _RosHandler(logging.Handler):
    def __init__(self, node: PipelineNode) -> None:
        super().__init__(logging.WARNING)
        self._node = node

    def emit(self, record: logging.LogRecord) -> None:
        self._node.get_logger().warning(self.format(record))


def _forward_codec_log(node: PipelineNode) -> None:
    logger = logging.getLogger("gosvae_codec")
    logger.addHandler(_RosHandler(node))
    logger.propagate = False
