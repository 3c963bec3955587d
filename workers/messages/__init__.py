"""Durable messages in the processes of an application: handlers, the executor that runs them, and enqueueing."""
