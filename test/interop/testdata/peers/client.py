"""A client in Python. client.py NAME=HOST:PORT/CASE,CASE… prints NAME/CASE COUNT for each, see matrix_test.go.

http.client where it can, the bytes themselves where it cannot (trailers, 100-continue, WebSocket).
"""
import base64
import hashlib
import http.client
import os
import socket
import sys

LARGE = 4 << 20


def h1(addr):
    return http.client.HTTPConnection(addr, timeout=60)


def one_connection(addr, times, call):
    """Calls over one connection, which must not have been opened anew."""
    c, ok, local = h1(addr), 0, None
    for i in range(times):
        ok += call(c, i)
        if local is None:
            local = c.sock.getsockname()
        assert c.sock is not None and c.sock.getsockname() == local, "the connection was closed"
    c.close()
    return ok


def ask(c, method, path, body=None, **kw):
    c.request(method, path, body, **kw)
    r = c.getresponse()
    assert r.status == 200, (r.status, r.read())
    return r, r.read()


def hello(addr):
    return one_connection(addr, 20, lambda c, i: ask(c, "GET", "/hello")[1] == b"hello")


def echo(addr):
    return one_connection(addr, 10, lambda c, i: ask(c, "POST", "/echo", b"%d" % i * 5000)[1] == b"%d" % i * 5000)


def chunkedecho(addr):
    return one_connection(addr, 10, lambda c, i: ask(c, "POST", "/echo", iter([b"x" * 700] * 5), encode_chunked=True,
                                                      headers={"Transfer-Encoding": "chunked"})[1] == b"x" * 3500)


def chunked(addr):
    return one_connection(addr, 10, lambda c, i: len(ask(c, "GET", "/chunked?n=7")[1]) == 7000)


def large(addr):
    body = os.urandom(LARGE)
    return one_connection(addr, 2, lambda c, i: ask(c, "POST", "/echo", body)[1] == body if i else len(ask(c, "GET", "/large?n=%d" % LARGE)[1]) == LARGE)


def head(addr):
    def call(c, i):
        r, body = ask(c, "HEAD", "/large?n=12345")
        return r.getheader("content-length") == "12345" and body == b""
    return one_connection(addr, 5, call)


class Raw:
    def __init__(self, addr):
        host, port = addr.rsplit(":", 1)
        self.s = socket.create_connection((host, int(port)), timeout=60)
        self.f = self.s.makefile("rb")

    def send(self, b):
        self.s.sendall(b)

    def head(self):
        lines = []
        while line := self.f.readline().rstrip(b"\r\n"):
            lines.append(line.lower() if lines else line)
        return lines

    def close(self):
        self.f.close()
        self.s.close()


def trailers(addr):
    ok, c = 0, Raw(addr)
    for _ in range(10):
        c.send(b"GET /trailers HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n")
        assert c.head()[0] == b"HTTP/1.1 200 OK"
        body = b""
        while size := int(c.f.readline(), 16):
            body += c.f.read(size)
            c.f.readline()
        ok += body == b"body" and [h.lower() for h in c.head()] == [b"x-sum: 42"]
    c.close()
    return ok


def expect(addr):
    ok, c = 0, Raw(addr)
    for _ in range(5):
        c.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert c.head()[0].startswith(b"HTTP/1.1 100"), "no 100"
        c.send(b"12345")
        h = c.head()
        assert h[0] == b"HTTP/1.1 200 OK", h
        if b"transfer-encoding: chunked" in h:
            assert int(c.f.readline(), 16) == 5
            ok += c.f.read(5) == b"12345"
            c.f.read(7)
        else:
            ok += c.f.read(5) == b"12345"
    c.close()
    return ok


def websocket(addr):
    c, ok = Raw(addr), 0
    key = base64.b64encode(os.urandom(16))
    c.send(b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n")
    h = c.head()
    want = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    assert h[0].startswith(b"HTTP/1.1 101") and b"sec-websocket-accept: " + want.lower() in h, h
    for i in range(10):
        text, mask = b"message %d" % i, os.urandom(4)
        c.send(bytes([0x81, 0x80 | len(text)]) + mask + bytes(b ^ mask[k & 3] for k, b in enumerate(text)))
        assert c.f.read(1) == b"\x81"
        ok += c.f.read(c.f.read(1)[0]) == text
    c.close()
    return ok


cases = {f.__name__: f for f in (hello, echo, chunkedecho, chunked, large, head, trailers, expect, websocket)}
for arg in sys.argv[1:]:
    name, rest = arg.split("=", 1)
    addr, names = rest.split("/", 1)
    for case in names.split(","):
        try:
            print(name + "/" + case, int(cases[case](addr)), flush=True)
        except Exception as e:  # the others go on
            print(name + "/" + case, "failed:", repr(e), flush=True)
