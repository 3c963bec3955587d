"""Takes invoices to be sent, and says how they stand. Plain ASGI, no framework."""

import json

from bkd.ipc.errors import BkdError
from bkd.workers import end_of, enqueue

WAIT = 5.0


async def app(scope, receive, send):
    """POST /invoices stores a message; GET /invoices/NUMBER waits for its end, at most for WAIT seconds."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    path = scope["path"].rstrip("/")
    try:
        if scope["method"] == "POST" and path == "/invoices":
            await respond(send, 202, await take(json.loads(await body(receive))))
        elif path.startswith("/invoices/"):
            await respond(send, 200, await look(int(path.rpartition("/")[2])))
        else:
            await respond(send, 404, {"error": "POST /invoices, GET /invoices/NUMBER"})
    except (BkdError, ValueError, KeyError) as error:
        await respond(send, 400, {"error": str(error)})


async def take(invoice):
    """Stored when this returns. The same invoice twice is one message, whoever asks how often."""
    receipt = await enqueue("invoice.send", invoice, key=f"invoice:{invoice['number']}")
    return {"message": receipt.id, "new": receipt.created}


async def look(message):
    end = await end_of(message, within=WAIT)
    return {"message": message, "state": end.state, "result": end.result}


async def body(receive):
    parts = []
    while True:
        event = await receive()
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


async def respond(send, status, document):
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(document).encode() + b"\n"})
