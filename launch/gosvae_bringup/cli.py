"""The command `gosvae`: a table of verbs, each with its parser and handler beside its work.

Results go to stdout, as tables on a terminal and as tab-separated lines elsewhere; progress,
warnings and errors go to stderr, an error in one line that says what to do.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import argcomplete

from gosvae_codec.errors import GosvaeError
from gosvae_common.errors import UsageError
from gosvae_fleet import verbs as fleet
from gosvae_tools import verbs as tools
from gosvae_tools.link.channel import LinkError

from . import adapt, demo, doctor, run

VERBS = (run.RUN, run.VIEW, demo.DEMO, adapt.ADAPT, *tools.VERBS, *fleet.VERBS, doctor.DOCTOR)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status.

    Returns:
        0, 1 for a failure, 2 for bad arguments, 130 after Ctrl-C, or a failed node's status.
    """
    parser = make_parser()
    argcomplete.autocomplete(parser)
    options = parser.parse_args(_as_options(sys.argv[1:] if argv is None else argv))
    handle: Callable[[argparse.Namespace], int] = options.handle
    try:
        return handle(options)
    except (UsageError, LinkError) as error:
        print(f"gosvae {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does; Python must not flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (GosvaeError, OSError) as error:
        print(f"gosvae {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"gosvae {options.command}: stopped", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="gosvae",
        description="GOS-VAE perception offloading over ROS 2.",
        epilog='Completion in bash: eval "$(register-python-argcomplete gosvae)"',
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for verb in VERBS:
        command = commands.add_parser(
            verb.name,
            help=verb.summary,
            description=verb.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(command)
        command.set_defaults(handle=verb.handle)
    return parser


def _as_options(argv: Sequence[str]) -> list[str]:
    """Turn ROS launch's `name:=value` into `--name=value`, but for what follows `--ros-args`."""
    end = argv.index("--ros-args") if "--ros-args" in argv else len(argv)
    return [
        f"--{match[1].replace('_', '-')}={match[2]}"
        if (match := re.fullmatch(r"([a-z_]+):=(.*)", word, re.DOTALL))
        else word
        for word in argv[:end]
    ] + list(argv[end:])
