"""uvicorn on an inherited socket, for supervisord and circus: python serve_fd.py FD

`uvicorn --fd` takes the descriptor for a unix socket and never sets TCP_NODELAY: kept connections stall for 40 ms.
"""

import socket
import sys

import uvicorn

server = uvicorn.Server(uvicorn.Config("asgi_app:app", access_log=False))
server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
sys.exit(0 if server.started else 3)
