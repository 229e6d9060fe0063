"""The demo photos, which are drawn.

For the stage `demo`. It writes `data/demo/images/`, and no other package uses it.
"""
