"""The hub as a test can have it: a cache in its own layout, a closed port, a small server."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager

import pyarrow.parquet as pq
import pytest

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of huggingface_hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def dead_hub(monkeypatch):
    """No network, but nobody said HF_HUB_OFFLINE: a closed port on this machine stands for it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def put_into_cache(cache):
    """Puts Parquet files of a split into the cache as `hf download` does."""

    def put(split, files, row_group_size=20):
        repository = cache / f"datasets--{split.repository.replace('/', '--')}"
        revision = split.revision or SHA
        if split.revision is None:
            (repository / "refs").mkdir(parents=True)
            (repository / "refs" / "main").write_text(SHA)
        for file, content in files.items():
            path = repository / "snapshots" / revision / file
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(content, path, row_group_size=row_group_size)

    return put


@pytest.fixture
def answering_hub(dead_hub, monkeypatch):
    """A hub on this machine, which answers every request alike: with a status and an error code."""
    from huggingface_hub import constants

    @contextmanager
    def answering(status, code):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_address[1]}"
            monkeypatch.setattr(constants, "ENDPOINT", address)
            template = address + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            try:
                yield
            finally:
                server.shutdown()

    return answering
