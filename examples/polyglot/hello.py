"""One service of the polyglot example. It needs $PORT, and $OUTRIGGER_<SERVICE>_URL for each service that it calls.

GET /                     who answers
GET /call/SERVICE/REST    what SERVICE answers to /REST, and who asked
GET /healthz              200
"""

import json
import os
import signal
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ME = {"service": "python", "language": "Python " + sys.version.split()[0]}


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, {"ok": True})
        if self.path == "/":
            return self.answer(200, ME)
        parts = self.path.split("/", 3)  # "", "call", service, rest
        if len(parts) < 3 or parts[1] != "call":
            return self.answer(404, {"error": "no such path"})
        base = os.environ.get("OUTRIGGER_" + parts[2].upper().replace("-", "_") + "_URL")
        if not base:
            return self.answer(404, {"error": "no address for " + parts[2]})
        try:
            with urllib.request.urlopen(base + "/" + (parts[3] if len(parts) > 3 else ""), timeout=10) as r:
                return self.answer(200, dict(ME, called=json.load(r)))
        except OSError as e:
            return self.answer(502, {"error": str(e)})

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Hello)
server.daemon_threads = True
# shutdown() waits for the loop that runs in this very thread, so another one has to call it.
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
