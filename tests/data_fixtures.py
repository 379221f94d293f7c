"""Small images, image files and a local web server for the tests of ``vaelid.data``."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vaelid.data import DataSettings, Images
from vaelid.supports import levels

needs_real_data = pytest.mark.skipif(
    not os.environ.get("VAELID_DATA"), reason="VAELID_DATA does not name a folder with mnist/ and binarized_mnist/"
)


def settings(name: str = "example", **given: object) -> DataSettings:
    return DataSettings(name, **given)  # type: ignore[arg-type]


def ramp(count: int = 20, side: int = 4, gray_levels: int = 256) -> Images:
    """Images of every level in turn, shape (1, side, side), with their number modulo 3 as label."""
    values = torch.arange(count * side * side) * 7 % gray_levels
    pixels = values.to(torch.uint8).view(count, 1, side, side)
    return Images("ramp", pixels, levels(gray_levels), torch.arange(count) % 3, ("a", "b", "c"))


def gray_pixels(seed: int = 0, rows: int = 6, columns: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)


def save_gray(path: Path, seed: int = 0, rows: int = 6, columns: int = 6) -> np.ndarray:
    pixels = gray_pixels(seed, rows, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files``; what a request asked for is kept in ``server.seen``."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.seen.append((self.path, wanted))
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start and start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[start : self.server.cut])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """Files at paths; ``ranges`` tells whether parts can be asked for, ``cut`` where every connection ends early."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.seen: list[tuple[str, str | None]] = []
        self.ranges = True
        self.cut: int | None = None

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    with Server(files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
