"""What the ROS graph tells: why nothing is received."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.subscription import Subscription

from .messages import type_name

SHOWN_TOPICS = 8


def explain_silence(
    node: Node, subscription: Subscription, kinds: Sequence[type], remedy: str
) -> str:
    """Return in a sentence why a subscription receives nothing, and what to do about it.

    Args:
        node: whose view of the ROS graph counts.
        subscription: which receives nothing.
        kinds: message types of topics that may have been meant instead.
        remedy: what to do if nobody publishes the topic.
    """
    topic, kind = subscription.topic_name, cast(type, subscription.msg_type)
    wanted = type_name(kind)
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return f"nobody publishes {topic}; {_others(node, kinds)}: {remedy}"
    typed = [each for each in publishers if each.topic_type == wanted]
    if not typed:
        return f"{topic} is {publishers[0].topic_type}, not {wanted}: {remedy}"
    for publisher in typed:
        compatibility, reason = qos_check_compatible(
            publisher.qos_profile, subscription.qos_profile
        )
        if compatibility != QoSCompatibility.ERROR:
            return f"{topic} is published by {publisher.node_name}, which sends nothing"
    return (
        f"the QoS of {topic} does not match its publisher {typed[0].node_name}: "
        f"{reason.rstrip(';')}; set image_qos, packet_qos or a qos_overrides parameter"
    )


def _others(node: Node, kinds: Sequence[Any]) -> str:
    """Return which topics of these types there are, or where they were looked for."""
    names = {type_name(kind) for kind in kinds}
    others = [
        f"{name} ({', '.join(types)})"
        for name, types in node.get_topic_names_and_types()
        if names & set(types) and "/semantic/" not in name and node.count_publishers(name)
    ]
    if others:
        return f"there are {', '.join(others[:SHOWN_TOPICS])}"
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    return (
        f"nothing like it is in ROS_DOMAIN_ID {node.context.get_domain_id()} "
        f"within ROS_AUTOMATIC_DISCOVERY_RANGE {reach}"
    )
