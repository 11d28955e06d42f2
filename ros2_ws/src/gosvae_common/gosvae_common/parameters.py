"""Parameters, declared by every node in the same way: with a description and a range."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter


class ParameterNode(Node):
    """A node whose parameters have descriptions and ranges.

    An integer is accepted for a floating-point parameter, on the command line, in YAML files and by
    ``ros2 param set``. Other types are refused, as rclpy does.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._floats: set[str] = set()
        self.add_pre_set_parameters_callback(self._convert)

    def declare(
        self,
        name: str,
        default: Any,
        description: str,
        limits: tuple[float, float] | None = None,
        read_only: bool = False,
    ) -> None:
        """Declare a parameter.

        Args:
            name: of the parameter.
            default: value if none is given; its type is the parameter's type.
            description: what the parameter does, with its unit.
            limits: smallest and largest value of a number.
            read_only: whether it can be set at start only.

        Raises:
            ParameterException: the value given at start has another type or is out of range.
        """
        descriptor = ParameterDescriptor(description=description, read_only=read_only)
        if not isinstance(default, float):
            if limits is not None:
                low, high = map(int, limits)
                descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
            self.declare_parameter(name, default, descriptor)
            return
        if limits is not None:
            lowest, highest = map(float, limits)
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=lowest, to_value=highest)
            ]
        self._floats.add(name)
        given = self._given(name, default)
        if given.type_ == Parameter.Type.INTEGER:
            self.declare_parameter(name, float(given.value), descriptor, ignore_override=True)
        else:
            self.declare_parameter(name, default, descriptor)

    def value(self, name: str) -> Any:
        """Return the value of a parameter."""
        return self.get_parameter(name).value

    def _given(self, name: str, default: float) -> Parameter:
        """Return the value given at start, whatever its type, or `default`."""
        self.declare_parameter(name, default, ParameterDescriptor(dynamic_typing=True))
        given: Parameter = self.get_parameter(name)
        self.undeclare_parameter(name)
        return given

    def _convert(self, parameters: list[Parameter]) -> list[Parameter]:
        return [
            Parameter(each.name, value=float(each.value))
            if each.name in self._floats and each.type_ == Parameter.Type.INTEGER
            else each
            for each in parameters
        ]
