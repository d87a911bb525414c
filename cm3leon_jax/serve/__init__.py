"""The page to try a trained model on.

May import: api and everything below it. Gradio is imported inside `page` alone.
"""
