"""A handler of wasi:http 0.2 in Python, written to its interface alone."""

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingBody,
    IncomingRequest,
    Method_Post,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

CHUNK = 64 << 10
WRITE_MAX = 4096  # what a stream takes at once


class IncomingHandler(exports.IncomingHandler):
    count = 0

    def handle(self, request: IncomingRequest, response_out: ResponseOutparam):
        IncomingHandler.count += 1
        path = (request.path_with_query() or "/").partition("?")[0]
        if path == "/echo":
            answer(response_out, 200, received(request))
        elif path in ("/", "/hello") and isinstance(request.method(), Method_Post):
            name = b"".join(received(request)).decode(errors="replace")
            answer(response_out, 200, [f"👋 Hello {name}\n".encode()])
        elif path in ("/", "/hello"):
            answer(response_out, 200, [b"Hello\n"], 6)
        elif path == "/count":
            answer(response_out, 200, [f"{IncomingHandler.count}\n".encode()])
        elif path == "/raise":
            raise RuntimeError("as asked")
        else:
            answer(response_out, 404, [b"no such page\n"])


def answer(response_out, status, parts, length=None):
    fields = [("content-type", b"text/plain; charset=utf-8")]
    if length is not None:
        fields.append(("content-length", str(length).encode()))
    response = OutgoingResponse(Fields.from_list(fields))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for part in parts:
            for start in range(0, len(part), WRITE_MAX):
                stream.blocking_write_and_flush(part[start : start + WRITE_MAX])
    OutgoingBody.finish(body, None)


def received(request):
    """The body, bit by bit."""
    body = request.consume()
    with body.stream() as stream:
        while True:
            try:
                yield stream.blocking_read(CHUNK)
            except Exception:  # noqa: BLE001  the end of the stream is an error
                break
    IncomingBody.finish(body)
