"""uvicorn's own supervisor with a single worker (its command line runs none for one): PORT HEALTHCHECK_SECONDS"""

import sys

import uvicorn
from uvicorn.supervisors import Multiprocess

if __name__ == "__main__":
    config = uvicorn.Config("asgi_app:app", port=int(sys.argv[1]), access_log=False)
    config.timeout_worker_healthcheck = int(sys.argv[2])
    Multiprocess(config, sockets=[config.bind_socket()]).run()
