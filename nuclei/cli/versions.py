"""Registered versions, as a command line names them: `unet:3`, `unet:champion`, `unet`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nuclei.errors import ModelNotFound
from nuclei.quoting import quoted
from nuclei.registry import home

if TYPE_CHECKING:
    from serving.promotion.state import ModelState, VersionState
    from serving.registry import RegisteredVersion, Registry

SEPARATOR = ":"


def find_version(registry: "Registry", text: str) -> "VersionState":
    """The version of `MODEL:VERSION` or `MODEL:ALIAS`; of `MODEL` the champion, or else the newest.

    Args:
        registry: of the models.
        text: as given; a model may be named by its family.

    Raises:
        InvalidOption: it is no name.
        ModelNotFound: there is no such model, version or alias.
        RegistryUnavailable: the registry does not answer.
    """
    from serving.promotion.state import read_state

    model, _, which = text.partition(SEPARATOR)
    state = read_state(registry, model)
    if which:
        return state.find(number_of(state, which))
    if not state.versions:
        raise ModelNotFound(f"'{state.name}' has no version; train one")
    return state.versions[0] if state.champion is None else state.find(state.champion)


def number_of(state: "ModelState", text: str) -> int:
    """The number of the version that a number or an alias names; raises ModelNotFound."""
    if text.isascii() and text.isdecimal():
        return state.find(int(text)).version
    aliases = {alias: one.version for one in state.versions for alias in one.registered.aliases}
    if text not in aliases:
        raise ModelNotFound(
            f"'{state.name}' has no alias {quoted(text)}; expected one of "
            f"{', '.join(sorted(aliases)) or 'none yet'}, or a version"
        )
    return aliases[text]


def downloaded(registry: "Registry", version: "RegisteredVersion") -> Path:
    """The files of a version in `~/.nuclei/downloads/`, kept so that a training can be resumed.

    Raises:
        InvalidData: they are gone, or no plain files.
        RegistryUnavailable: the registry or its store does not answer.
    """
    from serving.promotion.artifacts import digest

    downloads = home() / "downloads"
    downloads.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=downloads) as scratch:
        files = registry.download(version, Path(scratch))
        # Versions of other registries have the same numbers.
        folder = downloads / f"{version.model}-{version.version}-{digest(files)[:12]}"
        if not folder.exists():
            files.rename(folder)
    return folder
