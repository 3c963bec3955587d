"""Raw redis-py: `PORT work` hears, handles and acknowledges; `PORT ROUNDS WORKERS` measures.

Prints figures as JSON.
"""

import json
import sys
import time

import msgspec
import redis

HOST, CHANNEL, PAUSE, LIMIT = "127.0.0.1", "change", 0.05, 5
DATA = {"sku": 7, "text": "x" * 60}


def work(port: int) -> None:
    client, listener = redis.Redis(HOST, port), redis.Redis(HOST, port).pubsub(ignore_subscribe_messages=True)
    listener.subscribe(CHANNEL)
    for message in listener.listen():
        order = msgspec.msgpack.decode(message["data"])
        client.lpush(order["reply"], len(order["data"]["text"]))


def ask(port: int, rounds: int, workers: int) -> None:
    client = redis.Redis(HOST, port)
    while client.pubsub_numsub(CHANNEL)[0][1] < workers:
        time.sleep(0.1)
    took = [one_round(client, number, workers) for number in range(rounds + 1)]
    print(json.dumps({"all have answered, ms": took[1:]}))


def one_round(client: redis.Redis, number: int, workers: int) -> float:
    time.sleep(PAUSE)
    since, reply = time.monotonic(), f"reply:{number}"
    client.publish(CHANNEL, msgspec.msgpack.encode({"reply": reply, "data": DATA}))
    answered = 0
    while answered < workers:
        if client.blpop(reply, LIMIT) is None:
            raise RuntimeError(f"{answered} of {workers} answered")
        answered += 1 + len(client.lpop(reply, workers) or ())
    return 1000 * (time.monotonic() - since)


if __name__ == "__main__":
    if sys.argv[2] == "work":
        work(int(sys.argv[1]))
    else:
        ask(*map(int, sys.argv[1:]))
