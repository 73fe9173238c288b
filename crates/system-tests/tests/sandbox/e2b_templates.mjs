// E2B's SDK for JavaScript, unmodified: templates that are built step by step, found again by layer, tagged and started.
import assert from 'node:assert/strict'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Sandbox, Template, waitForFile } from 'e2b'

const context = fs.mkdtempSync(path.join(os.tmpdir(), 'mote-'))
fs.mkdirSync(path.join(context, 'src'))
fs.writeFileSync(path.join(context, 'src', 'main.sh'), 'echo main\n')
fs.writeFileSync(path.join(context, 'src', 'left.log'), 'left out\n')
fs.writeFileSync(path.join(context, 'package.json'), '{}\n')

const build = async (template, name, options = {}) => {
  const lines = []
  const info = await Template.build(template, name, { onBuildLogs: (entry) => lines.push(entry.message), ...options })
  return [info, lines]
}
const cached = (lines) =>
  lines.filter((line) => /^(CACHED )?\[builder \d+\/\d+\] [A-Z]/.test(line)).map((line) => line.startsWith('CACHED '))

const application = (last = 'echo three > three') =>
  Template({ fileContextPath: context, fileIgnorePatterns: ['*.log', '**/*.log'] })
    .fromBaseImage()
    .setEnvs({ KIND: 'javascript' })
    .setWorkdir('/srv/js')
    .copy('src', 'src')
    .copyItems([{ src: 'package.json', dest: '/opt/', user: 'root', mode: 0o600 }])
    .runCmd(['sh src/main.sh > ran', 'echo $KIND >> ran'])
    .runCmd('id -un > /opt/whose', { user: 'root' })
    .makeDir('made')
    .remove('src/main.sh')
    .runCmd(last)

const [info, first] = await build(application(), 'js-app:v1', { cpuCount: 1, memoryMB: 512 })
assert.deepEqual(info.tags, ['v1'])
assert.equal(cached(first).length, 9, first.join('\n'))
assert.ok(cached(first).every((is) => !is), first.join('\n'))
const sandbox = await Sandbox.create('js-app:v1', { timeoutMs: 300_000 })
const run = async (line, options) => (await sandbox.commands.run(line, options)).stdout
assert.equal(await run('pwd; cat ran three; ls src | wc -l'), '/srv/js\nmain\njavascript\nthree\n0\n')
assert.equal(await run("stat -c '%U %a' /opt/package.json; cat /opt/whose", { user: 'root' }), 'root 600\nroot\n')
assert.equal(await run('echo $KIND $(id -un)'), 'javascript user\n')
await sandbox.kill()

const [, again] = await build(application(), 'js-app:v1')
assert.ok(cached(again).every((is) => is), again.join('\n'))
const [, changed] = await build(application('echo drei > three'), 'js-app', { tags: ['v2', 'latest'] })
assert.deepEqual(cached(changed), [...Array(8).fill(true), false], changed.join('\n'))
assert.deepEqual((await Template.getTags('js-app')).map((tag) => tag.tag).sort(), ['latest', 'v1', 'v2'])
await Template.assignTags('js-app:v2', 'stable')
assert.ok(await Template.exists('js-app'))
const stable = await Sandbox.create('js-app:stable', { timeoutMs: 60_000 })
assert.equal((await stable.commands.run('cat three')).stdout, 'drei\n')
await stable.kill()
await Template.removeTags('js-app', ['stable', 'latest'])
await assert.rejects(Sandbox.create('js-app:stable', { timeoutMs: 60_000 }), /stable/)

// A step that fails, in the background.
const broken = Template().fromTemplate('js-app:v1').runCmd('echo before').runCmd('echo why >&2; exit 7')
await assert.rejects(build(broken, 'js-broken'), /exit status 7/)
const background = await Template.buildInBackground(broken, 'js-broken')
let status
do {
  status = await Template.getBuildStatus(background, { logsOffset: 0 })
} while (['waiting', 'building'].includes(status.status))
assert.equal(status.status, 'error')
assert.equal(status.reason.step, '2')
assert.match(status.reason.message, /exit status 7/)
assert.ok(status.reason.logEntries.some((entry) => entry.message.endsWith('[stderr]: why')), JSON.stringify(status.reason))

// A start command runs in every sandbox before it is handed out.
const started = Template().fromTemplate('js-app:v1').setStartCmd('echo $KIND > /tmp/started; sleep infinity', waitForFile('/tmp/started'))
await build(started, 'js-started')
const handed = await Sandbox.create('js-started', { timeoutMs: 60_000 })
assert.equal((await handed.commands.run('cat /tmp/started; pgrep -c sleep')).stdout, 'javascript\n1\n')
await handed.kill()
console.log('ok')
