"""`bkd doctor`: what a machine allows, and what an application does to a fork."""
