"""What is done with an invoice after the page has answered."""

import asyncio

import msgspec

from bkd.workers import Context, Exponential, Reject, Snooze, handler


class Invoice(msgspec.Struct):
    number: int
    to: str


@handler(
    "invoice.send",
    stages=("send", "book"),
    retry=Exponential(first="1s", cap="1h", max_attempts=5),
    timeout="30s",
    lock=lambda args: f"invoice:{args.number}",
    notify="ops@example.org",
)
async def send_invoice(args: Invoice, context: Context) -> str:
    """Called once for each stage: a retry of "book" does not send a second letter."""
    if context.stage == "send":
        return await send(args, context)
    return await book(args, context)


async def send(args: Invoice, context: Context) -> str:
    if "@" not in args.to:
        raise Reject(f"{args.to} is no address")
    context.log.info("invoice {} goes to {}", args.number, args.to)
    await asyncio.sleep(0.1)
    return f"letter-{context.id}"


async def book(args: Invoice, context: Context) -> str:
    """The bookkeeping is away at the first attempt for invoices that end in 3."""
    if args.number % 10 == 3 and context.attempt == 1:
        raise ConnectionError("the bookkeeping does not answer")
    return f"{context.outputs['send']} is booked"


@handler("books.close", timeout="1h")
async def close_books(month: int, context: Context) -> int:
    """Keywords as arguments, progress for operators, and a wait that is no attempt."""
    if context.iteration == 0:
        return Snooze("2s", "the last letters are still on their way")
    for day in range(1, 31):
        context.progress({"month": month, "day": day})
        await asyncio.sleep(0.1)
    return 30
