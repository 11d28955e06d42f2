"""Nodes of this package as this process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from gosvae_common.errors import UsageError
from gosvae_common.fastdds import PROFILE_VARIABLE
from gosvae_common.shipped import find_profile

PACKAGE = "gosvae_fleet"


def exec_node(executable: str, parameters: Mapping[str, str | Sequence[str]]) -> NoReturn:
    """Become a node of this package.

    Raises:
        UsageError: it is not built.
    """
    try:
        path = Path(get_package_prefix(PACKAGE)) / "lib" / PACKAGE / executable
    except PackageNotFoundError as error:
        raise UsageError(f"{PACKAGE} is not installed: build and source the workspace") from error
    # JSON is YAML in which a string cannot be taken for a number or a boolean.
    values = (f"{name}:={json.dumps(value)}" for name, value in parameters.items())
    arguments = [str(path), "--ros-args", *(part for value in values for part in ("-p", value))]
    environment = {PROFILE_VARIABLE: str(find_profile()), **os.environ}
    os.execve(path, arguments, environment)
