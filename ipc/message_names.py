"""The few names that a client without msgspec needs; `message` has the types."""

VERSION = 1
HELLO = "hello"
REFUSED = "refused"
COMMAND = "command:run"
PROGRESS = "command:progress"
FINISHED = "command:finished"
