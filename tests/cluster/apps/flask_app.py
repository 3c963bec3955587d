"""The smallest Flask application."""

import os

from flask import Flask

app = Flask(__name__)


@app.get("/pid")
def pid():
    return str(os.getpid())
