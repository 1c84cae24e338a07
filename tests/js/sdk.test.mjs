// The published SDK (@synckit-js/sdk) as it is, against the real server. Version 0.1.1 has documents, but neither text
// nor presence, and it takes only the clock out of a snapshot, not the state.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import WebSocket from 'ws'
import { SECRET, connect, open, pause, serverState, startServer, token, until } from './support.mjs'

let server
const kits = []

async function client(url, id) {
  const kit = await connect(url, id)
  kits.push(kit)
  return kit
}

before(async () => {
  server = await startServer({ env: { SYNCKIT_MAX_MESSAGES_PER_MINUTE: '0' } })
})

after(async () => {
  kits.forEach((kit) => kit.dispose())
  await server.stop()
  // The SDK keeps polling for acknowledgements and reconnects; nothing of that matters any more.
  setTimeout(() => process.exit(), 500).unref()
})

test('a change is acknowledged and reaches the other client exactly', async () => {
  const [ann, bob] = [await client(server.url, 'client-ann'), await client(server.url, 'client-bob')]
  const [hers, his] = [await open(ann, 'js:values'), await open(bob, 'js:values')]
  const values = {
    text: 'häßlich 👋🏽', zero: 0, no: false, empty: '', nothing: null, nested: { a: [1, { b: null }] }, pi: 3.14159,
  }
  for (const [field, value] of Object.entries(values)) await hers.set(field, value)
  await until('everything has arrived', () => Object.keys(values).every((field) => field in his.get()))
  assert.deepEqual(his.get(), values)
  assert.deepEqual(hers.get(), values)
  assert.deepEqual(await serverState(server.url, 'js:values'), values)
})

test('two clients that edit the same fields converge with the server', async () => {
  const [ann, bob] = [await client(server.url, 'client-one'), await client(server.url, 'client-two')]
  const [hers, his] = [await open(ann, 'js:race'), await open(bob, 'js:race')]
  const edit = async (document, who) => {
    for (let step = 0; step < 15; step++) {
      document.set(`field${step % 3}`, `${who} ${step}`).catch(() => {})
      await pause(Math.random() * 20)
    }
  }
  await Promise.all([edit(hers, 'ann'), edit(his, 'bob')])
  let state
  await until('all three are equal', async () => {
    state = await serverState(server.url, 'js:race')
    const copies = [hers.get(), his.get()].map((copy) => JSON.stringify(Object.entries(copy).sort()))
    return copies.every((copy) => copy === JSON.stringify(Object.entries(state).sort()))
  })
  assert.equal(Object.keys(state).length, 3)
})

test('a late joiner gets the snapshot, later edits, and its own edits win', async () => {
  const early = await client(server.url, 'client-early')
  const first = await open(early, 'js:late')
  await first.set('title', 'before')
  await first.set('kept', 1)

  const snapshots = []
  const Plain = globalThis.WebSocket
  globalThis.WebSocket = class extends WebSocket {
    constructor(...args) {
      super(...args)
      this.on('message', (data) => {
        const bytes = Buffer.from(data)
        if (bytes[0] === 0x13) snapshots.push(JSON.parse(bytes.subarray(13).toString()))
      })
    }
  }
  const late = await client(server.url, 'client-late')
  globalThis.WebSocket = Plain
  const second = await open(late, 'js:late')
  assert.deepEqual(snapshots[0].state, { title: 'before', kept: 1 })
  assert.ok(Number.isInteger(snapshots[0].clock.server))

  await first.set('kept', 2)
  await until('a later edit arrives', () => second.getField('kept') === 2)
  await second.set('title', 'by the late joiner')
  await until('the edit of the late joiner wins', () => first.getField('title') === 'by the late joiner')
  assert.equal(second.getField('title'), 'by the late joiner')
})

test('update() sends several fields, another document stays apart', async () => {
  const [ann, bob] = [await client(server.url, 'client-a3'), await client(server.url, 'client-b3')]
  const [hers, his, other] = [await open(ann, 'js:many'), await open(bob, 'js:many'), await open(bob, 'js:other')]
  await hers.update({ a: 1, b: 2, c: 3 })
  await until('all fields arrive', () => Object.keys(his.get()).length === 3)
  assert.deepEqual(his.get(), { a: 1, b: 2, c: 3 })
  assert.deepEqual(other.get(), {})
})

test('presence of newer clients does not disturb the old SDK', async () => {
  const ann = await client(server.url, 'client-a4')
  const hers = await open(ann, 'js:presence')
  await hers.set('a', 1)
  const newer = new WebSocket(server.url)
  await new Promise((resolve) => newer.once('open', resolve))
  const say = (message) => newer.send(JSON.stringify({ id: 'x', timestamp: Date.now(), documentId: 'js:presence', ...message }))
  say({ type: 'awareness_update', clientId: 'newer', state: { cursor: 1 }, clock: 1 })
  say({ type: 'delta', delta: { b: 2 } })
  await until('the write arrives', () => hers.getField('b') === 2)
  assert.equal(ann.getNetworkStatus().connectionState, 'connected')
  newer.close()
})

test('clients come back after a restart and bring what was edited meanwhile', async () => {
  const own = await startServer()
  const [ann, bob] = [await client(own.url, 'client-a5'), await client(own.url, 'client-b5')]
  const [hers, his] = [await open(ann, 'js:restart'), await open(bob, 'js:restart')]
  await hers.set('before', 1)
  await until('the first edit arrives', () => his.getField('before') === 1)

  assert.equal(await own.stop(), 0, 'a clean exit')
  await until('both have noticed', () => [ann, bob].every((kit) => kit.getNetworkStatus().connectionState !== 'connected'))
  await hers.set('meanwhile', 2)
  const again = await startServer({ port: own.port })
  // This SDK ignores the state of a snapshot, so whether the other client learns of the offline edit depends on who was
  // back first. The server must have it, and edits made from now on must flow both ways.
  await until('the offline edit arrives', async () => (await serverState(own.url, 'js:restart')).meanwhile === 2, 30_000)
  await until('both are back', () => [ann, bob].every((kit) => kit.getSyncState('js:restart').state === 'synced'))
  // Fields of their own: for a field that only the lost memory of the old server knew, this SDK keeps the old stamp.
  await his.set('his', 3)
  await until('his edit arrives', () => hers.getField('his') === 3)
  await hers.set('hers', 4)
  await until('her edit arrives', () => his.getField('hers') === 4)
  assert.deepEqual([his.getField('his'), hers.getField('hers')], [3, 4])
  for (const kit of [ann, bob]) kit.dispose()
  await again.stop()
})

test('a token in the URL opens a server that requires authentication', async () => {
  const closed = await startServer({ env: { SYNCKIT_AUTH_REQUIRED: 'true', JWT_SECRET: SECRET } })
  const url = (user) => `${closed.url}?token=${token(user)}`
  const [ann, bob] = [await client(url('ann'), 'client-a6'), await client(url('bob'), 'client-b6')]
  const [hers, his] = [await open(ann, 'js:closed'), await open(bob, 'js:closed')]
  await hers.set('a', 1)
  await until('it arrives', () => his.getField('a') === 1)
  for (const kit of [ann, bob]) kit.dispose()
  await closed.stop()
})
