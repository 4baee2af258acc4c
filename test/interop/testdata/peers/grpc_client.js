// gRPC in Node, @grpc/grpc-js. node grpc_client.js HOST:PORT calls gRPC's interop server, and prints CASE COUNT for each.
// Messages are written by hand (fields of grpc.testing): no generated code is needed.
'use strict';
const grpc = require('@grpc/grpc-js');

const same = (b) => b;
const service = '/grpc.testing.TestService/';
const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const deadline = () => ({deadline: Date.now() + 60000});

function varint(n) {
  const out = [];
  for (; n > 127; n = Math.floor(n / 128)) out.push((n & 127) | 128);
  return Buffer.from([...out, n]);
}
const field = (number, body) => Buffer.concat([Buffer.from([(number << 3) | 2]), varint(body.length), body]);
const output = (size) => field(2, Buffer.concat([Buffer.from([8]), varint(size)]));

function unary(method, body, metadata = new grpc.Metadata(), options = deadline()) {
  return new Promise((resolve) => {
    const got = {};
    const call = client.makeUnaryRequest(method, same, same, body, metadata, options, (err, m) => { got.code = err ? err.code : 0; got.message = m; });
    call.on('metadata', (m) => { got.head = m; });
    call.on('status', (s) => { got.trailers = s.metadata; setImmediate(() => resolve(got)); });
  });
}

function stream(method, bodies, options = deadline()) {
  return new Promise((resolve) => {
    const got = {messages: [], code: 0};
    const call = client.makeBidiStreamRequest(method, same, same, new grpc.Metadata(), options);
    call.on('data', (m) => got.messages.push(m));
    call.on('error', () => {});
    call.on('status', (s) => { got.code = s.code; resolve(got); });
    for (const b of bodies) call.write(b);
    call.end();
  });
}

async function times(n, call) {
  let ok = 0;
  for (let i = 0; i < n; i++) ok += (await call()) ? 1 : 0;
  return ok;
}

async function main() {
  const none = Buffer.alloc(0);
  const status = field(7, Buffer.concat([Buffer.from([8, 2]), field(2, Buffer.from('test status message'))]));
  console.log('empty', await times(20, async () => (await unary(service + 'EmptyCall', none)).code === 0));
  console.log('unary', await times(10, async () => (await unary(service + 'UnaryCall', Buffer.concat([Buffer.from([16]), varint(30000)]))).message.length > 30000));
  console.log('output', (await stream(service + 'StreamingOutputCall', [Buffer.concat(Array(12).fill(output(1000)))])).messages.filter((m) => m.length > 1000).length);
  console.log('input', await times(3, async () => (await stream(service + 'StreamingInputCall', Array(7).fill(field(1, field(2, Buffer.alloc(100)))))).messages[0].equals(Buffer.concat([Buffer.from([8]), varint(700)]))));
  console.log('duplex', (await stream(service + 'FullDuplexCall', Array(9).fill(output(500)))).messages.filter((m) => m.length > 500).length);
  console.log('status', await times(4, async () => (await unary(service + 'UnaryCall', status)).code === grpc.status.UNKNOWN));
  const slow = field(2, Buffer.concat([Buffer.from([8, 1, 16]), varint(60000000)]));
  console.log('deadline', await times(2, async () => (await stream(service + 'FullDuplexCall', [slow], {deadline: Date.now() + 200})).code === grpc.status.DEADLINE_EXCEEDED));
  const metadata = new grpc.Metadata();
  metadata.set('x-grpc-test-echo-initial', 'first');
  metadata.set('x-grpc-test-echo-trailing-bin', Buffer.from([0xab, 0xab]));
  const got = await unary(service + 'UnaryCall', none, metadata);
  console.log('metadata', (got.head.get('x-grpc-test-echo-initial')[0] === 'first') + (got.trailers.get('x-grpc-test-echo-trailing-bin')[0].equals(Buffer.from([0xab, 0xab]))));
  console.log('unimplemented', await times(2, async () => (await unary('/grpc.testing.No/Such', none)).code === grpc.status.UNIMPLEMENTED));
  client.close();
}

main();
