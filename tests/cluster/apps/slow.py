"""Takes as many seconds to import as SLOW says."""

import os
import time

from shop import app as app

time.sleep(float(os.environ["SLOW"]))
