"""The process behind `tests.clusters.front`, which needs the standard library alone and so starts at once.

What it does is read at each request from `control.json` in its folder: `delay` in seconds, and `is_older`, with which
it answers what `older.json` holds.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: str
    folder: Path

    def do_GET(self) -> None:
        control = json.loads((self.folder / "control.json").read_text())
        time.sleep(control["delay"])
        body = (self.folder / "older.json").read_bytes() if control["is_older"] else self._from_behind()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _from_behind(self) -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is in the same place
        with urllib.request.urlopen(self.behind, context=context) as answer:  # noqa: S310 - an address of ours
            body: bytes = answer.read()
            return body


def main(host: str, port: str, behind: str, folder: str) -> None:
    """Serve until killed."""
    _Handler.behind, _Handler.folder = behind, Path(folder)
    server = ThreadingHTTPServer((host, int(port)), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(folder) / "pair.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    (Path(folder) / "ready").touch()
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
