// The same application for Node. A deploy appends lines; VERSION and startup are there to be overridden by them.
const http = require("node:http")

let VERSION = 1
let startup = async () => {}
const rows = []

if (process.env.BENCH_HEAVY === "1") {
  for (let number = 0; number < 200000; number++) rows.push([`customer ${number}`, number / 7, [number]])
  while (process.cpuUsage().user < 300000) Math.sqrt(rows.length)
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const block = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)

async function answer(path, ms) {
  if (path === "/version") return String(VERSION)
  if (path === "/slow") await pause(ms)
  if (path !== "/pid") return "hello"
  if (ms) block(ms)
  return String(process.pid)
}

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, "http://bench")
  const body = await answer(url.pathname, Number(url.searchParams.get("ms")))
  response.writeHead(200, { "content-type": "text/plain", "content-length": body.length })
  response.end(body)
})

process.on("SIGINT", () => server.close(() => process.exit(0))) // what pm2 asks of an application that stops gracefully
setImmediate(() => startup().then(() => server.listen(Number(process.env.BENCH_PORT), "127.0.0.1")))
