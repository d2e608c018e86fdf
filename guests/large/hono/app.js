// Hono on a handler of wasi:http 0.2: it is called for each request, as a fetch event.
import { Hono } from 'hono'

let count = 0

const app = new Hono()
  .get('/', (c) => c.text('Hello\n'))
  .get('/hello', (c) => c.text('Hello\n'))
  .post('/hello', async (c) => c.text(`👋 Hello ${await c.req.text()}\n`))
  .post('/echo', (c) => c.body(c.req.raw.body))
  .get('/json', (c) => c.json({ name: c.req.query('name') ?? 'nobody' }))
  .get('/count', (c) => c.text(`${++count}\n`))
  .get('/sleep', async (c) => {
    const ms = Number(c.req.query('ms') ?? 100)
    await new Promise((wake) => setTimeout(wake, ms))
    return c.text(`slept ${ms}\n`)
  })
  .get('/fetch', async (c) => {
    try {
      const response = await fetch(c.req.query('url'))
      return c.body(response.body, response.status)
    } catch (error) {
      return c.text(`${error}\n`, 502)
    }
  })

addEventListener('fetch', (event) => event.respondWith(app.fetch(event.request)))
