"""One file a task: templates, examples of a row, the test-time prompt, the parser.

May import: floors 0 to 3.
"""
