"""An executor in a real process, and a dispatcher in the test that hides nothing."""
