// What the tests of the published SDK share: the server as a child process, a WebSocket for Node, waiting, tokens.

import { spawn } from 'node:child_process'
import { createHmac } from 'node:crypto'
import WebSocket from 'ws'

// The SDK expects the browser's global. Node has one of its own only from version 22 on.
globalThis.WebSocket = WebSocket

// The SDK tells every step; only what a test prints itself shall be seen.
for (const method of ['log', 'warn', 'error']) console[method] = () => {}

const { SyncKit } = await import('@synckit-js/sdk')

export const SECRET = 'a-secret-that-only-this-test-run-knows-0123456789'

const running = new Set()
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')))

/** Starts the server binary and resolves when its port is open. */
export function startServer({ port = 0, env = {} } = {}) {
  const binary = process.env.SYNCKIT_SERVER_BINARY
  if (!binary) throw new Error('SYNCKIT_SERVER_BINARY must name the server binary')
  const child = spawn(binary, ['--shards', '2'], {
    env: { PATH: process.env.PATH, HOST: '127.0.0.1', PORT: String(port), SYNCKIT_AUTH_REQUIRED: 'false', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.add(child)
  let log = ''
  const exited = new Promise((resolve) => child.once('exit', (code) => resolve(code)))
  exited.then(() => running.delete(child))
  return new Promise((resolve, reject) => {
    const collect = (data) => {
      log += data
      const found = log.match(/listening on 127\.0\.0\.1:(\d+)/)
      if (found) {
        const listening = Number(found[1])
        resolve({
          port: listening,
          url: `${env.TLS_CERT ? 'wss' : 'ws'}://127.0.0.1:${listening}/ws`,
          stop: (signal = 'SIGTERM') => (child.kill(signal), exited),
        })
      }
    }
    child.stdout.on('data', collect)
    child.stderr.on('data', collect)
    exited.then((code) => reject(new Error(`the server ended with ${code}:\n${log}`)))
    setTimeout(() => reject(new Error(`the server never said where it listens:\n${log}`)), 10_000).unref()
  })
}

/** An initialised SDK client with quick reconnects. */
export async function connect(url, clientId) {
  const kit = new SyncKit({
    serverUrl: url,
    storage: 'memory',
    clientId,
    network: { reconnect: { initialDelay: 100, maxDelay: 500 } },
  })
  await kit.init()
  return kit
}

/** A document of this client once the server has confirmed the subscription. */
export async function open(kit, id) {
  const document = kit.document(id)
  await until(`${id} is synced`, () => kit.getSyncState(id)?.state === 'synced')
  return document
}

/** Waits until the condition holds. */
export async function until(what, condition, patience = 15_000) {
  const deadline = Date.now() + patience
  for (;;) {
    if (await condition()) return
    if (Date.now() > deadline) throw new Error(`never happened: ${what}`)
    await pause(10)
  }
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** A RAW client in JSON: the fields the server holds. */
export async function serverState(url, documentId) {
  const socket = new WebSocket(url)
  const answer = new Promise((resolve, reject) => {
    socket.on('error', reject)
    socket.on('message', (data) => {
      const message = JSON.parse(data.toString())
      if (message.type === 'sync_response') resolve(message)
    })
  })
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  socket.send(JSON.stringify({ type: 'sync_request', id: 'state', timestamp: Date.now(), documentId }))
  const { state } = await answer
  socket.close()
  return state
}

/** A JWT for a user that may do everything. */
export function token(userId) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({
    userId,
    permissions: { canRead: ['*'], canWrite: ['*'], isAdmin: false },
    exp: Math.floor(Date.now() / 1000) + 3600,
  })}`
  return `${body}.${createHmac('sha256', SECRET).update(body).digest('base64url')}`
}
