"""Why messages cannot be handed to the dispatcher, in one line that says what to do."""

import os

SILENT = "the dispatcher did not answer; `bkd status` says how it and its store are"


def hindrance(path: str, error: OSError) -> str:
    """What it means that its socket at `path` cannot be connected to. Looks at the folder it should be in."""
    folder = os.path.dirname(path)
    if isinstance(error, FileNotFoundError):
        if os.path.lexists(os.path.join(folder, "control.sock")):
            return 'no group of this cluster runs messages: add one with kind = "messages", then `bkd reload`'
        return f"no cluster is running in {folder}: `bkd start` starts it"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens at {path} any more: `bkd start` starts the cluster"
    if isinstance(error, PermissionError):
        return f"{path} is not for this user: messages come from users of groups, from who started bkd, and from root"
    if isinstance(error, BlockingIOError):
        return SILENT
    return f"{path}: {error.strerror or error}"
