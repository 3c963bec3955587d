from flask import Flask, request


def create():
    app = Flask(__name__)

    @app.post("/echo")
    def echo():
        return request.get_data()

    @app.get("/")
    def index():
        return "flask"

    return app


app = create()
