"""The other half of the pipeline: receiver, and recording and RViz where they are asked for."""

from launch import LaunchDescription

from gosvae_bringup.launch_description import launch_description


def generate_launch_description() -> LaunchDescription:
    """Return what `ros2 launch` runs."""
    return launch_description("rx")
