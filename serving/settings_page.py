"""Writes docs/settings.md from the settings classes; `make settings` runs it."""

import enum
import types
import typing
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from serving.gateway.settings import GatewaySettings
from serving.promotion.settings import SyncSettings
from serving.settings import ROOT, ProbeSettings, ProcessSettings, ServeSettings

PAGE = ROOT / "docs" / "settings.md"

_INTRODUCTION = """\
# Settings

Every setting is an environment variable; one that is set to nothing counts as not set. `nuclei
serve` and the processes that it starts read each their own, once, at start. The most common ones
are options of the commands as well. An impossible value is refused with a sentence and exit code 2.

This page is generated from the settings classes by `make settings`.
"""
_TYPES = {
    bool: "true, false",
    int: "whole number",
    float: "number",
    str: "text",
    SecretStr: "text, kept out of logs",
    Path: "path",
}


def settings_page() -> str:
    """The page: a table of the settings of each process."""
    common = ProcessSettings.model_fields
    sections = (
        ("All processes", common),
        ("`nuclei serve`", _own(ServeSettings)),
        ("The gateway", _own(GatewaySettings)),
        ("Sync (`nuclei sync`, `nuclei serve --sync`)", _own(SyncSettings)),
        ("The probe (`nuclei probe`)", _own(ProbeSettings)),
    )
    return "\n".join([_INTRODUCTION, *(_section(*each) for each in sections if each[1])])


def _own(settings: type[ProcessSettings]) -> dict[str, FieldInfo]:
    """The fields that not every process has."""
    fields = settings.model_fields
    return {name: fields[name] for name in fields if name not in ProcessSettings.model_fields}


def _section(title: str, fields: dict[str, FieldInfo]) -> str:
    rows = [f"## {title}", "", "| variable | value | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        cells = (f"`NUCLEI_{name.upper()}`", _value(field), _default(field), field.description)
        rows.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join([*rows, ""])


def _value(field: FieldInfo) -> str:
    """What it can be set to, with its bounds."""
    kinds = [kind for kind in _alternatives(field.annotation) if kind is not type(None)]
    bounds = ", ".join(
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if hasattr(bound, name)
    )
    return ", ".join(filter(None, [*map(_type, kinds), bounds]))


def _type(kind: typing.Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(map(str, typing.get_args(kind)))
    if issubclass(kind, enum.Enum):
        return ", ".join(str(member.value) for member in kind)
    return _TYPES[kind]


def _alternatives(annotation: typing.Any) -> tuple[typing.Any, ...]:
    """X and None of `X | None`."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return field.default_factory.__name__.replace("_", " ")
    default = field.default
    if default in (None, "", PydanticUndefined):
        return ""
    if isinstance(default, Path) and default.is_relative_to(ROOT):
        default = default.relative_to(ROOT)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    PAGE.write_text(settings_page())
