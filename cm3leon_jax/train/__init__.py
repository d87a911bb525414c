"""What changes parameters: losses, optimizer, step, loop, checkpoints.

May import: floors 0 to 3.
"""
