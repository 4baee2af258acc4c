"""gRPC in Python, grpcio. grpc_client.py HOST:PORT calls gRPC's interop server, and prints CASE COUNT for each.

Messages are written by hand (fields of grpc.testing): no generated code is needed.
"""
import sys

import grpc

SERVICE = "/grpc.testing.TestService/"


def field(number, body):
    """A length-delimited field; lengths below 2**14."""
    n = len(body)
    return bytes([number << 3 | 2]) + (bytes([n]) if n < 128 else bytes([n & 127 | 128, n >> 7])) + body


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def output(size):
    return field(2, b"\x08" + varint(size))  # response_parameters {size}


with grpc.insecure_channel(sys.argv[1]) as channel:
    def code(call):
        try:
            call()
            return None
        except grpc.RpcError as e:
            return e.code()

    empty = channel.unary_unary(SERVICE + "EmptyCall")
    unary = channel.unary_unary(SERVICE + "UnaryCall")
    out = channel.unary_stream(SERVICE + "StreamingOutputCall")
    inp = channel.stream_unary(SERVICE + "StreamingInputCall")
    duplex = channel.stream_stream(SERVICE + "FullDuplexCall")
    status = field(7, b"\x08\x02" + field(2, b"test status message"))  # response_status {code: 2, message}
    print("empty", sum(empty(b"", timeout=60) == b"" for _ in range(20)))
    print("unary", sum(len(unary(b"\x10" + varint(30000), timeout=60)) > 30000 for _ in range(10)))
    print("output", sum(len(m) > 1000 for m in out(output(1000) * 12, timeout=60)))
    print("input", sum(inp(iter([field(1, field(2, b"x" * 100))] * 7), timeout=60) == b"\x08" + varint(700) for _ in range(3)))
    print("duplex", sum(len(m) > 500 for m in duplex(iter([output(500)] * 9), timeout=60)))
    print("status", sum(code(lambda: unary(status, timeout=60)) == grpc.StatusCode.UNKNOWN for _ in range(4)))
    print("deadline", sum(code(lambda: list(duplex(iter([field(2, b"\x08\x01\x10" + varint(60_000_000))]), timeout=0.2))) == grpc.StatusCode.DEADLINE_EXCEEDED for _ in range(2)))
    _, call = unary.with_call(b"", timeout=60, metadata=[("x-grpc-test-echo-initial", "first"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab")])
    print("metadata", (dict(call.initial_metadata()).get("x-grpc-test-echo-initial") == "first") + (dict(call.trailing_metadata()).get("x-grpc-test-echo-trailing-bin") == b"\xab\xab"))
    print("unimplemented", sum(code(lambda: channel.unary_unary("/grpc.testing.No/Such")(b"", timeout=60)) == grpc.StatusCode.UNIMPLEMENTED for _ in range(2)))
