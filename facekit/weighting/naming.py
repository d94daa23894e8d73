"""Weighters as text: ``small_loss:tau=0.3,epochs=10`` is a name and its settings.

The settings are the keyword arguments of the weighter's ``__init__``; their annotations say how a text becomes a value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from facekit.core.errors import unknown_name
from facekit.weighting.base import Weighter
from facekit.weighting.errors import OutOfRange, UnknownWeighting

_READ: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: ({"true": True, "false": False}.__getitem__, "true or false"),
    str: (str, "a text"),
    tuple[int, ...]: (lambda text: tuple(map(int, text.split("/"))), "whole numbers as 1/2/3"),
    tuple[float, ...]: (lambda text: tuple(map(float, text.split("/"))), "numbers as -2/0/0.5"),
    tuple[str, ...]: (lambda text: tuple(text.split("/")), "names as a/b"),
}


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Name and settings as written. ``law:PATH`` is ``law:policy=PATH``, with any path.

    Raises UnknownWeighting for what is no ``name=value`` and for a setting given twice.

    >>> parse("small_loss:tau=0.3,epochs=10")
    ('small_loss', {'tau': '0.3', 'epochs': '10'})
    """
    name, colon, rest = text.partition(":")
    if not colon:
        return name, {}
    if name == "law":  # its only setting is a path, which may hold commas and equals signs
        return name, {"policy": rest.removeprefix("policy=")}
    settings: dict[str, str] = {}
    for part in rest.split(","):
        setting, equals, value = part.partition("=")
        if not equals or setting in settings:
            fault = f"{setting!r} is given twice" if equals else f"{part!r} is no setting"
            raise UnknownWeighting(f"{fault} in {text!r}; write {name}:NAME=VALUE,NAME=VALUE")
        settings[setting] = value
    return name, settings


def build_weighter(text: str) -> Weighter:
    """The weighter that ``text`` names, with its settings.

    Raises UnknownWeighting listing the weighters or settings there are, OutOfRange for a value that is not of its
    setting's type, and what the weighter refuses.
    """
    from facekit.weighting import WEIGHTERS

    name, given = parse(text)
    if name not in WEIGHTERS:
        raise UnknownWeighting(str(unknown_name("weighter", name, WEIGHTERS)))
    kind = WEIGHTERS[name]
    return kind(**typed_settings(name, given, kind))


def typed_settings(name: str, given: Mapping[str, str], build: Callable[..., Any]) -> dict[str, Any]:
    """The settings of ``name`` as the annotations of ``build`` want them.

    What no text can say, such as a network, is no setting: whoever calls ``build`` gives it.

    Raises UnknownWeighting for a setting that ``build`` has not, or that it cannot do without; OutOfRange for a value
    that cannot be read.
    """
    parameters = inspect.signature(build, eval_str=True).parameters
    wanted = {setting: parameter for setting, parameter in parameters.items() if parameter.annotation in _READ}
    for setting in given:
        if setting not in wanted:
            known = str(unknown_name("setting", setting, wanted)) if wanted else "it has no settings."
            raise UnknownWeighting(f"{name}: {known}")
    for setting, parameter in wanted.items():
        if parameter.default is parameter.empty and not given.get(setting):
            raise UnknownWeighting(f"{name} needs {setting}: write {name}:{setting}=VALUE")
    return {setting: read(name, setting, value, wanted[setting].annotation) for setting, value in given.items()}


def read(name: str, setting: str, value: str, hint: Any) -> Any:
    """A value from its text."""
    convert, expected = _READ[hint]
    try:
        return convert(value)
    except (ValueError, KeyError):
        raise OutOfRange(f"{name}: {setting} is {value!r}, expected {expected}") from None
