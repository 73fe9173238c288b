// E2B's SDK for JavaScript, unmodified: files, watches, metadata, links, ends and volumes as E2B's own server has them.
import assert from 'node:assert/strict'
import { FilesystemEventType, Sandbox, Volume } from 'e2b'

const sandbox = await Sandbox.create({ timeoutMs: 300_000 })
const { files } = sandbox

// A watch tells of the SDK's own writes, in their order.
await files.makeDir('watched')
const seen = []
const all = new Promise((resolve) => {
  files.watchDir('watched', (event) => {
    seen.push(`${event.type} ${event.name}`)
    if (event.name === 'last' && event.type === FilesystemEventType.WRITE) resolve()
  }).then(async () => {
    await files.write('watched/first', 'text')
    await files.write('watched/last', 'text')
  })
})
await all
assert.deepEqual(seen, ['create first', 'chmod first', 'write first', 'create last', 'chmod last', 'write last'])

// Metadata, large bodies of each kind, many files, owners.
const info = await files.write('m/x', 'text', { metadata: { Author: 'me' } })
assert.deepEqual(info.metadata, { author: 'me' })
assert.deepEqual((await files.getInfo('m/x')).metadata, { author: 'me' })
assert.equal((await files.write('m/x', 'text')).metadata, undefined)
const large = new Uint8Array(5 << 20).fill(7)
for (const body of [large.buffer, new Blob([large])]) {
  await files.write('large', body)
  assert.equal((await files.read('large', { format: 'bytes' })).length, large.length)
}
const wrote = await files.write([...Array(200).keys()].map((n) => ({ path: `many/${n}`, data: `${n}` })))
assert.equal(wrote.length, 200)
await files.write('/srv/a/b', 'x')
assert.equal((await files.getInfo('/srv/a')).owner, 'user')
await sandbox.commands.run('ln -s large link')
const link = await files.getInfo('link')
assert.deepEqual([link.symlinkTarget, link.permissions], ['/home/user/large', 'Lrwxrwxrwx'])

// Words.
await assert.rejects(files.read('/none'), /path '\/none' does not exist/)
await assert.rejects(files.list('/none'), /directory not found: lstat \/none: no such file or directory/)
await assert.rejects(files.read('x', { user: 'eve' }), /error looking up user 'eve'/)
await assert.rejects(sandbox.commands.run('kill -9 $$'), { exitCode: -1, error: 'signal: killed' })
await assert.rejects(sandbox.commands.run('true', { cwd: '/none' }), /cwd '\/none' does not exist/)

// A sandbox that ends while a command runs.
const command = await sandbox.commands.run('sleep 600', { background: true })
await sandbox.kill()
await assert.rejects(command.wait(), /sandbox was killed or reached its end of life/)

// Volumes.
process.env.E2B_VOLUME_API_URL = process.env.E2B_API_URL
const volume = await Volume.create(`content-${process.pid}`)
assert.equal((await volume.writeFile('/a/b', 'hi', { force: true, mode: 0o640 })).mode, 0o640)
assert.equal(await volume.readFile('/a/b'), 'hi')
assert.deepEqual((await volume.list('/a')).map((entry) => entry.path), ['/a/b'])
await volume.remove('/a')
assert.equal(await volume.exists('/a/b'), false)
await Volume.destroy(volume.volumeId)
console.log('ok')
process.exit(0)
