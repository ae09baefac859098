// Calls of a test over standard streams: a JSON object a line each way. The other side is tests/js_process.py.

import { createInterface } from 'node:readline'

const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')

/** Say `first`, then answer calls of `operations` (name to async function) until standard input ends. */
export async function answerCalls (first, operations) {
  say(first)
  for await (const line of createInterface({ input: process.stdin })) {
    const { id, op, ...input } = JSON.parse(line)
    operations[op](input).then(
      (result) => say({ id, ok: true, result: result ?? null }),
      (error) => say({ id, ok: false, error: `${error.name}: ${error.message}` })
    )
  }
}
