"""What the masters of one application say to each other, over any bus."""
