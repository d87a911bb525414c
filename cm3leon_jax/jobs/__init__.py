"""The wiring: each module is run(config, workdir). The only readers of a ConfigDict.

May import: floors 0 to 8.
"""
