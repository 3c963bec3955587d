"""An application with a thread that was started at import."""

import threading

from shop import app as app

threading.Thread(target=threading.Event().wait, name="watcher", daemon=True).start()
