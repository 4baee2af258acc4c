// One service of the polyglot example. It needs $PORT, and $OUTRIGGER_<SERVICE>_URL for each service that it calls.
//
// GET /                     who answers
// GET /call/SERVICE/REST    what SERVICE answers to /REST, and who asked
// GET /healthz              200
'use strict';
const http = require('http');

const me = { service: 'node', language: 'Node ' + process.version };

function answer(res, status, body) {
  const data = Buffer.from(JSON.stringify(body));
  res.writeHead(status, { 'content-type': 'application/json', 'content-length': data.length });
  res.end(data);
}

function call(url, done) {
  const req = http.get(url, { timeout: 10000 }, (r) => {
    const parts = [];
    r.on('data', (d) => parts.push(d));
    r.on('error', done);
    r.on('end', () => {
      try {
        if (r.statusCode !== 200) throw new Error('status ' + r.statusCode);
        done(null, JSON.parse(Buffer.concat(parts)));
      } catch (e) {
        done(e);
      }
    });
  });
  req.on('timeout', () => req.destroy(new Error('timeout')));
  req.on('error', done);
}

const server = http.createServer((req, res) => {
  if (req.url === '/healthz') return answer(res, 200, { ok: true });
  if (req.url === '/') return answer(res, 200, me);
  const m = /^\/call\/([^/]+)(\/.*)?$/.exec(req.url);
  if (!m) return answer(res, 404, { error: 'no such path' });
  const base = process.env['OUTRIGGER_' + m[1].toUpperCase().replace(/-/g, '_') + '_URL'];
  if (!base) return answer(res, 404, { error: 'no address for ' + m[1] });
  let told = false;
  call(base + (m[2] || '/'), (err, body) => {
    if (told) return;
    told = true;
    if (err) return answer(res, 502, { error: String(err.message) });
    answer(res, 200, { ...me, called: body });
  });
});
server.listen(Number(process.env.PORT), '127.0.0.1');
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  if (server.closeIdleConnections) server.closeIdleConnections();
});
