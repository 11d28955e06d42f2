"""Errors of the command line and the launch files."""

from gosvae_codec.errors import GosvaeError


class UsageError(GosvaeError):
    """Arguments contradict each other, or name something that is not there."""
