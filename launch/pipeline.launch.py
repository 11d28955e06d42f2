"""The whole pipeline on one machine. `--show-args` lists the arguments."""

from launch import LaunchDescription

from gosvae_bringup.launch_description import launch_description


def generate_launch_description() -> LaunchDescription:
    """Return what `ros2 launch` runs."""
    return launch_description("both")
