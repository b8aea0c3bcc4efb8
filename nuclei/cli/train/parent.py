"""The model that a training starts from: `--from`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nuclei.cli.checkout import require_checkout
from nuclei.cli.versions import SEPARATOR, downloaded, find_version
from nuclei.console import messages
from nuclei.errors import InvalidData, ModelNotFound
from nuclei.registry import CHAMPION, DEFAULT_FAMILY, DEFAULT_MODEL, LICENCE_TAG
from nuclei.repository import default_repository

if TYPE_CHECKING:
    from serving.promotion.state import VersionState
    from serving.registry import Registry


@dataclass(frozen=True)
class Parent:
    """A model as training needs it.

    Attributes:
        name: for people, and to find it again: `nuclei-unet:3`, or a folder.
        files: folder of its files, as training registers them.
        tags: of the version; none of a folder.
    """

    name: str
    files: Path
    tags: Mapping[str, str]

    @property
    def licence(self) -> str:
        return self.tags.get(LICENCE_TAG, "")


def find_parent(text: str, tracking_uri: str) -> Parent:
    """The model that `--from` names.

    Args:
        text: `champion`, for that of the U-Net; `MODEL`, `MODEL:VERSION` or `MODEL:ALIAS`; or a
            folder, which has a slash.
        tracking_uri: of the registry.

    Raises:
        InvalidOption: no name.
        InvalidData: the folder or the files of the version cannot be used.
        ModelNotFound: no such model or version.
        RegistryUnavailable: the registry does not answer.
    """
    if "/" in text:
        return _in_folder(Path(text))
    from serving.registry import Registry

    registry = Registry(tracking_uri)
    version = _champion(registry) if text == CHAMPION else find_version(registry, text)
    entry = version.registered
    name = f"{entry.model}{SEPARATOR}{entry.version}"
    messages().print(f"starting from {name}", soft_wrap=True)
    return Parent(name, downloaded(registry, entry), entry.tags)


def _in_folder(folder: Path) -> Parent:
    from nuclei.inference.contract import CONTRACT_FILE

    if not (folder / CONTRACT_FILE).is_file():
        raise InvalidData(
            f"{folder} holds no {CONTRACT_FILE}; expected a folder with {CONTRACT_FILE} and "
            "network.onnx, as a registered version has them, or the name of one"
        )
    return Parent(str(folder.resolve()), folder.resolve(), {})


def _champion(registry: "Registry") -> "VersionState":
    """The champion of the U-Net; where there never was one, what the repository serves becomes it.

    `nuclei serve --sync` registers the same.
    """
    from serving.promotion.adoption import adopt_served
    from serving.promotion.state import read_state
    from serving.settings import CHECK_FRAME

    try:
        state = read_state(registry, DEFAULT_MODEL)
    except ModelNotFound:
        state = None
    if state is not None and (state.champion is not None or state.changes):
        return find_version(registry, f"{DEFAULT_MODEL}{SEPARATOR}{CHAMPION}")
    repository = default_repository()
    require_checkout(CHECK_FRAME, repository)
    adopt_served(registry, state, repository, DEFAULT_FAMILY, CHECK_FRAME)
    messages().print(
        f"{DEFAULT_MODEL} had no champion: what {repository} serves is registered as it",
        soft_wrap=True,
    )
    return find_version(registry, f"{DEFAULT_MODEL}{SEPARATOR}{CHAMPION}")
