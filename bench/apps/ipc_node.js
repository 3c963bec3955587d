// A process of Node and its child, by `process.send`: TRIPS SENDS BATCHES. Prints figures as JSON.
const { fork } = require("node:child_process");
const [trips, sends, batches] = process.argv.slice(2, 5).map(Number);
const data = "x".repeat(100);

function answers() {
  let notes = 0;
  process.on("message", (message) => {
    if (message.op === "echo") process.send(message);
    else if (++notes % sends === 0) process.send({ op: "done" });
  });
}

async function asks() {
  const child = fork(__filename, process.argv.slice(2), { serialization: process.env.BENCH_SERIALIZATION });
  const since = (start) => Number(process.hrtime.bigint() - start) / 1e9;
  const figures = { "round trips/s": [], "one way/s": [] };
  for (let batch = 0; batch < batches; batch++) {
    const start = process.hrtime.bigint();
    await new Promise((done) => {
      let left = trips;
      child.removeAllListeners("message");
      child.on("message", () => (--left ? child.send({ id: left, op: "echo", data }) : done()));
      child.send({ id: left, op: "echo", data });
    });
    figures["round trips/s"].push(trips / since(start));
  }
  for (let batch = 0; batch < batches; batch++) {
    const start = process.hrtime.bigint();
    await new Promise((done) => {
      let sent = 0;
      child.removeAllListeners("message");
      child.on("message", done);
      // in portions, as a program that minds what is unsent does
      (function more() {
        for (let i = 0; i < 500 && sent < sends; i++, sent++) child.send({ id: sent, op: "note", data });
        if (sent < sends) setImmediate(more);
      })();
    });
    figures["one way/s"].push(sends / since(start));
  }
  console.log(JSON.stringify(figures));
  child.disconnect();
}

if (process.send) answers();
else asks();
