// The published SDK as it is over wss://, against the real server with a certificate that an authority of this test signed.
// Node was told of the authority (NODE_EXTRA_CA_CERTS); whoever was not refuses the server.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import WebSocket from 'ws'
import { SECRET, connect, open, serverState, startServer, token, until } from './support.mjs'

const { TLS_CERT, TLS_KEY } = process.env
const kits = []
let server

async function client(id) {
  const kit = await connect(`${server.url}?token=${token(id)}`, id)
  kits.push(kit)
  return kit
}

before(async () => {
  server = await startServer({ env: { TLS_CERT, TLS_KEY, SYNCKIT_AUTH_REQUIRED: 'true', JWT_SECRET: SECRET } })
})

after(async () => {
  kits.forEach((kit) => kit.dispose())
  await server.stop()
  setTimeout(() => process.exit(), 500).unref()
})

test('two clients converge over TLS', async () => {
  assert.match(server.url, /^wss:/)
  const [ann, bob] = [await client('client-ann'), await client('client-bob')]
  const [hers, his] = [await open(ann, 'js:tls'), await open(bob, 'js:tls')]
  await hers.update({ a: 1, long: 'ä'.repeat(40_000) })
  await until('her edit arrives', () => Object.keys(his.get()).length === 2)
  await his.set('b', 2)
  await until('his edit arrives', () => hers.getField('b') === 2)
  assert.deepEqual(his.get(), hers.get())
  assert.deepEqual(await serverState(`${server.url}?token=${token('reader')}`, 'js:tls'), hers.get())
})

test('who does not know the authority refuses the server', async () => {
  const refusal = new Promise((resolve, reject) => {
    const socket = new WebSocket(server.url, { ca: [] })
    socket.once('open', () => reject(new Error('it was believed')))
    socket.once('error', resolve)
  })
  assert.match((await refusal).code, /UNABLE_TO_VERIFY_LEAF_SIGNATURE|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_GET_ISSUER_CERT/)
})

test('plain WebSockets are refused at a TLS port', async () => {
  const refusal = new Promise((resolve, reject) => {
    const socket = new WebSocket(server.url.replace('wss:', 'ws:'))
    socket.once('open', () => reject(new Error('it opened')))
    socket.once('error', resolve)
  })
  assert.match((await refusal).message, /400/)
})
