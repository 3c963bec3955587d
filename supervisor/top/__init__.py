"""`bkd top`: the status as a picture that stays on the terminal, and keys for what one does about it."""
