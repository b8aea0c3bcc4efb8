"""Model versions that were downloaded, in a bounded folder of this machine.

`<folder>/<registered model>/<version>/` holds `files/`, exactly what the registry has, and `digest`
of it. Each is downloaded beside its place and moved in whole. How often a version could not be
tried, because Triton ended meanwhile, stands in `<version>/attempts`.
"""

import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nuclei.inference.contract import CONTRACT_FILE, MAX_BYTES, Contract
from nuclei.inference.model_config import versions_of
from nuclei.inference.reference import Reference, read_references
from serving.promotion.artifacts import digest
from serving.registry import RegisteredVersion, Registry
from serving.repository.files import check_file

_FILES, _DIGEST, _ATTEMPTS = "files", "digest", "attempts"
_INCOMING = ".incoming"


@dataclass(frozen=True)
class StoredVersion:
    """A version that was downloaded.

    Attributes:
        folder: of its files.
        digest: of them.
    """

    folder: Path
    digest: str

    def contract(self) -> Contract:
        """Its contract; raises InvalidData when it has none that can be used."""
        path = self.folder / CONTRACT_FILE
        check_file(path, MAX_BYTES)
        return Contract.read(path)

    def references(self) -> list[Reference]:
        """What it must answer to an image of each kind; raises InvalidData when it has none."""
        return read_references(self.folder, self.contract())


class Store:
    """The versions of one registered model."""

    def __init__(self, folder: Path, model: str, max_versions: int, max_bytes: int) -> None:
        """Name the folder; it is made with the first download.

        Args:
            folder: for all models.
            model: name of the registered model.
            max_versions: most versions that are kept, besides those that are in use.
            max_bytes: most bytes of them.
        """
        self._folder = folder / model
        self._max_versions, self._max_bytes = max_versions, max_bytes

    def find(self, version: int) -> StoredVersion | None:
        """A version that is there."""
        folder = self._folder / str(version)
        try:
            return StoredVersion(folder / _FILES, (folder / _DIGEST).read_text())
        except FileNotFoundError:
            return None

    def fetch(self, registry: Registry, entry: RegisteredVersion, admitted: str) -> StoredVersion:
        """Download a version unless it is there.

        Args:
            registry: that has it.
            entry: the version.
            admitted: digest that it ought to have. Another one may be of a version of this number
                in a registry that was here before.

        Raises:
            InvalidData: its files are gone, or not what a version has.
            RegistryUnavailable: the registry or its store does not answer.
        """
        if (found := self.find(entry.version)) is not None and found.digest == admitted:
            return found
        incoming = self._folder / _INCOMING
        # What a killed download left.
        shutil.rmtree(incoming, ignore_errors=True)
        scratch = incoming / "download"
        scratch.mkdir(parents=True)
        try:
            registry.download(entry, scratch).rename(incoming / _FILES)
            shutil.rmtree(scratch, ignore_errors=True)
            (incoming / _DIGEST).write_text(digest(incoming / _FILES))
            target = self._folder / str(entry.version)
            shutil.rmtree(target, ignore_errors=True)
            incoming.rename(target)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return StoredVersion(target / _FILES, (target / _DIGEST).read_text())

    def discard(self, version: int) -> None:
        """Remove a version; harmless when it is gone."""
        folder = self._folder / str(version)
        # Without it the rest is not taken for a version.
        (folder / _DIGEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def trim(self, in_use: Collection[int]) -> None:
        """Remove the oldest versions beyond the bounds; those in use stay and count as well."""
        versions = sorted(versions_of(self._folder), reverse=True)
        spare = [version for version in versions if version not in in_use]
        total = sum(self._bytes(version) for version in versions if version in in_use)
        for place, version in enumerate(spare):
            total += self._bytes(version)
            if place >= self._max_versions or total > self._max_bytes:
                total -= self._bytes(version)
                self.discard(version)

    def bytes(self) -> int:
        """What all versions take."""
        return sum(self._bytes(version) for version in versions_of(self._folder))

    def attempts(self, version: int) -> int:
        """How often Triton ended while the version was tried, since it last worked."""
        try:
            return int((self._folder / str(version) / _ATTEMPTS).read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def note_attempts(self, version: int, attempts: int) -> None:
        """Remember them; harmless when the version is gone."""
        with suppress(FileNotFoundError):
            (self._folder / str(version) / _ATTEMPTS).write_text(str(attempts))

    def _bytes(self, version: int) -> int:
        folder = self._folder / str(version)
        with suppress(FileNotFoundError):
            return sum(path.lstat().st_size for path in folder.rglob("*"))
        return 0
