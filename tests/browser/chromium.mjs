// One Chromium without a window, and in it one page: what a test does with it over standard streams.

import puppeteer from 'puppeteer-core'
import { answerCalls } from '../js_process.mjs'

const TIMEOUT_MS = Number(process.env.TIMEOUT_MS)

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM,
  // As root Chromium refuses to start with its own sandbox; nothing but loopback is opened here.
  args: process.getuid() === 0 ? ['--no-sandbox'] : []
})
let page
const errors = []

async function open ({ url }) {
  await page?.close()
  page = await browser.newPage()
  page.setDefaultTimeout(TIMEOUT_MS)
  page.on('pageerror', (error) => errors.push(error.message))
  page.on('console', (message) => { if (message.type() === 'error') errors.push(message.text()) })
  await page.goto(url)
}

const operations = {
  open,
  // A JavaScript expression that has to become true.
  wait: async ({ expression }) => { await page.waitForFunction(expression) },
  evaluate: async ({ expression }) => page.evaluate(expression),
  click: async ({ selector, index = 0 }) => {
    await page.waitForSelector(selector)
    await (await page.$$(selector))[index].click()
  },
  type: async ({ selector, text }) => page.type(selector, text),
  picture: async ({ path }) => { await page.screenshot({ path, fullPage: true }) },
  errors: async () => errors
}

await answerCalls({ browser: await browser.version() }, operations)
await browser.close()
process.exit(0)
