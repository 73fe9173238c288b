// E2B's own examples, as the package that was installed carries them: each block of its README, unmodified but for the
// placeholder of the key. What a block's comments say that it prints is what it has to print.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";

const name = process.argv[2];
const readme = readFileSync(`node_modules/${name}/README.md`, "utf8");
const log = console.log;
let ran = 0;
for (const [, block] of readme.matchAll(/^```ts\n(.*?)^```/gms)) {
  const said = [...block.matchAll(/console\.log\(.*\)\s*\/\/ (?:outputs )?(.*)/g)].map(([, text]) => text);
  const file = `example-${name.replaceAll(/[^a-z0-9]/g, "-")}-${ran}.mjs`;
  writeFileSync(file, block.replaceAll("e2b_***", process.env.E2B_API_KEY));
  const printed = [];
  console.log = (...words) => printed.push(...words.join(" ").split("\n").filter((line) => line !== ""));
  try {
    await import(`${process.cwd()}/${file}`);
  } finally {
    console.log = log;
  }
  assert.deepEqual(printed, said, block);
  ran += 1;
}
assert.ok(ran >= 2, readme);
console.log("ok");
process.exit(0);
