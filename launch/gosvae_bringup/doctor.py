"""`gosvae doctor`: checks of what the pipeline needs of this machine, each with a remedy.

Each check is a function that returns a :class:`Check`; none raises.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from gosvae_codec.errors import GosvaeError
from gosvae_common.errors import UsageError
from gosvae_common.fastdds import PROFILE_VARIABLE, SHARED_MEMORY, shared_memory_problem
from gosvae_common.shipped import find_bundle, find_profile
from gosvae_tools.verbs import Verb, add_bundle_arguments

from .processes import find_executable

DISTRO = "jazzy"
PYTHONS = (3, 10), (3, 13)
EXECUTABLES = (
    ("gosvae_tx", "transmitter"),
    ("gosvae_rx", "receiver"),
    ("gosvae_tools", "replay"),
    ("gosvae_tools", "record"),
)
DISCOVERY_SECONDS = 10.0
"""Limit for two nodes of this process to receive from each other."""
UDP_BUFFER = Path("/proc/sys/net/core/rmem_max")
LEAST_SEGMENT = 10_000_000
"""Bytes of shared memory that several camera images need."""
LAST_DOMAIN = 101
"""Largest domain whose ports are below the range of Linux's ephemeral ports."""


class Check(NamedTuple):
    """Name of a check, its result, what was found, and the remedy; empty if none is needed."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def examine(bundle: str = "", providers: Sequence[str] = ("cpu",)) -> Iterator[Check]:
    """Yield one check after the other.

    Args:
        bundle: folder; empty: the one that the pipeline would use.
        providers: as the nodes' parameter.
    """
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", check_python),
        ("ros", check_ros),
        ("packages", check_packages),
        ("gpu", check_gpu),
        ("bundle", partial(check_bundle, bundle, providers)),
        ("dds profile", check_profile),
        ("shared memory", check_shared_memory),
        ("udp buffers", check_udp_buffers),
        ("network", check_network),
        ("discovery", check_discovery),
        ("clock", check_clock),
    ]
    for name, check in checks:
        try:
            yield check()
        except Exception as error:  # a check that fails must not hide the others
            yield Check(name, "fail", str(error) or type(error).__name__, _remedy(error))


def _remedy(error: Exception) -> str:
    # Our errors name their remedy.
    return "" if isinstance(error, GosvaeError) else "see the README"


def check_python() -> Check:
    """Check the version of the interpreter."""
    found = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Check("python", "ok", found)
    remedy = "use CPython 3.10 to 3.13, as with PYTHON=/usr/bin/python3.12 make shell"
    return Check("python", "fail", found, remedy)


def check_ros() -> Check:
    """Check rclpy, the distribution and the middleware."""
    try:
        import rclpy
    except ImportError as error:
        remedy = f"source /opt/ros/{DISTRO}/setup.bash, or use `make shell`"
        return Check("ros", "fail", f"rclpy cannot be imported: {error}", remedy)
    middleware = rclpy.get_rmw_implementation_identifier()
    distro = os.environ.get("ROS_DISTRO", "from wheels")
    found = f"{distro}, {middleware}"
    if distro not in (DISTRO, "from wheels"):
        return Check("ros", "warn", found, f"only {DISTRO} is tested: source its setup.bash")
    if not middleware.startswith("rmw_fastrtps"):
        remedy = (
            "our transport profile is for Fast DDS: unset RMW_IMPLEMENTATION on all machines, or "
            "give the other middleware as much shared memory"
        )
        return Check("ros", "warn", found, remedy)
    return Check("ros", "ok", found)


def check_packages() -> Check:
    """Check that the nodes' executables are installed."""
    try:
        for package, executable in EXECUTABLES:
            find_executable(package, executable)
    except UsageError as error:
        return Check("packages", "fail", str(error), "colcon build in ros2_ws, or `make shell`")
    return Check("packages", "ok", ", ".join(executable for _, executable in EXECUTABLES))


def check_gpu() -> Check:
    """Compare the GPUs of the machine with those that ONNX Runtime can use."""
    import onnxruntime

    offered = [
        each.removesuffix("ExecutionProvider") for each in onnxruntime.get_available_providers()
    ]
    software = f"onnxruntime {onnxruntime.__version__} with {', '.join(offered)}"
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check("gpu", "ok", f"no NVIDIA driver, networks run on the CPU; {software}")
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    gpus = [line.split(" (UUID")[0] for line in listed.stdout.splitlines() if line.strip()]
    if listed.returncode or not gpus:
        reason = (listed.stderr or listed.stdout).strip() or "it lists none"
        return Check("gpu", "warn", f"nvidia-smi: {reason}", "install or reload the GPU driver")
    found = f"{', '.join(gpus)}; {software}"
    if "CUDA" not in offered:
        remedy = "pip uninstall onnxruntime, pip install onnxruntime-gpu; in a container --gpus all"
        return Check("gpu", "warn", found, remedy)
    return Check("gpu", "ok", found)


def check_bundle(path: str, providers: Sequence[str]) -> Check:
    """Load the bundle, and encode and decode a frame with it."""
    import numpy as np

    from gosvae_codec import Decoder, Encoder, ModelBundle

    bundle = ModelBundle.load(find_bundle(path))
    encoder, decoder = Encoder(bundle, providers), Decoder(bundle, providers)
    frame = np.zeros((*bundle.input_size, 3), np.uint8)
    # The first run allocates; it is not measured.
    decoder.decode(encoder.encode(frame))
    start = time.perf_counter()
    packets = encoder.encode(frame)
    encoded = time.perf_counter()
    decoder.decode(packets)
    end = time.perf_counter()
    found = (
        f"{bundle.name} {bundle.fingerprint:016x} at {bundle.path}; on {encoder.session.provider} "
        f"a frame takes {(encoded - start) * 1e3:.0f} ms to encode, "
        f"{(end - encoded) * 1e3:.0f} ms to decode"
    )
    if encoder.session.fell_back or decoder.networks.features.fell_back:
        remedy = "see the check gpu, or put what there is first in providers"
        return Check("bundle", "warn", f"{found}; {providers[0]} was asked for", remedy)
    return Check("bundle", "ok", found)


def _profile() -> Path:
    return Path(os.environ.get(PROFILE_VARIABLE) or find_profile())


def check_profile() -> Check:
    """Read the profile that Fast DDS will use, and check that this terminal sets it."""
    middleware = os.environ.get("RMW_IMPLEMENTATION") or "rmw_fastrtps_cpp"
    if not middleware.startswith("rmw_fastrtps"):
        return Check("dds profile", "ok", f"not used by {middleware}")
    profile, shipped = _profile(), find_profile()
    try:
        sizes = [int(each.text or 0) for each in _elements(profile, "segment_size")]
    except (OSError, ValueError, ElementTree.ParseError) as error:
        remedy = f"unset {PROFILE_VARIABLE}, or name a valid file; {shipped} is one"
        return Check("dds profile", "fail", f"{profile}: {error}", remedy)
    if not sizes or max(sizes) < LEAST_SEGMENT:
        remedy = f"give SHM a segment_size of 64 MB, as {shipped} does"
        found = f"{profile} has no shared memory for several images: they may get lost"
        return Check("dds profile", "warn", found, remedy)
    if PROFILE_VARIABLE not in os.environ:
        found = (
            f"{PROFILE_VARIABLE} is not set here: launch files and `gosvae run` set it for their "
            "nodes, but a camera driver started here would lose many of its images"
        )
        remedy = f"before a camera driver: export {PROFILE_VARIABLE}={shipped}"
        return Check("dds profile", "warn", found, remedy)
    return Check("dds profile", "ok", f"{profile}, of your environment")


def _elements(profile: Path, name: str) -> Iterator[ElementTree.Element]:
    return ElementTree.parse(profile).iterfind(f".//{{*}}{name}")


def check_shared_memory() -> Check:
    """Compare free shared memory with the need of transmitter, receiver, replay and recording."""
    problem = shared_memory_problem(_profile(), len(EXECUTABLES))
    if problem:
        found, _, remedy = problem.partition(": ")
        return Check("shared memory", "warn", found, remedy)
    free = shutil.disk_usage(SHARED_MEMORY).free
    return Check("shared memory", "ok", f"{free / 1e6:.0f} MB free in {SHARED_MEMORY}")


def check_udp_buffers() -> Check:
    """Compare the kernel's limit of UDP buffers with the size that the profile sets."""
    wanted = max(
        (int(each.text or 0) for each in _elements(_profile(), "receiveBufferSize")), default=0
    )
    allowed = int(UDP_BUFFER.read_text())
    found = f"net.core.rmem_max is {allowed}"
    if allowed >= wanted:
        return Check("udp buffers", "ok", found)
    remedy = f"for images over a network: sysctl -w net.core.rmem_max={wanted}"
    return Check("udp buffers", "warn", f"{found}, the profile asks for {wanted}", remedy)


def check_network() -> Check:
    """Check the domain, the range of discovery and the interfaces."""
    domain = os.environ.get("ROS_DOMAIN_ID", "0") or "0"
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET") or "SUBNET"
    peers = os.environ.get("ROS_STATIC_PEERS", "")
    found = f"ROS_DOMAIN_ID {domain}, discovery range {reach}"
    found += f", peers {peers}" if peers else ""
    if not domain.isdigit() or int(domain) > LAST_DOMAIN:
        remedy = f"set ROS_DOMAIN_ID to 0 to {LAST_DOMAIN}, the same on all machines"
        return Check("network", "fail", found, remedy)
    local = os.environ.get("ROS_LOCALHOST_ONLY") == "1"
    if local or (reach == "LOCALHOST" and not peers):
        remedy = (
            "fine on one machine; for two, unset ROS_AUTOMATIC_DISCOVERY_RANGE and "
            "ROS_LOCALHOST_ONLY"
        )
        return Check("network", "warn", f"{found}: this machine only", remedy)
    interfaces = [name for _, name in socket.if_nameindex() if _multicasts(name)]
    if not interfaces and not peers:
        remedy = (
            "fine on one machine; for two, bring an interface with multicast up, or name the "
            "other machine in ROS_STATIC_PEERS"
        )
        return Check("network", "warn", f"{found}; no interface with multicast", remedy)
    return Check("network", "ok", f"{found}, over {', '.join(interfaces) or 'unicast'}")


_SIOCGIFFLAGS = 0x8913


def _multicasts(interface: str) -> bool:
    up, loopback, multicast = 0x1, 0x8, 0x1000
    request = struct.pack("16sh14x", interface.encode(), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
    (flags,) = struct.unpack_from("H", answer, 16)
    return bool(flags & up and flags & multicast and not flags & loopback)


def check_discovery() -> Check:
    """Let two nodes exchange a message over DDS, and list the streams of running nodes."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from std_msgs.msg import Header

    contexts = [rclpy.Context(), rclpy.Context()]
    own = os.environ.get(PROFILE_VARIABLE)
    # As the launch files have it; Fast DDS reads it with the first node.
    os.environ[PROFILE_VARIABLE] = str(_profile())
    try:
        for context in contexts:
            rclpy.init(context=context)
        speaker, listener = (
            rclpy.create_node(f"gosvae_doctor_{index}", context=context)
            for index, context in enumerate(contexts)
        )
    finally:
        if own is None:
            del os.environ[PROFILE_VARIABLE]
    executor = SingleThreadedExecutor(context=contexts[1])
    executor.add_node(listener)
    heard: list[Header] = []
    topic = f"gosvae_doctor/pid_{os.getpid()}"
    publisher = speaker.create_publisher(Header, topic, 10)
    listener.create_subscription(Header, topic, heard.append, 10)
    begin = time.monotonic()
    try:
        while not heard and time.monotonic() - begin < DISCOVERY_SECONDS:
            publisher.publish(Header())
            executor.spin_once(timeout_sec=0.05)
        seconds = time.monotonic() - begin
        streams = sorted(_streams(listener))
    finally:
        executor.shutdown()
        for node, context in zip((speaker, listener), contexts, strict=True):
            node.destroy_node()
            rclpy.shutdown(context=context)
    if not heard:
        remedy = (
            "allow UDP ports 7400 to 65535 and multicast 239.255.0.1 in the firewall; try "
            "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST on one machine, ROS_STATIC_PEERS on two"
        )
        found = f"two nodes of this machine did not hear each other in {DISCOVERY_SECONDS:.0f} s"
        return Check("discovery", "fail", found, remedy)
    others = "; ".join(streams) or "no transmitter or receiver seen"
    return Check("discovery", "ok", f"two nodes met in {seconds:.1f} s; {others}")


def _streams(node: object) -> Iterator[str]:
    for topic, kinds in node.get_topic_names_and_types():  # type: ignore[attr-defined]
        if "gosvae_msgs/msg/TokenPacket" in kinds:
            ends = (
                (node.count_publishers(topic), "sent"),  # type: ignore[attr-defined]
                (node.count_subscribers(topic), "received"),  # type: ignore[attr-defined]
            )
            yield f"{topic} {' and '.join(word for count, word in ends if count)}"


class _Timex(ctypes.Structure):
    # The head of struct timex of adjtimex(2), and room for the rest.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_char * 512),
    )


_TIME_ERROR = 5


def check_clock() -> Check:
    """Check whether the kernel takes its clock for synchronised."""
    state = _Timex()
    result = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state))
    if result < 0:
        reason = os.strerror(ctypes.get_errno())
        return Check(
            "clock", "warn", f"the kernel does not report it: {reason}", "check the host's clock"
        )
    if result == _TIME_ERROR:
        remedy = (
            "fine on one machine; for two, run chrony or PTP on both, as docs/deployment.md has "
            "it: ages of masks compare two clocks"
        )
        return Check("clock", "warn", "not synchronised", remedy)
    return Check("clock", "ok", f"synchronised to {state.maxerror / 1e3:.1f} ms or better")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def _doctor(options: argparse.Namespace) -> int:
    from gosvae_tools.tables import Table, show, show_json

    checks = list(examine(options.bundle, options.providers))
    if options.json:
        show_json([check._asdict() for check in checks])
    else:
        show([Table("gosvae doctor", ("check", "status", "found", "what to do"), checks)])
    return int(any(check.status == "fail" for check in checks))


DOCTOR = Verb(
    "doctor",
    "check this machine, with remedies",
    """\
Checks what the pipeline needs of this machine: Python, ROS, the nodes, GPU and ONNX Runtime, the
bundle, the Fast DDS profile, shared memory, network, discovery and clock, and names the remedy for
what is missing. The exit status is 1 if something is broken; with warnings alone it is 0.
""",
    _add_arguments,
    _doctor,
)
