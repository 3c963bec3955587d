"""An application that is told when the configuration has changed."""

from versioned import app as app

from bkd.ipc import ipc


@ipc.on("config:init")
async def changed(message):
    print("changed", *message.data["changed"], flush=True)
