// The common server in Node: http (with WebSocket) on the first port, http2 without TLS on the second.
// node server.js PORT PORT2; see matrix_test.go for what it answers.
'use strict';
const crypto = require('crypto');
const http = require('http');
const http2 = require('http2');

let served = 0;

function answer(req, res) {
  const url = new URL(req.url, 'http://x');
  const n = Number(url.searchParams.get('n') || 0);
  if (url.pathname === '/count') return res.end(String(served));
  served++;
  switch (url.pathname) {
    case '/hello':
      return res.end('hello');
    case '/large':
      res.setHeader('content-length', n);
      return res.end(req.method === 'HEAD' ? undefined : Buffer.alloc(n, 'x'));
    case '/chunked': {
      let left = n;
      const more = () => (left-- > 0 ? res.write(Buffer.alloc(1000, 'x'), more) : res.end());
      return more();
    }
    case '/trailers':
      res.setHeader('trailer', 'x-sum');
      res.write('body');
      res.addTrailers({'x-sum': '42'});
      return res.end();
    case '/echo': {
      const parts = [];
      req.on('data', (d) => parts.push(d));
      req.on('end', () => res.end(Buffer.concat(parts)));
      return undefined;
    }
    default:
      res.statusCode = 404;
      return res.end();
  }
}

const one = http.createServer({keepAliveTimeout: 60000}, answer);
one.on('upgrade', (req, socket) => {
  served++;
  const key = crypto.createHash('sha1').update(req.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${key}\r\n\r\n`);
  let buf = Buffer.alloc(0);
  socket.on('error', () => socket.destroy());
  socket.on('data', (d) => { // frames of less than 126 bytes, as the clients send them
    buf = Buffer.concat([buf, d]);
    while (buf.length >= 6 && buf.length >= 6 + (buf[1] & 127)) {
      const size = buf[1] & 127;
      const text = Buffer.from(buf.subarray(6, 6 + size).map((b, i) => b ^ buf[2 + (i & 3)]));
      socket.write(Buffer.concat([Buffer.from([buf[0], size]), text]));
      if ((buf[0] & 15) === 8) socket.end();
      buf = buf.subarray(6 + size);
    }
  });
});
one.listen(Number(process.argv[2]), '127.0.0.1');
http2.createServer(answer).listen(Number(process.argv[3]), '127.0.0.1');
