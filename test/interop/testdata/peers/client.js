// A client in Node. node client.js MODE NAME=HOST:PORT/CASE,CASE… prints NAME/CASE COUNT for each, see matrix_test.go.
// MODE is http1 or http2.
'use strict';
const crypto = require('crypto');
const http = require('http');
const http2 = require('http2');

const LARGE = 4 << 20;

// One answer of HTTP/1.1: {status, headers, body, trailers, reused}.
function ask1(agent, addr, method, path, {headers = {}, parts = [], expect = false} = {}) {
  return new Promise((resolve, reject) => {
    const req = http.request({agent, host: addr.split(':')[0], port: addr.split(':')[1], method, path, headers});
    req.on('error', reject);
    req.on('response', (res) => {
      const got = [];
      res.on('data', (d) => got.push(d));
      res.on('error', reject);
      res.on('end', () => resolve({status: res.statusCode, headers: res.headers, body: Buffer.concat(got), trailers: res.trailers, reused: req.reusedSocket}));
    });
    const send = () => {
      for (const p of parts) req.write(p);
      req.end();
    };
    if (expect) {
      req.on('continue', send);
      req.flushHeaders();
    } else {
      send();
    }
  });
}

// The same over one HTTP/2 connection.
function ask2(session, addr, method, path, {headers = {}, parts = []} = {}) {
  return new Promise((resolve, reject) => {
    const req = session.request({':method': method, ':path': path, ...headers}, {endStream: parts.length === 0});
    let head = {};
    let trailers = {};
    const got = [];
    req.on('error', reject);
    req.on('response', (h) => { head = h; });
    req.on('trailers', (t) => { trailers = t; });
    req.on('data', (d) => got.push(d));
    req.on('end', () => resolve({status: head[':status'], headers: head, body: Buffer.concat(got), trailers, reused: true}));
    for (const p of parts) req.write(p);
    req.end();
  });
}

async function times(n, call) {
  let ok = 0;
  for (let i = 0; i < n; i++) if (await call(i)) ok++;
  return ok;
}

function good(r) {
  if (r.status !== 200) throw new Error(`status ${r.status}: ${r.body}`);
  return r;
}

const cases = (ask) => ({
  hello: () => times(20, async (i) => { const r = good(await ask('GET', '/hello')); return String(r.body) === 'hello' && (i === 0 || r.reused); }),
  echo: () => times(10, async () => String(good(await ask('POST', '/echo', {headers: {'content-length': 5000}, parts: ['x'.repeat(5000)]})).body) === 'x'.repeat(5000)),
  chunkedecho: () => times(10, async () => String(good(await ask('POST', '/echo', {parts: Array(5).fill('x'.repeat(700))})).body) === 'x'.repeat(3500)),
  chunked: () => times(10, async () => good(await ask('GET', '/chunked?n=7')).body.length === 7000),
  large: () => times(2, async (i) => {
    if (!i) return good(await ask('GET', `/large?n=${LARGE}`)).body.length === LARGE;
    const body = crypto.randomBytes(LARGE);
    return good(await ask('POST', '/echo', {parts: [body]})).body.equals(body);
  }),
  head: () => times(5, async () => { const r = good(await ask('HEAD', '/large?n=12345')); return r.headers['content-length'] === '12345' && r.body.length === 0; }),
  trailers: () => times(10, async () => { const r = good(await ask('GET', '/trailers', {headers: {te: 'trailers'}})); return String(r.body) === 'body' && r.trailers['x-sum'] === '42'; }),
  expect: () => times(5, async () => String(good(await ask('POST', '/echo', {headers: {expect: '100-continue', 'content-length': 5}, parts: ['12345'], expect: true})).body) === '12345'),
});

// Node's own client where it has one (22, or with its flag before), else the upgrade by hand.
function websocket(addr) {
  if (typeof WebSocket === 'function') {
    return new Promise((resolve, reject) => {
      const ws = new WebSocket(`ws://${addr}/ws`);
      let ok = 0;
      ws.onerror = (e) => reject(new Error(e.message || 'error'));
      ws.onopen = () => ws.send('message 0');
      ws.onmessage = (m) => {
        if (m.data === `message ${ok}`) ok++;
        if (ok < 10) return ws.send(`message ${ok}`);
        ws.close();
        return undefined;
      };
      ws.onclose = () => resolve(ok);
    });
  }
  return new Promise((resolve, reject) => {
    const req = http.request({host: addr.split(':')[0], port: addr.split(':')[1], path: '/ws', headers: {
      connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': 13, 'sec-websocket-key': crypto.randomBytes(16).toString('base64')}});
    req.on('error', reject);
    req.on('response', (res) => reject(new Error(`status ${res.statusCode}`)));
    req.on('upgrade', (res, socket) => {
      let ok = 0;
      const send = () => {
        const text = Buffer.from(`message ${ok}`);
        socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), text]));
      };
      socket.on('data', (d) => {
        if (d.subarray(2).toString() === `message ${ok}`) ok++;
        if (ok < 10) return send();
        socket.end();
        return resolve(ok);
      });
      socket.on('close', () => resolve(ok));
      send();
    });
    req.end();
  });
}

async function main() {
  const mode = process.argv[2];
  for (const arg of process.argv.slice(3)) {
    const [, name, addr, names] = arg.match(/^(.*?)=(.*?)\/(.*)$/);
    const agent = new http.Agent({keepAlive: true, maxSockets: 1});
    const session = mode === 'http2' ? http2.connect(`http://${addr}`) : null;
    if (session) session.on('error', (e) => console.log(`${name}/session failed: ${e}`));
    const all = cases(session ? (...a) => ask2(session, addr, ...a) : (...a) => ask1(agent, addr, ...a));
    all.websocket = () => websocket(addr);
    for (const c of names.split(',')) {
      try {
        console.log(`${name}/${c} ${await all[c]()}`);
      } catch (e) {
        console.log(`${name}/${c} failed: ${e.message}`);
      }
    }
    agent.destroy();
    if (session) session.close();
  }
}

// The ends of sockets that the other side has not closed yet are not waited for.
main().then(() => process.exit());
