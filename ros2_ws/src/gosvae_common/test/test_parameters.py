"""Parameters with ranges, and integers given for floating-point ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.parameter import Parameter

from gosvae_common.parameters import ParameterNode


@pytest.fixture
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context, domain_id=97)
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture
def make(context: Context) -> Iterator[Any]:
    made: list[ParameterNode] = []

    def make(**overrides: Any) -> ParameterNode:
        given = [Parameter(name, value=value) for name, value in overrides.items()]
        node = ParameterNode("probe", context=context, parameter_overrides=given)
        made.append(node)
        return node

    yield make
    for node in made:
        node.destroy_node()


def declare_budget(node: ParameterNode) -> Any:
    node.declare("budget", 1.5, "Budget in kbit/s.", (0.0, 100.0))
    return node.value("budget")


@pytest.mark.parametrize(("given", "value"), [(64, 64.0), (64.5, 64.5), (0, 0.0), (100, 100.0)])
def test_integers_are_accepted_for_floats_at_start(make: Any, given: Any, value: float) -> None:
    node = make(budget=given)
    found = declare_budget(node)
    assert found == value and isinstance(found, float)
    descriptor = node.describe_parameter("budget")
    assert descriptor.type == Parameter.Type.DOUBLE.value and not descriptor.dynamic_typing
    assert descriptor.floating_point_range[0].to_value == 100.0


@pytest.mark.parametrize("given", [True, "64", [64]])
def test_other_types_are_refused_at_start(make: Any, given: Any) -> None:
    with pytest.raises(InvalidParameterTypeException):
        declare_budget(make(budget=given))


@pytest.mark.parametrize("given", [-1, 101, 100.1])
def test_values_out_of_range_are_refused_at_start(make: Any, given: float) -> None:
    with pytest.raises(InvalidParameterValueException):
        declare_budget(make(budget=given))


@pytest.mark.parametrize("atomically", [False, True])
def test_integers_are_accepted_for_floats_while_running(make: Any, atomically: bool) -> None:
    node = make()
    declare_budget(node)
    node.declare("levels", 2, "Levels.", (0, 3))

    def set_value(name: str, value: Any) -> bool:
        parameters = [Parameter(name, value=value)]
        if atomically:
            return bool(node.set_parameters_atomically(parameters).successful)
        return bool(node.set_parameters(parameters)[0].successful)

    assert set_value("budget", 7)
    assert node.value("budget") == 7.0 and isinstance(node.value("budget"), float)
    for refused in (True, "8", 101, -1):
        assert not set_value("budget", refused)
    assert node.value("budget") == 7.0
    # An integer parameter still refuses floats.
    assert not set_value("levels", 1.0) and set_value("levels", 1)


def test_read_only_parameters_keep_the_value_given_at_start(make: Any) -> None:
    node = make(period=2)
    node.declare("period", 1.0, "Seconds.", (0.1, 60.0), read_only=True)
    assert node.value("period") == 2.0
    assert not node.set_parameters([Parameter("period", value=3)])[0].successful
