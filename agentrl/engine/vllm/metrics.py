"""A vLLM server's own counters, read now and then on a thread."""

from __future__ import annotations

import http.client
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

READ_EVERY_S = 1.0
TIMEOUT_S = 5.0
NAMES = {
    "vllm:kv_cache_usage_perc": "kv_used",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:prefix_cache_hits_total": "cached_tokens",
}


@dataclass(frozen=True, slots=True)
class Counters:
    """A server at one moment; summed over its engines, the usage averaged."""

    kv_used: float | None = None
    preemptions: int = 0
    """Those that weight updates cause are among them."""
    cached_tokens: int = 0


def parse(text: str) -> Counters:
    """Read Prometheus' text format. Names that vLLM does not give stay unknown."""
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        name = NAMES.get(line.partition("{")[0].partition(" ")[0])
        if name is not None:
            found.setdefault(name, []).append(float(line.rpartition(" ")[2]))
    used = found.get("kv_used")
    return Counters(
        sum(used) / len(used) if used else None,
        int(sum(found.get("preemptions", []))),
        int(sum(found.get("cached_tokens", []))),
    )


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """See `HTTPConnection.connect`."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


class MetricsReader:
    """Keeps `counters` about a second old; a server that does not answer leaves them as they are."""

    def __init__(self, url: str, path: Path | None) -> None:
        self.counters = Counters()
        self._url, self._path = urlsplit(url), path
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vllm-metrics", daemon=True)

    def start(self) -> None:
        """Begin reading."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; does not wait for a read under way."""
        self._stopped.set()

    def read(self) -> None:
        """Read once."""
        connection = self._connection()
        try:
            connection.request("GET", self._url.path.rstrip("/") + "/metrics")
            response = connection.getresponse()
            if response.status == 200:
                self.counters = parse(response.read().decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException, ValueError):
            return  # the next read may succeed; requests tell when the server is gone
        finally:
            connection.close()

    def _run(self) -> None:
        while not self._stopped.wait(READ_EVERY_S):
            self.read()

    def _connection(self) -> http.client.HTTPConnection:
        if self._path is not None:
            return _SocketConnection(self._path)
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else None
        kind = kind or http.client.HTTPConnection
        return kind(self._url.netloc, timeout=TIMEOUT_S)
