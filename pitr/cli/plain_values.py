# SPDX-License-Identifier: GPL-2.0-or-later
"""Convert plain values of the command line quickly.

Newer versions of the command-line library convert each value with pydantic, which takes 0.1 s to load: more than most
commands that only look something up. Texts, numbers and choices do not need it. Everything else, invalid values
included, still goes through the library.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, get_args, get_origin

import typer.core

_OTHER = object()
_NUMBER = re.compile(r"[0-9]{1,15}")


def convert_quickly() -> None:
    """Let the command-line library convert plain values without loading pydantic."""
    parameter: Any = getattr(typer.core, "_TyperParameter", None)
    # Older versions of the library do not need this, and a newer one may look different.
    if "type_descriptor" in getattr(parameter, "__annotations__", {}):
        parameter.get_runtime_param = lambda self: _PlainValues(self.type_descriptor)


class _PlainValues:
    """Stands in for the library's converter of one parameter."""

    def __init__(self, descriptor: Any) -> None:
        self._descriptor = descriptor

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the converted value; raise the library's error for an invalid one."""
        many = param.multiple or param.nargs == -1
        if value is None:
            return () if many else None
        converted = self._many(value) if many else self._one(value, self._descriptor.annotation)
        if converted is not _OTHER:
            return converted
        from typer._coercion import build_runtime_param  # noqa: PLC0415 - loads pydantic

        return build_runtime_param(self._descriptor).coerce(value, param=param, ctx=ctx)

    def _many(self, values: Any) -> Any:
        annotation = self._descriptor.annotation
        if get_origin(annotation) is not list or not isinstance(values, list | tuple):
            return _OTHER
        converted = [self._one(value, get_args(annotation)[0]) for value in values]
        return _OTHER if any(value is _OTHER for value in converted) else converted

    def _one(self, value: Any, annotation: Any) -> Any:
        info = self._descriptor.parameter_info
        if info.parser is not None:
            try:
                return info.parser(value)
            except ValueError:
                return _OTHER
        if annotation is str or annotation is bool:
            return value if isinstance(value, annotation) else _OTHER
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            return next((member for member in annotation if member.value == value), _OTHER)
        # A default is a number already.
        is_number = annotation in (int, float) and type(value) is annotation
        if is_number or (annotation is int and isinstance(value, str) and _NUMBER.fullmatch(value)):
            number = annotation(value)
            low, high = info.min, info.max
            return number if (low is None or low <= number) and (high is None or number <= high) else _OTHER
        return _OTHER
