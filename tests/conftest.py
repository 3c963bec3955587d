"""What holds for all tests."""

import os

from hypothesis import settings

settings.register_profile("suite", max_examples=40)
settings.register_profile("thorough", max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
