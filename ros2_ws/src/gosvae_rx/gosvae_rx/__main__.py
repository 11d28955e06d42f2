"""Entry point of ``ros2 run gosvae_rx receiver``."""

import sys

from gosvae_common.signals import stop_signals


def main() -> int:
    """Run the node until a signal, and return the exit status."""
    with stop_signals() as stop:
        # These imports take a second, in which a signal may come.
        from gosvae_common.run import run

        from .receiver import Receiver

        return run(Receiver, stop)


if __name__ == "__main__":
    sys.exit(main())
