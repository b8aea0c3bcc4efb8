"""Download the public BBBC038 archives: shows progress, resumes, verifies."""

import hashlib
import zipfile
from pathlib import Path

import httpx
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from nuclei.errors import EngineUnavailable, InvalidData

SOURCE = "https://data.broadinstitute.org/bbbc/BBBC038"
ARCHIVES = ("stage1_train.zip", "stage1_test.zip", "stage2_test_final.zip")
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
COLUMNS = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())


def download(url: str, folder: Path, sha256: str | None = None) -> Path:
    """Fetch one archive into a folder; a file that is already there is only verified.

    An interrupted download leaves `<name>.partial`, which the next call continues. Every member of
    the archive is checked against its CRC-32, and the whole against `sha256` when it is known. The
    SHA-256 is kept beside the archive as `<name>.sha256` and must not change later.

    Args:
        url: address of a zip.
        folder: created if missing.
        sha256: expected digest, hexadecimal; None takes the one kept beside the file, if any.

    Returns:
        Path of the archive.

    Raises:
        EngineUnavailable: the server does not answer, or refuses.
        InvalidData: the archive is damaged or has another digest; the file is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / url.rsplit("/", 1)[-1]
    partial = target.with_name(target.name + ".partial")
    kept = target.with_name(target.name + ".sha256")
    if not target.exists():
        _fetch(url, partial)
        partial.rename(target)
    expected = sha256 or (kept.read_text().split()[0] if kept.exists() else None)
    digest = _digest(target)
    if expected is not None and digest != expected.lower():
        target.unlink()
        raise InvalidData(
            f"{target} has SHA-256 {digest}, expected {expected}; it was removed, download it again"
        )
    _check_members(target)
    kept.write_text(f"{digest}  {target.name}\n")
    return target


def _fetch(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with httpx.stream(
            "GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True
        ) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # the partial file is already complete
            response.raise_for_status()
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
            have = have if resumed else 0
            total = have + int(response.headers.get("content-length", 0))
            with partial.open("ab" if resumed else "wb") as file, Progress(*COLUMNS) as bar:
                task = bar.add_task(partial.stem, total=total or None, completed=have)
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
                    bar.advance(task, len(chunk))
    except httpx.HTTPError as error:
        raise EngineUnavailable(
            f"{url} could not be fetched ({error or type(error).__name__}); run the command again "
            "to continue where it stopped, or fetch the file yourself"
        ) from error
    if total and partial.stat().st_size != total:
        raise EngineUnavailable(
            f"{url} stopped at {partial.stat().st_size} of {total} bytes; run the command again to "
            "go on where it stopped"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_members(path: Path) -> None:
    try:
        damaged = zipfile.ZipFile(path).testzip()
    except zipfile.BadZipFile as error:
        damaged = str(error)
    if damaged is not None:
        path.unlink()
        raise InvalidData(f"{path} is damaged ({damaged}); it was removed, download it again")
