"""A stand-in for Google Storage: an HTTP server that speaks its JSON API.

The programs' own clients talk to it (gcsfs under `epath`, TensorStore under Orbax), told
where it is by the variables that they have for emulators. It keeps what a bucket keeps:
objects by name, each whole or not there, with a generation that every write changes and
that a write or a deletion may ask for. There are no folders, and nothing renames: a
request to copy or to rewrite an object is refused and counted.

`die_at` kills a process at one of its writes, before it counts or after, which no test
could time from outside.
"""

import dataclasses
import http.server
import json
import os
import pathlib
import signal
import threading
import urllib.parse
from collections.abc import Iterator

_CLIENTS = {
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask over gRPC
    "FSSPEC_GCS_TOKEN": "anon",
    "GCE_METADATA_ROOT": "127.0.0.1:9",  # TensorStore looks for credentials there
    "NO_GCE_CHECK": "true",
}


@dataclasses.dataclass
class Object:
    """What lies under a name."""

    data: bytes
    generation: int


class Bucket:
    """The objects of one bucket, and what shall happen to who writes them."""

    def __init__(self, name: str = "bucket"):
        """Holds nothing yet."""
        self.name = name
        self.objects: dict[str, Object] = {}
        self.written: list[str] = []  # names, in order
        self.num_renames = 0
        self.environment: dict[str, str] = {}
        self.delay_seconds = 0.0  # before every answer
        self.victim = 0  # process that `die_at` is about
        self._death: tuple[str, int, bool] | None = None
        self._last = 1000
        self._lock = threading.RLock()

    def path(self, name: str) -> str:
        """An address in it."""
        return f"gs://{self.name}/{name}"

    def names(self, prefix: str = "") -> list[str]:
        """The names that there are, in order."""
        with self._lock:
            return sorted(name for name in self.objects if name.startswith(prefix))

    def download(self, prefix: str, folder: pathlib.Path) -> None:
        """Copies what lies below a name into a folder."""
        for name in self.names(prefix):
            path = folder / name.removeprefix(prefix).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.objects[name].data)

    def die_at(self, count: int, part: str, *, after: bool) -> None:
        """Kills the process `victim` at write number `count` to a name with `part`."""
        self._death = (part, count, after)

    def put(self, name: str, data: bytes, wanted: int | None) -> Object | None:
        """Writes an object; None if its generation is not the one wanted (0: none)."""
        with self._lock:
            if not self._matches(name, wanted):
                return None
            self._reap(name, after=False)
            self._last += 1
            self.objects[name] = Object(data, self._last)
            self.written.append(name)
            self._reap(name, after=True)
            return self.objects[name]

    def delete(self, name: str, wanted: int | None) -> int:
        """Deletes an object; the status of HTTP."""
        with self._lock:
            if not self._matches(name, wanted):
                return 412
            return 204 if self.objects.pop(name, None) else 404

    def _matches(self, name: str, wanted: int | None) -> bool:
        found = self.objects.get(name)
        return wanted is None or wanted == (found.generation if found else 0)

    def _reap(self, name: str, *, after: bool) -> None:
        if self._death is None:
            return
        part, count, is_after = self._death
        if part not in name or is_after != after:
            return
        self._death = (part, count - 1, is_after) if count > 1 else None
        if count == 1:
            os.kill(self.victim, signal.SIGKILL)
            if not after:  # the write was on its way, and never came
                raise ConnectionAbortedError


def serve(name: str = "bucket") -> Iterator[Bucket]:
    """Yields a bucket that can be reached by whoever has its `environment`."""
    bucket = Bucket(name)
    handler = type("Handler", (_Handler,), {"bucket": bucket, "uploads": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        where = f"http://127.0.0.1:{server.server_port}"
        places = {"STORAGE_EMULATOR_HOST": where, "TENSORSTORE_GCS_HTTP_URL": where}
        bucket.environment = _CLIENTS | places
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield bucket
        server.shutdown()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    bucket: Bucket
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body together: else every answer waits for the network
    disable_nagle_algorithm = True
    uploads: dict[str, tuple[str, int | None, bytearray]]  # that come in pieces

    def log_message(self, *_):
        """Says nothing."""

    def handle_one_request(self):
        """As always; a write that was cut off gets no answer."""
        try:
            super().handle_one_request()
        except (ConnectionAbortedError, ConnectionResetError, BrokenPipeError):
            self.close_connection = True

    def do_GET(self):
        """An object, its description, or a list of names."""
        key, query = self._asked()
        if not key and not self.path.partition("?")[0].endswith("/o"):
            return self._json(200, {"name": self.bucket.name, "kind": "bucket"})
        if not key:
            return self._json(200, self._listed(query))
        found = self.bucket.objects.get(key)
        if found is None:
            return self._json(404, {"error": {"code": 404, "message": "not found"}})
        if query.get("ifGenerationNotMatch") == str(found.generation):
            return self._send(304, b"", {})
        if query.get("ifGenerationMatch", str(found.generation)) != str(
            found.generation
        ):
            return self._json(412, {})
        if query.get("alt") != "media":
            return self._json(200, _about(self.bucket, key, found))
        return self._media(found)

    def do_POST(self):
        """Writes an object, or begins to."""
        body, (_, query) = self._body(), self._asked()
        if "/upload/" not in self.path:  # copyTo, rewriteTo, compose
            self.bucket.num_renames += 1
            return self._json(501, {"error": {"code": 501, "message": "no renames"}})
        if "upload_id" in query:
            return self._piece(body, query)
        kind = query.get("uploadType", "media")
        if kind == "media":
            return self._put(query["name"], body, query)
        if kind == "multipart":
            about, data = _parts(body, self.headers["Content-Type"])
            return self._put(about["name"], data, query)
        name = json.loads(body or b"{}").get("name", query.get("name"))
        number = str(len(self.uploads))
        self.uploads[number] = (name, _wanted(query), bytearray())
        address = f"http://{self.headers['Host']}{self.path}&upload_id={number}"
        return self._send(200, b"", {"Location": address})

    def do_PUT(self):
        """A piece of an object that comes in pieces."""
        return self._piece(self._body(), self._asked()[1])

    def _piece(self, body, query):
        name, wanted, data = self.uploads[query["upload_id"]]
        data += body
        if self.headers.get("Content-Range", "").endswith("/*"):
            return self._send(308, b"", {"Range": f"bytes=0-{len(data) - 1}"})
        wanted = {} if wanted is None else {"ifGenerationMatch": str(wanted)}
        return self._put(name, bytes(data), wanted)

    def do_DELETE(self):
        """Deletes an object."""
        key, query = self._asked()
        status = self.bucket.delete(key, _wanted(query))
        return self._send(status, b"", {})

    def _asked(self):
        """The name of the object, None if there is none, and the query."""
        threading.Event().wait(self.bucket.delay_seconds)
        path, _, query = self.path.partition("?")
        found = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        key = path.partition("/o/")[2]
        return (urllib.parse.unquote(key) if key else None), found

    def _body(self):
        """What was sent, in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _put(self, name, data, query):
        made = self.bucket.put(name, data, _wanted(query))
        if made is None:
            return self._json(412, {"error": {"code": 412, "message": "generation"}})
        return self._json(200, _about(self.bucket, name, made))

    def _listed(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        names, folders = [], set()
        for name in self.bucket.names(prefix):
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                names.append(name)
        objects = self.bucket.objects
        items = [_about(self.bucket, n, objects[n]) for n in names if n in objects]
        return {"kind": "objects", "items": items, "prefixes": sorted(folders)}

    def _media(self, found):
        data, status = found.data, 200
        about = {"x-goog-generation": str(found.generation)}
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        if asked:
            first, _, last = asked.partition("-")
            start = int(first) if first else max(0, len(data) - int(last))
            end = int(last) + 1 if first and last else len(data)
            if start >= len(data):
                return self._send(416, b"", about)
            total = len(data)
            data, status = data[start:end], 206
            about["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{total}"
        return self._send(status, data, about)

    def _json(self, status, record):
        self._send(status, json.dumps(record).encode(), {"Content-Type": "text/json"})

    def _send(self, status, data, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _wanted(query):
    """The generation that a write asks for, None if it does not."""
    text = query.get("ifGenerationMatch")
    return None if text is None else int(text)


def _about(bucket, name, found):
    """An object's description."""
    return {
        "kind": "storage#object",
        "name": name,
        "bucket": bucket.name,
        "size": str(len(found.data)),
        "generation": str(found.generation),
        "metageneration": "1",
        "updated": "2026-01-01T00:00:00.000Z",
        "timeCreated": "2026-01-01T00:00:00.000Z",
    }


def _parts(body, kind):
    """The JSON and the data of a body of two parts."""
    boundary = kind.partition("boundary=")[2].strip("\"'").encode()
    _, about, data, _ = body.split(b"--" + boundary, 3)
    content = lambda part: part.partition(b"\r\n\r\n")[2] or part.partition(b"\n\n")[2]
    data = content(data)
    end = 2 if data.endswith(b"\r\n") else 1
    return json.loads(content(about)), data[:-end]
