"""The vehicle's half of the pipeline: transmitter, and replay where a bag is given."""

from launch import LaunchDescription

from gosvae_bringup.launch_description import launch_description


def generate_launch_description() -> LaunchDescription:
    """Return what `ros2 launch` runs."""
    return launch_description("tx")
