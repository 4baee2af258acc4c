"""The common server in Python: http.server, HTTP/1.1. server.py PORT; see matrix_test.go for what it answers."""
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

served = 0
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return whole

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunks(self, parts, trailers=b"", **headers):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for part in parts:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()
        self.wfile.write(b"0\r\n" + trailers + b"\r\n")

    def handle_one(self):
        global served
        url = urlsplit(self.path)
        n = int(parse_qs(url.query).get("n", ["0"])[0])
        if url.path == "/count":
            return self.answer(str(served).encode())
        with lock:
            served += 1
        if url.path == "/hello":
            self.answer(b"hello")
        elif url.path == "/echo":
            self.answer(self.body())
        elif url.path == "/large":
            self.answer(b"x" * n)
        elif url.path == "/chunked":
            self.chunks([b"x" * 1000] * n)
        elif url.path == "/trailers":
            self.chunks([b"body"], b"x-sum: 42\r\n", Trailer="x-sum")
        else:
            self.send_error(404)

    do_GET = do_HEAD = do_POST = handle_one


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
