"""Packages whose names are loaded when first used, so that importing a package costs nothing."""

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any


def lazily(
    package: str, home: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        home: {name: the module in it that holds it}.
        modules: of the package, that are names of it too.
    Source: PEP 562.
    """

    def find(name: str) -> Any:
        if name in home:
            value = getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        elif name in modules:
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted([*home, *modules])

    return find, listed
