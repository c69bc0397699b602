"""A server of images for peers that TensorFlow Serving cannot serve; they are charged its lines.

`serve(sample)` answers GET /?n=16 with the bytes of an .npy file of 16 images.
"""

import io
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlparse

import numpy as np


def server(sample, port: int = 8080) -> HTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            (number,) = parse_qs(urlparse(self.path).query).get("n", ["1"])
            body = io.BytesIO()
            np.save(body, sample(int(number)))
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.end_headers()
            self.wfile.write(body.getvalue())

    return HTTPServer(("127.0.0.1", port), Handler)


def serve(sample, port: int = 8080) -> None:
    server(sample, port).serve_forever()
