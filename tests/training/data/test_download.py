import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from nuclei.errors import EngineUnavailable, InvalidData
from training.data.download import download


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        noise = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8)
        out.writestr("images/a.png", noise.tobytes())
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves one file, with ranges; breaks off after `break_after` bytes when it is set."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = archive()
        self.break_after: int | None = None
        self.served: list[tuple[int, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/stage1_train.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.content
        if not self.path.endswith("stage1_train.zip"):
            self.send_error(404)
            return
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = len(content) if self.server.break_after is None else self.server.break_after
        self.server.served.append((start, stop))
        self.wfile.write(content[start:stop])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_a_whole_download_is_verified_and_kept(server: Server, tmp_path: Path) -> None:
    path = download(server.url, tmp_path)
    assert path.read_bytes() == server.content
    digest = hashlib.sha256(server.content).hexdigest()
    assert (tmp_path / "stage1_train.zip.sha256").read_text().startswith(digest)
    download(server.url, tmp_path, digest)
    assert len(server.served) == 1


def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.break_after = 1_500_000
    with pytest.raises(EngineUnavailable, match="run the command again"):
        download(server.url, tmp_path)
    assert not (tmp_path / "stage1_train.zip").exists()
    server.break_after = None
    assert download(server.url, tmp_path).read_bytes() == server.content
    assert server.served[-1][0] > 0


def test_another_digest_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="SHA-256"):
        download(server.url, tmp_path, "0" * 64)
    assert not (tmp_path / "stage1_train.zip").exists()


def test_a_file_that_changed_since_is_noticed(server: Server, tmp_path: Path) -> None:
    path = download(server.url, tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InvalidData, match="download it again"):
        download(server.url, tmp_path)


def test_damaged_members_are_noticed(server: Server, tmp_path: Path) -> None:
    content = bytearray(server.content)
    content[1000] ^= 255
    server.content = bytes(content)
    with pytest.raises(InvalidData, match="damaged"):
        download(server.url, tmp_path)


def test_a_missing_archive_and_a_dead_server_are_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="404"):
        download(server.url.replace("stage1", "stage9").replace("train", "x"), tmp_path)
    server.server_close()
    with pytest.raises(EngineUnavailable, match="could not be fetched"):
        download("http://127.0.0.1:9/stage1_train.zip", tmp_path)
