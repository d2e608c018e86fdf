"""Flask on Python's own server, which opens its socket with wasi:sockets 0.2, on $PORT or 8080.

`curl -d 'Bob Morane' localhost:8080/hello` answers `👋 Hello Bob Morane`.
"""

import encodings.idna  # noqa: F401  the library loads it when it is needed, and then there are no files
import sys
import time
from wsgiref.simple_server import make_server

from flask import Flask, Response, request
from wit_world import exports
from wit_world.imports import environment

app = Flask(__name__)
count = 0


@app.get("/")
def root():
    return "POST your name to /hello\n"


@app.post("/hello")
def hello():
    return f"👋 Hello {request.get_data(as_text=True)}\n"


@app.post("/echo")
def echo():
    return request.get_data()


@app.get("/count")
def counted():
    global count
    count += 1
    return f"{count}\n"


@app.get("/stream")
def stream():
    def chunks():
        for number in range(5):
            yield f"chunk {number}\n"
            time.sleep(0.05)

    return Response(chunks(), mimetype="text/plain")


@app.get("/version")
def version():
    return f"Python {sys.version}\n"


class Run(exports.Run):
    def run(self):
        # os.environ is that of the machine that built this.
        variables = dict(environment.get_environment())
        # Not app.run: Werkzeug's server asks for its own version in files, of which there are none.
        with make_server("0.0.0.0", int(variables.get("PORT", "8080")), app) as server:
            server.serve_forever()
