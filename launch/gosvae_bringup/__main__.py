"""Entry point of the command `gosvae`."""

import signal
import sys


def main() -> int:
    """Run the command line, and return the exit status.

    Until it is imported, which takes a moment, Ctrl-C ends the process without a traceback.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run()
    except KeyboardInterrupt:
        print("gosvae: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
