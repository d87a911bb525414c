"""What people hold on disk, a file a format.

May import: floors 0 to 4.
"""
