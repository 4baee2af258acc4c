"""HTTP/2 without TLS in Python, with h2. client_h2.py NAME=HOST:PORT/CASE,CASE… prints NAME/CASE COUNT for each.

All requests of a case are streams of one connection at the same time.
"""
import socket
import sys

import h2.config
import h2.connection
import h2.events

LARGE = 4 << 20


class Connection:
    def __init__(self, addr):
        host, port = addr.rsplit(":", 1)
        self.s = socket.create_connection((host, int(port)), timeout=60)
        self.addr = addr
        self.c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.c.initiate_connection()
        self.flush()

    def flush(self):
        self.s.sendall(self.c.data_to_send())

    def all(self, n, method, path, body=b"", extra=()):
        """n requests at once: their heads, bodies and trailers."""
        left, out = {}, {}
        for _ in range(n):
            i = self.c.get_next_available_stream_id()
            self.c.send_headers(i, [(":method", method), (":path", path), (":scheme", "http"), (":authority", self.addr), *extra], end_stream=not body)
            left[i], out[i] = body, [{}, b"", {}, False]
        while not all(o[3] for o in out.values()):
            for i, b in left.items():
                while b and (room := min(self.c.local_flow_control_window(i), self.c.max_outbound_frame_size, len(b))):
                    self.c.send_data(i, b[:room], end_stream=room == len(b))
                    b = b[room:]
                left[i] = b
            self.flush()
            data = self.s.recv(1 << 16)
            assert data, "the connection was closed"
            for e in self.c.receive_data(data):
                if isinstance(e, h2.events.ResponseReceived):
                    out[e.stream_id][0] = dict(e.headers)
                elif isinstance(e, h2.events.DataReceived):
                    out[e.stream_id][1] += e.data
                    self.c.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
                elif isinstance(e, h2.events.TrailersReceived):
                    out[e.stream_id][2] = dict(e.headers)
                elif isinstance(e, h2.events.StreamEnded):
                    out[e.stream_id][3] = True
                elif isinstance(e, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    raise AssertionError(e)
        self.flush()
        for o in out.values():
            assert o[0][":status"] == "200", o[:2]
        return out.values()


cases = {
    "hello": lambda c: sum(o[1] == b"hello" for o in c.all(20, "GET", "/hello")),
    "echo": lambda c: sum(o[1] == b"x" * 5000 for o in c.all(10, "POST", "/echo", b"x" * 5000, [("content-length", "5000")])),
    "chunkedecho": lambda c: sum(o[1] == b"x" * 5000 for o in c.all(10, "POST", "/echo", b"x" * 5000)),
    "chunked": lambda c: sum(len(o[1]) == 7000 for o in c.all(10, "GET", "/chunked?n=7")),
    "large": lambda c: sum(len(o[1]) == LARGE for o in c.all(1, "GET", "/large?n=%d" % LARGE)) + sum(o[1] == b"0123" * (LARGE // 4) for o in c.all(1, "POST", "/echo", b"0123" * (LARGE // 4))),
    "head": lambda c: sum(o[0]["content-length"] == "12345" and o[1] == b"" for o in c.all(5, "HEAD", "/large?n=12345")),
    "trailers": lambda c: sum(o[2].get("x-sum") == "42" and o[1] == b"body" for o in c.all(10, "GET", "/trailers", b"", [("te", "trailers")])),
}
for arg in sys.argv[1:]:
    name, rest = arg.split("=", 1)
    addr, names = rest.split("/", 1)
    connection = Connection(addr)
    for case in names.split(","):
        try:
            print(name + "/" + case, cases[case](connection), flush=True)
        except Exception as e:  # the others go on
            print(name + "/" + case, "failed:", repr(e), flush=True)
            connection = Connection(addr)
